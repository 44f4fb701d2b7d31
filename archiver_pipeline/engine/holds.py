"""Legal holds of one table, united from everywhere they may be written. A source that can't be read is an error: the
hold that matters may be the one that was not seen."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from archiver_pipeline.config.effective import DatabaseSettings, HoldSettings, SourceSettings, TableSettings
from archiver_pipeline.config.enums import HoldSource
from archiver_pipeline.config.models import ConfiguredHold
from archiver_pipeline.domain.holds import Holds, LegalHold
from archiver_pipeline.domain.table import TableName, TableShape, TimedTable
from archiver_pipeline.engine.pool import Pool
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline.postgres.connection import Connection, connect, source_errors
from archiver_pipeline.postgres.eligible import count_held_before, source_clock
from archiver_pipeline.postgres.holds import (
    HoldGuard,
    HoldTable,
    locked_hold_table,
    read_hold_table,
    read_written_holds,
    require_hold_table,
    usable,
    usable_beside,
)

if TYPE_CHECKING:
    from archiver_pipeline.engine.session import ArchiveSession
    from archiver_pipeline.holds.api import HoldsApi

_TABLE_SOURCE = "configuration of the table"
_FILE_SOURCE = "legal_holds.holds of the configuration"
_ONE_DAY = timedelta(days=1)


class HoldSources:
    """Where one table's holds are written. Safe for use by many threads; opens nothing before the first reading."""

    def __init__(self, settings: HoldSettings, table: TableSettings, name: TableName, primary: SourceSettings) -> None:
        self._settings = settings
        self._table_settings = table
        self._name = name
        self._primary = primary
        self._api = _open_api(settings) if HoldSource.API in settings.sources else None
        self._hold_table = (
            HoldTable(settings.schema, settings.table, settings.check_expiration)
            if HoldSource.DATABASE in settings.sources
            else None
        )
        self._elsewhere: Pool[Connection] = Pool(lambda: connect(settings.database or primary))

    @property
    def exist(self) -> bool:
        """Whether there is anything to ask. Without it no hold can be in force, and none is looked for."""
        return bool(self._settings.sources) or self._table_settings.legal_hold

    def read(self, connection: Connection, types: Mapping[str, str] | None) -> Holds:
        """Every hold on the table that is in force now, by the clock of the primary, to which `connection` leads.

        `types` are the table's columns as the catalog has them: a predicate that does not fit them holds every row.
        With None predicates are not tried, for whoever only asks whether there is any hold.
        Raises HoldsError, NetworkError, PermissionDeniedError, PreflightError or SourceError when a source can't be
        read.
        """
        if not self.exist:
            return Holds()
        with source_errors(self._primary):
            found = [*self._written_in_file(connection), *self._asked_of_api(connection)]
            found += self._in_this_database(connection)
            found += self._in_other_database()
            return usable(connection, found, types) if types is not None else Holds(tuple(found))

    def guard(self, connection: Connection, shape: TableShape) -> HoldGuard | None:
        """What the delete transaction looks at, with the holds of now; None when there is no source.

        `connection` is none of those that delete.
        """
        if not self.exist:
            return None
        known = self.read(connection, shape.types)
        return HoldGuard(
            known=known,
            name=self._name,
            table=self._hold_table if self._settings.database is None else None,
            last_look=lambda deleting: self._last_look(deleting, known, shape.types),
        )

    def require(self, connection: Connection) -> None:
        """Raises, with what helps, unless every source can be read and held still. Changes nothing."""
        if self._hold_table is None:
            return
        if self._settings.database is None:
            require_hold_table(connection, self._hold_table)
            return
        with source_errors(self._settings.database), self._elsewhere.take() as elsewhere:
            require_hold_table(elsewhere, self._hold_table)

    def unmatched(self, connection: Connection, known: Collection[TableName]) -> list[str]:
        """Holds in force of the hold table that name none of the `known` tables, each in words: they hold nothing, and
        may be misspelt. The other sources are asked or checked by name."""
        if self._hold_table is None:
            return []
        if self._settings.database is None:
            with source_errors(self._primary):
                written = read_written_holds(connection, self._hold_table, None)
        else:
            with source_errors(self._settings.database), self._elsewhere.take() as elsewhere:
                written = read_written_holds(elsewhere, self._hold_table, None)
        return [str(one) for one in written if one.in_force and not any(map(one.is_for, known))]

    @contextmanager
    def held_still(self, connection: Connection) -> Iterator[None]:
        """While the body runs nobody can write into the hold table: a transaction on `connection`, or on another to
        the database that has the table. An API and the file are not held still: ask again. Raises as `read` does."""
        if self._hold_table is None:
            yield
        elif self._settings.database is None:
            with source_errors(self._primary), locked_hold_table(connection, self._hold_table):
                yield
        else:
            with (
                source_errors(self._settings.database),
                self._elsewhere.take() as elsewhere,
                locked_hold_table(elsewhere, self._hold_table),
            ):
                yield

    def close(self) -> None:
        self._elsewhere.close()

    @contextmanager
    def _last_look(self, deleting: Connection, known: Holds, types: Mapping[str, str]) -> Iterator[Holds]:
        """The holds that no lock of the delete transaction keeps still, read again; a hold table elsewhere stays locked
        until the body ends."""
        with ExitStack() as locks:
            found = [*self._written_in_file(deleting), *self._asked_of_api(deleting)]
            if self._hold_table is not None and self._settings.database is not None:
                locks.enter_context(source_errors(self._settings.database))
                elsewhere = locks.enter_context(self._elsewhere.take())
                locks.enter_context(locked_hold_table(elsewhere, self._hold_table))
                found += read_hold_table(elsewhere, self._hold_table, self._name)
            yield usable_beside(deleting, found, known, types)

    def _written_in_file(self, connection: Connection) -> list[LegalHold]:
        own = [LegalHold(_TABLE_SOURCE, self._table_settings.legal_hold_reason or "")]
        found = own if self._table_settings.legal_hold else []
        configured = [hold for hold in self._settings.configured if self._is_for_table(hold)]
        if not configured:
            return found
        now = source_clock(connection).astimezone(UTC)
        return found + [_of_file(hold) for hold in configured if self._is_in_force(hold, now)]

    def _is_for_table(self, hold: ConfiguredHold) -> bool:
        named = (hold.database or self._name.database, hold.schema_name, hold.table)
        return named == (self._name.database, self._name.schema, self._name.table)

    def _is_in_force(self, hold: ConfiguredHold, now: datetime) -> bool:
        """From the beginning of its first day to the end of its last."""
        today = now.date()
        is_over = self._settings.check_expiration and hold.expires_on is not None and hold.expires_on < today
        return not is_over and (hold.starts_on is None or hold.starts_on <= today)

    def _asked_of_api(self, connection: Connection) -> list[LegalHold]:
        return self._api.read(self._name, source_clock(connection).astimezone(UTC)) if self._api else []

    def _in_this_database(self, connection: Connection) -> list[LegalHold]:
        if self._hold_table is None or self._settings.database is not None:
            return []
        return read_hold_table(connection, self._hold_table, self._name)

    def _in_other_database(self) -> list[LegalHold]:
        if self._hold_table is None or self._settings.database is None:
            return []
        with source_errors(self._settings.database), self._elsewhere.take() as elsewhere:
            return read_hold_table(elsewhere, self._hold_table, self._name)


@dataclass(frozen=True, slots=True)
class HeldRows:
    """Rows of a table that holds cover. `rows` is counted up to the limit that was asked for; `is_capped` when there
    are more."""

    table: TableName
    holds: Holds
    rows: int
    is_capped: bool


def with_holds(session: "ArchiveSession", shape: TableShape) -> TableShape:
    """The shape with the holds of now; from it no held row is eligible. Raises what `HoldSources.read` does."""
    if not session.hold_sources.exist:
        return shape
    with session.connections.take() as connection:
        return replace(shape, holds=session.hold_sources.read(connection, shape.types))


def with_holds_of(
    connection: Connection, database: DatabaseSettings, settings: TableSettings, timed: TableShape | TimedTable
) -> TableShape | TimedTable:
    """As `with_holds`, for looks over many tables on one connection: costs nothing where no source is configured."""
    sources = HoldSources(database.holds, settings, timed.name, database.primary)
    if not sources.exist:
        return timed
    with closing(sources):
        shape = inspect_table(connection, settings)
        return replace(shape, holds=sources.read(connection, shape.types))


def hold_guard(session: "ArchiveSession", shape: TableShape) -> HoldGuard | None:
    """What a delete of this table must look at inside its transaction; None when there is no source of holds."""
    if not session.hold_sources.exist:
        return None
    with session.connections.take() as connection:
        return session.hold_sources.guard(connection, shape)


def count_held_rows(session: "ArchiveSession", shape: TableShape, end: datetime | None, *, most_rows: int) -> HeldRows:
    """The rows that the holds of `shape` cover, before `end` (exclusive, None: of any age). Takes no lock, changes
    nothing."""
    with source_errors(session.primary), session.connections.take() as connection:
        rows = count_held_before(connection, shape, end, most_rows + 1)
    return HeldRows(session.name, shape.holds, min(rows, most_rows), rows > most_rows)


def block_of_expiry(session: "ArchiveSession") -> str:
    """Why no archive of this table may be removed, in a line for people; empty when no hold is in force.

    For whoever removes archives: ask it before each removal. Any hold on the table blocks all of its archives, a row
    hold too, because which archived rows it covers is only known to who reads them. An archive may hold columns that
    the table no longer has, so predicates are not tried. Raises when holds can't be read: then remove nothing.
    """
    with source_errors(session.primary), session.connections.take() as connection:
        return session.hold_sources.read(connection, None).reason


@contextmanager
def holds_kept_still(session: "ArchiveSession") -> Iterator[None]:
    """While the body runs nobody can write a hold into the hold table: what `block_of_expiry` says there stays true of
    it. Keep it short: whoever wants to place a hold waits."""
    with session.connections.take() as connection, session.hold_sources.held_still(connection):
        yield


def _of_file(hold: ConfiguredHold) -> LegalHold:
    return LegalHold(
        source=_FILE_SOURCE,
        reason=hold.reason or "",
        requestor=hold.requestor or "",
        starts=hold.starts_on.isoformat() if hold.starts_on else "",
        ends=hold.expires_on.isoformat() if hold.expires_on else "",
        predicate=hold.where,
    )


def _open_api(settings: HoldSettings) -> "HoldsApi":
    from archiver_pipeline.holds.api import HoldsApi  # noqa: PLC0415 - its HTTP library is slow to import

    return HoldsApi(settings)
