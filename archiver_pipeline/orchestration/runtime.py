"""The resource behind all ops of a run: one engine session per table, open from the first op to the end of the run."""

import contextlib
from collections.abc import Callable, Iterator

import dagster as dg

from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.engine.progress import Progress, SilentProgress
from archiver_pipeline.engine.session import ArchiveSession

RESOURCE_KEY = "archiver"


class ArchiverRuntime:
    """Sessions of one run, by table. The in-process executor keeps one runtime for all ops of a run."""

    def __init__(self, config: LoadedConfig, run_id: str, progress: Progress) -> None:
        self._config = config
        self._run_id = run_id
        self._progress = progress
        self._sessions: dict[TableSettings, ArchiveSession] = {}

    def session(self, settings: TableSettings) -> ArchiveSession:
        """The run's session of a table. It holds the table lock until the run ends."""
        if settings not in self._sessions:
            self._sessions[settings] = ArchiveSession(
                settings=settings,
                database=self._config.database(settings.database),
                store_settings=self._config.store,
                run_id=self._run_id,
                progress=self._progress,
            )
        return self._sessions[settings]

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()


def runtime_resource(config: LoadedConfig, progress: Callable[[], Progress] = SilentProgress) -> dg.ResourceDefinition:
    """A resource that closes every session at the end of the run, however it ends."""

    def open_runtime(context: dg.InitResourceContext) -> Iterator[ArchiverRuntime]:
        run_id = context.run.run_id if context.run else "no-run"
        with contextlib.closing(ArchiverRuntime(config, run_id, progress())) as runtime:
            yield runtime

    return dg.ResourceDefinition(resource_fn=contextlib.contextmanager(open_runtime))
