"""What is due over all tables of one database, cheaply: for a look that is taken every minute at a thousand tables.

One connection, one query for the columns of all tables, one look at an index per table. The store is asked only about
tables that have something to archive, whether it is protected, and in turn about a few others: after the last delete of
a window committed, only a listing tells that its receipt is missing. A look that runs out of time says how far it came
and where the next one goes on.
"""

import contextlib
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic

from archiver_pipeline.config.effective import (
    DatabaseSettings,
    StoreSettings,
    TableSettings,
)
from archiver_pipeline.domain.layout import BatchState, key_after
from archiver_pipeline.domain.protection import protections_in_force, unprotected_spans
from archiver_pipeline.domain.table import TableShape, TimedTable
from archiver_pipeline.domain.windows import Window, WindowUnit, end_of_eligible, window_containing
from archiver_pipeline.engine.archived import iter_stored
from archiver_pipeline.engine.holds import with_holds_of
from archiver_pipeline.engine.inventory import moment_of_key
from archiver_pipeline.engine.protection import read_protections
from archiver_pipeline.errors import ArchiverError, NetworkError
from archiver_pipeline.postgres.catalog import find_timed_tables, inspect_table, table_name
from archiver_pipeline.postgres.connection import Connection, connect, source_errors
from archiver_pipeline.postgres.eligible import oldest_eligible, source_clock
from archiver_pipeline.storage.s3 import S3Store

_STATEMENT_TIMEOUT = "5s"
_LOCK_TIMEOUT = "1s"

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class DueLimits:
    """How much one look may find and cost.

    `windows` in all, `per_table` of one table; `turns` of all are given to tables in turn, whatever their age, so that
    windows that stay due for ever can't keep the others from ever being taken. `look_seconds` for the database,
    `sweep_seconds` for the store; both are overrun by one request at most.
    """

    windows: int
    per_table: int
    turns: int
    look_seconds: float
    sweep_seconds: float


@dataclass(frozen=True, slots=True)
class DueCursor:
    """Where the next look goes on. `turn` and `sweep` are names like `schema.table`, empty for the first table;
    `sweep_after` is the last key that was seen of that table's listing."""

    turn: str = ""
    sweep: str = ""
    sweep_after: str = ""


@dataclass(frozen=True, slots=True)
class DueLook:
    """What one look found: windows, oldest first; errors of tables that could not be looked at, by name; how many
    tables there were time for; where to go on; and which tables are left alone at this hour, by name."""

    windows: tuple[tuple[TableSettings, Window], ...]
    problems: tuple[tuple[str, ArchiverError], ...]
    looked_at: int
    cursor: DueCursor
    closed: tuple[str, ...] = ()


@dataclass(eq=False)
class _Candidate:
    """A table with something due. `spans` are the times that are not protected; None while nobody asked the store, nor
    for legal holds: only then `timed` knows of them."""

    settings: TableSettings
    timed: TimedTable | TableShape
    end: datetime
    next_window: Window | None
    spans: list[tuple[datetime | None, datetime]] | None = None
    taken: list[Window] = field(default_factory=list)


def look_for_due(
    database: DatabaseSettings,
    store_settings: StoreSettings,
    tables: Sequence[TableSettings],
    limits: DueLimits,
    cursor: DueCursor,
    *,
    clock: Clock = monotonic,
) -> DueLook:
    """The oldest due windows of these tables of a database.

    Raises NetworkError and its like when database or store do not answer: that is not "nothing due". Takes no lock,
    changes nothing.
    """
    connection = connect(database.primary, statement_timeout=_STATEMENT_TIMEOUT, lock_timeout=_LOCK_TIMEOUT)
    with contextlib.closing(connection), source_errors(database.primary):
        store = S3Store(store_settings)
        store.require_bucket()
        look = _Look(database, connection, store, limits, clock)
        open_now = look.open_now(tables)
        in_turn = _from(open_now, cursor.turn)
        looked_at = look.ask_database(in_turn)
        next_sweep = look.sweep_store(_from(open_now, cursor.sweep), cursor)
        turn = look.choose(in_turn, looked_at)
    return DueLook(
        windows=tuple(sorted(look.chosen, key=lambda found: found[1].start)),
        problems=tuple(look.problems.items()),
        looked_at=looked_at,
        cursor=replace(next_sweep, turn=turn),
        closed=tuple(table.qualified_name for table in tables if table not in open_now),
    )


class _Look:
    """One look in the making."""

    def __init__(
        self,
        database: DatabaseSettings,
        connection: Connection,
        store: S3Store,
        limits: DueLimits,
        clock: Clock,
    ) -> None:
        self._database = database
        self._source = database.primary
        self._connection = connection
        self._store = store
        self._limits = limits
        self._clock = clock
        self._now = source_clock(connection).astimezone(UTC)
        self._candidates: dict[TableSettings, _Candidate] = {}
        self.chosen: list[tuple[TableSettings, Window]] = []
        self.problems: dict[str, ArchiverError] = {}

    def open_now(self, tables: Sequence[TableSettings]) -> list[TableSettings]:
        """The tables whose allowed hours this is, by the source's clock."""
        return [table for table in tables if table.allowed_hours is None or table.allowed_hours.is_open(self._now)]

    def ask_database(self, tables: Sequence[TableSettings]) -> int:
        """Find the oldest row of each table that is old enough; how many of the tables there was time for."""
        deadline = self._clock() + self._limits.look_seconds
        known = find_timed_tables(self._connection, tables)
        for position, settings in enumerate(tables):
            if position and self._clock() > deadline:
                return position
            with self._problems_of(settings):
                timed = known.get(table_name(settings)) or self._explain(settings)
                end = end_of_eligible(WindowUnit(settings.window), self._now, settings.retention_days)
                candidate = _Candidate(settings, timed, end, None)
                candidate.next_window = self._oldest(candidate, [(None, end)])
                if candidate.next_window is not None:
                    self._candidates[settings] = candidate
        return len(tables)

    def sweep_store(self, tables: Sequence[TableSettings], cursor: DueCursor) -> DueCursor:
        """Choose windows with a pending batch, of as many tables as there is time for; where to go on.

        One window is enough for a table: its run settles all that is pending.
        """
        deadline = self._clock() + self._limits.sweep_seconds
        after = cursor.sweep_after if tables and tables[0].qualified_name == cursor.sweep else ""
        for position, settings in enumerate(tables):
            if position and (self._clock() > deadline or len(self.chosen) >= self._limits.turns):
                return DueCursor(sweep=settings.qualified_name, sweep_after=after)
            with self._problems_of(settings):
                after = self._sweep_table(settings, after, deadline)
            if after:
                return DueCursor(sweep=settings.qualified_name, sweep_after=after)
        return DueCursor()

    def choose(self, tables: Sequence[TableSettings], looked_at: int) -> str:
        """Choose the oldest windows of all, and one of tables whose turn it is; the table whose turn is next."""
        self._choose_oldest(self._limits.windows - self._limits.turns)
        turn = self._choose_in_turn(tables[:looked_at])
        self._choose_oldest(self._limits.windows)
        if turn is not None:
            return turn
        return tables[looked_at % len(tables)].qualified_name if tables else ""

    def _choose_oldest(self, most: int) -> None:
        heap = [entry for candidate in self._candidates.values() for entry in self._entries(candidate)]
        heapq.heapify(heap)
        while heap and len(self.chosen) < most:
            _, _, candidate = heapq.heappop(heap)
            if len(candidate.taken) < self._limits.per_table:
                self._take(candidate)
                for entry in self._entries(candidate):
                    heapq.heappush(heap, entry)

    def _choose_in_turn(self, tables: Sequence[TableSettings]) -> str | None:
        """The first table that is due, had nothing chosen and must wait for the next look; None when there is none."""
        given = 0
        for settings in tables:
            candidate = self._candidates.get(settings)
            if candidate is None or candidate.taken:
                continue
            if given >= self._limits.turns or len(self.chosen) >= self._limits.windows:
                return settings.qualified_name
            while not candidate.taken and candidate.next_window is not None:
                self._take(candidate)
            given += bool(candidate.taken)
        return None

    def _take(self, candidate: _Candidate) -> None:
        """Choose the candidate's next window, unless it turns out to be protected, held or chosen; then find the
        next."""
        window = candidate.next_window
        candidate.next_window = None
        with self._problems_of(candidate.settings):
            if candidate.spans is None:
                candidate.timed = self._with_holds(candidate)
                candidate.spans = self._unprotected(candidate)
                candidate.next_window = self._oldest(candidate, candidate.spans)
                if candidate.next_window != window:
                    return
            if window is not None:
                candidate.taken.append(window)
                if (candidate.settings, window) not in self.chosen:
                    self.chosen.append((candidate.settings, window))
                candidate.next_window = self._oldest(candidate, _behind(candidate.spans, window.end))

    def _unprotected(self, candidate: _Candidate) -> list[tuple[datetime | None, datetime]]:
        protections = protections_in_force(read_protections(self._store, candidate.timed.name), self._now)
        unit, first = WindowUnit(candidate.settings.window), candidate.settings.first_window
        return unprotected_spans(unit, candidate.end, protections, first=first)

    def _with_holds(self, candidate: _Candidate) -> TimedTable | TableShape:
        """Rows under legal hold are not due: else a window of nothing else would be requested for ever."""
        return with_holds_of(self._connection, self._database, candidate.settings, candidate.timed)

    def _oldest(self, candidate: _Candidate, spans: Sequence[tuple[datetime | None, datetime]]) -> Window | None:
        """The first window with a row in these times."""
        unit, first = WindowUnit(candidate.settings.window), candidate.settings.first_window
        for start, end in spans:
            oldest = oldest_eligible(self._connection, candidate.timed, end, after=start)
            if oldest is not None:
                window = window_containing(unit, oldest, first=first)
                return window if window.end <= candidate.end else None
        return None

    def _sweep_table(self, settings: TableSettings, after: str, deadline: float) -> str:
        """Choose the first window of the table with a pending batch. Where to go on; empty when that is another table.

        A window that is no longer old enough is passed over: Dagster has no such partition, and the table's next run
        settles it as well.
        """
        unit, first = WindowUnit(settings.window), settings.first_window
        end = end_of_eligible(unit, self._now, settings.retention_days)
        for batch in iter_stored(self._store, table_name(settings), after=after):
            if batch.state is BatchState.pending:
                window = window_containing(unit, moment_of_key(batch.window_key), first=first)
                if window.end <= end:
                    self.chosen.append((settings, window))
                    return ""
            if self._clock() > deadline:
                return key_after(batch)
        return ""

    def _explain(self, settings: TableSettings) -> TimedTable:
        """Raises what is wrong with a table that the catalog does not show as it is configured."""
        shape = inspect_table(self._connection, settings)
        return TimedTable(shape.name, shape.timestamp_column, shape.timestamp_type)

    @contextlib.contextmanager
    def _problems_of(self, settings: TableSettings) -> Iterator[None]:
        """One table's error does not keep the others from being looked at, but for those that all of them share."""
        try:
            with source_errors(self._source):
                yield
        except NetworkError:
            raise
        except ArchiverError as error:
            self.problems[settings.qualified_name] = error

    @staticmethod
    def _entries(candidate: _Candidate) -> Iterator[tuple[datetime, str, _Candidate]]:
        if candidate.next_window is not None:
            yield candidate.next_window.start, candidate.settings.qualified_name, candidate


def _behind(
    spans: Sequence[tuple[datetime | None, datetime]], moment: datetime
) -> list[tuple[datetime | None, datetime]]:
    return [(moment if start is None or start < moment else start, end) for start, end in spans if end > moment]


def _from(tables: Sequence[TableSettings], name: str) -> list[TableSettings]:
    """The tables in their order, from the one with this name on, and round; from the first when it is gone."""
    start = next((position for position, table in enumerate(tables) if table.qualified_name == name), 0)
    return [*tables[start:], *tables[:start]]
