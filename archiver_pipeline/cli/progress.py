"""Progress of a run on the terminal, fed by the engine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from archiver_pipeline.cli.console import errors, warn
from archiver_pipeline.cli.logs import current_log
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.restore import RestoreReport
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.validation import ValidationReport
from archiver_pipeline.engine.progress import BatchStep, Listeners, Progress, SilentProgress
from archiver_pipeline.engine.report import ArchiveReport
from archiver_pipeline.errors import ArchiverError


class RunListener(SilentProgress):
    """Keeps the reports and errors of a command's runs, and draws bars when there is a terminal to draw on."""

    def __init__(self, log: Progress | None = None, *, draws: bool = True) -> None:
        """`log` is told whatever this listener is; `draws` lets it draw bars."""
        self.reports: list[ArchiveReport] = []
        self.errors: list[tuple[TableName, ArchiverError]] = []
        self.closed: list[tuple[TableName, str]] = []
        self.restores: list[RestoreReport] = []
        self.validations: list[ValidationReport] = []
        self._lock = threading.Lock()
        self._log = log
        self._draws = draws
        self._bars: Bars | None = None
        self._tasks: dict[tuple[TableName, str], TaskID] = {}

    def of_run(self, run_id: str) -> Progress:
        return self if self._log is None else Listeners(self, self._log.of_run(run_id))

    def fail(self, table: TableName, error: ArchiverError) -> None:
        """An error that no session has told."""
        self.archive_failed(table, error)
        if self._log is not None:
            self._log.archive_failed(table, error)

    def close_hours(self, table: TableName, reason: str) -> None:
        """A table that has rows due and is left alone at this hour, which no session has told."""
        self.outside_hours(table, reason)
        if self._log is not None:
            self._log.outside_hours(table, reason)

    @contextmanager
    def drawing(self, *, quiet: bool) -> Iterator[None]:
        """Draw to stderr while the body runs, unless `quiet`, stderr is no terminal, or a log tells it."""
        if quiet or not self._draws or self._log is not None or not errors.is_terminal:
            yield
            return
        with Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]} {task.fields[rate]}"),
            TimeRemainingColumn(),
            console=errors,
            transient=True,
        ) as bars:
            self._bars = bars
            yield
        self._bars = None

    def step_started(self, table: TableName, step: str, batches: int, rows: int) -> None:
        if self._bars is None:
            return
        with self._lock:
            self._remove_bars(self._bars, table)
            self._tasks[table, step] = self._bars.add_task(
                f"{table} [bold]{step}[/]", total=rows or batches or None, rate="", unit="rows" if rows else "batches"
            )

    def table_finished(self, table: TableName) -> None:
        """Nothing more comes of this table: its bar makes room for those that are worked on."""
        if self._bars is not None:
            with self._lock:
                self._remove_bars(self._bars, table)

    def _remove_bars(self, bars: Bars, table: TableName) -> None:
        for (known, _), task in list(self._tasks.items()):
            if known == table:
                bars.remove_task(task)
        self._tasks = {key: task for key, task in self._tasks.items() if key[0] != table}

    def batch_finished(self, table: TableName, step: str, batch: BatchStep) -> None:
        task = self._tasks.get((table, step))
        if self._bars is None or task is None:
            return
        known = next((found for found in self._bars.tasks if found.id == task), None)
        if known is None:
            return
        self._bars.advance(task, batch.rows if known.fields["unit"] == "rows" else 1)
        speed = known.speed
        self._bars.update(task, rate=f"{speed:,.0f}/s" if speed else "")

    def archive_reported(self, report: ArchiveReport) -> None:
        self.reports.append(report)

    def restore_reported(self, report: RestoreReport) -> None:
        self.restores.append(report)

    def validation_reported(self, report: ValidationReport) -> None:
        self.validations.append(report)

    def archive_paused(self, table: TableName, step: str, reason: str) -> None:
        if self._log is None:
            warn(f"{table}: {step} pauses: {reason}")

    def archive_resumed(self, table: TableName, step: str, seconds: float) -> None:
        if self._log is None:
            warn(f"{table}: {step} goes on after {seconds:.0f} s")

    def outside_hours(self, table: TableName, reason: str) -> None:
        self.closed.append((table, reason))

    def step_retrying(self, table: TableName, error: ArchiverError, wait_seconds: float) -> None:
        if self._log is None:
            warn(f"{table}: {error}; trying again in {wait_seconds:.0f} s")

    def archive_failed(self, table: TableName, error: ArchiverError) -> None:
        self.errors.append((table, error))


def listen(loaded: LoadedConfig) -> RunListener:
    """A listener for this command, with its log if there is one; without bars where the file wants no progress."""
    log, monitoring = current_log(), loaded.config.monitoring
    return RunListener(log.listener(monitoring) if log.logger else None, draws=monitoring.progress_enabled)
