"""All looks together: what `archiver monitor` knows at any moment. Asking it never waits."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.errors import ArchiverError, NetworkError
from archiver_pipeline.monitoring.archived import THREADS, TableArchives
from archiver_pipeline.monitoring.probes import (
    DaemonState,
    DagsterEye,
    TableState,
    look_at_tables,
    reach_database,
    reach_store,
)
from archiver_pipeline.monitoring.recorded import DatabaseRestores, TableRuns
from archiver_pipeline.monitoring.watch import Seen, Touch, Watch, words_of
from archiver_pipeline.notify.channel import open_channels
from archiver_pipeline.orchestration.alert_state import ChannelState, read_channels
from archiver_pipeline.storage.s3 import S3Store


class Monitor:
    """A watch for everything that can hang or fail on its own."""

    def __init__(self, config: LoadedConfig) -> None:
        self.config = config
        self.archives = {table: TableArchives(table) for table in config.tables}
        self.runs = {table: TableRuns(table) for table in config.tables}
        self.restores = {database.id: DatabaseRestores(database) for database in config.databases}
        self.channels: tuple[ChannelState, ...] = ()
        """How sending alerts went, by each channel that is enabled; empty until it was read."""
        self._eye = DagsterEye(config.path.parent)
        self._store = S3Store(config.store, connections=THREADS + 1 + len(config.databases))
        self._open_watches()

    def _open_watches(self) -> None:
        config = self.config
        self.store: Watch[bool] = self._often(f"store {config.store.bucket}", partial(reach_store, self._store))
        self.dagster: Watch[DaemonState] = self._often("Dagster", self._eye.look)
        self.runs_read: Watch[bool] = self._often("recorded runs", self._read_runs, is_long=True)
        self.archives_read: Watch[Mapping[TableSettings, str]] = self._seldom("archives", self._read_archives)
        self.databases: dict[str, Watch[int]] = {
            database.id: self._often(f"database {database.id}", partial(reach_database, database))
            for database in config.databases
        }
        self.tables: dict[str, Watch[Mapping[TableSettings, TableState | ArchiverError]]] = {
            database.id: self._seldom(f"tables of {database.id}", partial(look_at_tables, self._store, database))
            for database in config.databases
        }

    @property
    def watches(self) -> Iterator[Watch[Any]]:
        yield from (self.store, self.dagster, self.runs_read, self.archives_read)
        yield from self.databases.values()
        yield from self.tables.values()

    def start(self) -> None:
        """Begin to look at everything, each in a thread of its own."""
        for watch in self.watches:
            watch.start()

    def stop(self) -> None:
        for watch in self.watches:
            watch.stop()

    def table_state(self, table: TableSettings) -> TableState | None:
        """How a table stood when it was last seen; None when it was not."""
        state = (self.tables[table.database].value or {}).get(table)
        return state if isinstance(state, TableState) else None

    def table_problems(self, table: TableSettings) -> Iterator[str]:
        """Why what is known of a table cannot be relied on. What is true of its whole database is not repeated."""
        state = (self.tables[table.database].value or {}).get(table)
        if isinstance(state, ArchiverError):
            yield str(state)
        if unread := (self.archives_read.value or {}).get(table):
            yield f"its archives cannot be read: {unread}"

    def _read_archives(self, touch: Touch) -> Mapping[TableSettings, str]:
        """Read what is new in the archives of every table; for those that cannot be read, why.

        Raises NetworkError when the store does not answer: that is no trait of a table.
        """
        problems: dict[TableSettings, str] = {}
        for table, archives in self.archives.items():
            try:
                archives.look(self._store, touch)
            except NetworkError:
                raise
            except ArchiverError as error:
                problems[table] = words_of(error)
            touch()
        return problems

    def _read_runs(self, touch: Touch) -> bool:
        readers: list[TableRuns | DatabaseRestores] = [*self.runs.values(), *self.restores.values()]
        for reader in readers:
            reader.look(self._eye.instance, touch)
            touch()
        self.channels = read_channels(self._eye.instance, self._channel_names())
        return True

    def _channel_names(self) -> list[str]:
        notifications = self.config.notifications
        return [channel.name for channel in open_channels(notifications)] if notifications.enabled else []

    def _often(self, subject: str, look: Callable[[Touch], Seen], *, is_long: bool = False) -> Watch[Seen]:
        settings = self.config.config.monitoring
        return Watch(
            subject,
            look,
            interval_seconds=settings.check_interval_seconds,
            retry_seconds=settings.check_interval_seconds,
            timeout_seconds=self._long_seconds if is_long else settings.check_timeout_seconds,
        )

    @property
    def _long_seconds(self) -> float:
        """How long one table may take in a look at all of them."""
        settings = self.config.config.monitoring
        return max(settings.table_interval_seconds, settings.check_timeout_seconds)

    def _seldom(self, subject: str, look: Callable[[Touch], Seen]) -> Watch[Seen]:
        settings = self.config.config.monitoring
        seconds = settings.table_interval_seconds
        return Watch(
            subject,
            look,
            interval_seconds=seconds,
            retry_seconds=min(seconds, settings.check_interval_seconds),
            timeout_seconds=self._long_seconds,
        )
