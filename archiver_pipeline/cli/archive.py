"""Drains tables window by window, each range of windows one recorded Dagster run."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import dagster as dg

from archiver_pipeline.cli.console import warn
from archiver_pipeline.cli.progress import RunListener
from archiver_pipeline.cli.untold import tell_of_dead_run, telling_of_failed_runs
from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.alert import Activity
from archiver_pipeline.domain.batch_size import DeletePace
from archiver_pipeline.domain.windows import Window
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.inventory import DateRange, due_windows
from archiver_pipeline.engine.recording import record_refusal
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.orchestration import alert_messages as messages
from archiver_pipeline.orchestration.alert_messages import RunPlace
from archiver_pipeline.orchestration.alerting import Alerts, this_host
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.history import Failure
from archiver_pipeline.orchestration.launch import (
    close_dead_runs,
    open_instance,
    ranges_of,
    run_windows_in_process,
)
from archiver_pipeline.postgres.catalog import inspect_table, table_name
from archiver_pipeline.postgres.connection import source_errors


class ExitCode(IntEnum):
    """What a run ends with when no single kind of error decides."""

    all_good = 0
    partial = 1
    failed = 2


def archive_tables(
    loaded: LoadedConfig,
    tables: tuple[TableSettings, ...],
    dates: DateRange,
    listener: RunListener,
    *,
    limit_rows: int | None = None,
    direct: bool = False,
    log_level: str = "CRITICAL",
    ignore_hours: bool = False,
) -> None:
    """Archive every window of the tables that is due. Reports and errors go to the listener; one table's error does
    not stop the others. `direct` calls the engine without Dagster."""
    with recorded_in(loaded, direct=direct) as instance:
        definitions = build_definitions(loaded, progress=lambda: listener)
        for settings in tables:
            _Drain(loaded, settings, dates, listener, definitions, instance, limit_rows, log_level, ignore_hours).run()
            listener.table_finished(table_name(settings))


def exit_code(listener: RunListener, tables: int, *, is_limited: bool) -> int:
    """The code of the single kind of error, else partial or failed; rows left behind are partial unless asked for,
    and so are those that are due and left alone at this hour."""
    codes = {error.exit_code for _, error in listener.errors}
    failed = len({name for name, _ in listener.errors})
    if failed == 0 and (listener.closed or any(report.kept for report in listener.reports)):
        return ExitCode.partial
    if failed == 0:
        left_behind = any(report.left_behind_rows for report in listener.reports if not report.truncated)
        return ExitCode.partial if left_behind and not is_limited else ExitCode.all_good
    if failed < tables:
        return ExitCode.partial
    return codes.pop() if len(codes) == 1 else ExitCode.failed


@dataclass(frozen=True, slots=True)
class _Drain:
    """One table's way from its oldest eligible window to the last."""

    loaded: LoadedConfig
    settings: TableSettings
    dates: DateRange
    listener: RunListener
    definitions: dg.Definitions
    instance: dg.DagsterInstance | None
    limit_rows: int | None
    log_level: str
    ignore_hours: bool

    def run(self) -> None:
        try:
            for windows in self._ranges():
                if not self._archive(windows):
                    return
        except ArchiverError as error:
            record_refusal(self._session(), error)
            self.listener.fail(self._session().name, error)
            self._tell(error)

    def _tell(self, error: ArchiverError) -> None:
        """Alert of an error outside of Dagster's runs: those tell of themselves."""
        name, kind = self._session().name, type(error).__name__
        if self.instance is None:
            failure = Failure(kind, str(error), None)
            alert = messages.failed(Activity.archive, name, failure, RunPlace(host=this_host()))
        else:
            alert = messages.could_not_look(name, kind, str(error))
        alerts = Alerts(self.loaded.notifications)
        if alerts.enabled:
            alerts.tell(self.instance, alert)

    def _ranges(self) -> Iterator[list[Window]]:
        session = self._session()
        with contextlib.closing(session):
            session.store.require_bucket()
            with source_errors(session.primary):
                shape = inspect_table(session.connection, self.settings)
            for windows in ranges_of(due_windows(session, shape, self.dates)):
                if closed := session.throttle.closed(shape, ignore_hours=self.ignore_hours):
                    self.listener.close_hours(session.name, str(closed))
                    return
                yield windows

    def _archive(self, windows: list[Window]) -> bool:
        """Archive one range until the staging limit no longer cuts it short; False stops the table: nothing is gained
        by trying more while the store is out."""
        while True:
            known = len(self.listener.reports)
            self._run_once(windows)
            if len(self.listener.reports) == known:
                return False
            report = self.listener.reports[-1]
            if self._rows_left() == 0 or report.kept or report.stopped:
                return False
            if not report.truncated or not report.rows:
                return True

    def _rows_left(self) -> int | None:
        """How many rows the limit still allows; None without a limit."""
        if self.limit_rows is None:
            return None
        name = self._session().name
        return max(0, self.limit_rows - sum(r.rows for r in self.listener.reports if r.table == name))

    def _last_pace(self) -> DeletePace | None:
        name = self._session().name
        return next((report.pace for report in reversed(self.listener.reports) if report.table == name), None)

    def _run_once(self, windows: list[Window]) -> None:
        if self.instance is None:
            with contextlib.closing(self._session()) as session:
                session.known_pace = self._last_pace()
                archive_windows(session, windows, limit_rows=self._rows_left(), ignore_hours=self.ignore_hours)
            return
        known = len(self.listener.errors)
        succeeded = run_windows_in_process(
            self.definitions,
            self.instance,
            self.settings,
            windows,
            limit_rows=self._rows_left(),
            log_level=self.log_level,
            ignore_hours=self.ignore_hours,
        )
        if not succeeded and len(self.listener.errors) == known:
            error = ArchiverError("the run failed outside the engine", hint="run again with --verbose")
            self.listener.fail(self._session().name, error)

    def _session(self) -> ArchiveSession:
        return ArchiveSession(
            self.settings,
            self.loaded.database(self.settings.database),
            self.loaded.store,
            run_id="direct",
            progress=self.listener,
        )


@contextlib.contextmanager
def recorded_in(loaded: LoadedConfig, *, direct: bool) -> Iterator[dg.DagsterInstance | None]:
    """The Dagster instance that records a command's runs, with runs of killed processes closed; None for `direct`."""
    if direct:
        yield None
        return
    with open_instance(loaded.path.parent) as instance:
        for run_id in close_dead_runs(instance):
            warn(f"run {run_id} was killed earlier; what it left open is settled now")
            tell_of_dead_run(loaded, instance, run_id)
        with telling_of_failed_runs(loaded, instance):
            yield instance
