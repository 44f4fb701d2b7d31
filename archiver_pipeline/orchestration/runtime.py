"""The resource behind all ops of a run: one engine session per table, open from the first op to the end of the run."""

import contextlib
from collections.abc import Callable, Iterator

import dagster as dg

from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.restore import RestoreReport, RestoreRequest
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.validation import ValidationReport
from archiver_pipeline.engine.progress import Progress, SilentProgress
from archiver_pipeline.engine.report import ArchiveReport
from archiver_pipeline.engine.restore_session import RestoreSession
from archiver_pipeline.engine.session import ArchiveSession

RESOURCE_KEY = "archiver"


class ArchiverRuntime:
    """Sessions of one run, by table. The in-process executor keeps one runtime for all ops of a run.

    `reports`, `validations` and `restored` are what ops have reported so far, for hooks to tell of.
    """

    def __init__(self, config: LoadedConfig, run_id: str, progress: Progress, *, job: str = "") -> None:
        self._config = config
        self._run_id = run_id
        self._job = job
        self._progress = progress
        self._sessions: dict[TableSettings, ArchiveSession] = {}
        self._restore_sessions: dict[RestoreRequest, RestoreSession] = {}
        self.reports: dict[TableSettings, ArchiveReport] = {}
        self.validations: dict[TableSettings, ValidationReport] = {}
        self.restored: RestoreReport | None = None

    def session(self, settings: TableSettings) -> ArchiveSession:
        """The run's session of a table. It holds the table lock until the run ends."""
        if settings not in self._sessions:
            self._sessions[settings] = ArchiveSession(
                settings=settings,
                database=self._config.database(settings.database),
                store_settings=self._config.store,
                run_id=self._run_id,
                progress=self._progress,
                job=self._job,
            )
        return self._sessions[settings]

    def restore_session(self, request: RestoreRequest) -> RestoreSession:
        """The run's session of a restore. It holds the target table's lock from its first use until the run ends."""
        if request not in self._restore_sessions:
            self._restore_sessions[request] = open_restore(
                self._config, request, run_id=self._run_id, progress=self._progress, job=self._job
            )
        return self._restore_sessions[request]

    @property
    def restore_target(self) -> TableName | None:
        """Where the run restores to, as far as it got to know."""
        return next((request.target for request in self._restore_sessions), None)

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        for restoring in self._restore_sessions.values():
            restoring.close()


def open_restore(
    config: LoadedConfig, request: RestoreRequest, *, run_id: str, progress: Progress, job: str = ""
) -> RestoreSession:
    """A session for one restore. Raises ConfigError when the target's database is not configured."""
    database = config.database(request.target.database)
    target = request.target
    return RestoreSession(
        request=request,
        database=database,
        settings=next((t for t in database.tables if (t.schema, t.table) == (target.schema, target.table)), None),
        store_settings=config.store,
        watermark_settings=config.watermark,
        run_id=run_id,
        progress=progress,
        job=job,
    )


def runtime_resource(config: LoadedConfig, progress: Callable[[], Progress] = SilentProgress) -> dg.ResourceDefinition:
    """A resource that closes every session at the end of the run, however it ends."""

    def open_runtime(context: dg.InitResourceContext) -> Iterator[ArchiverRuntime]:
        run_id = context.run.run_id if context.run else "no-run"
        job = context.run.job_name if context.run else ""
        with contextlib.closing(ArchiverRuntime(config, run_id, progress(), job=job)) as runtime:
            yield runtime

    return dg.ResourceDefinition(resource_fn=contextlib.contextmanager(open_runtime))
