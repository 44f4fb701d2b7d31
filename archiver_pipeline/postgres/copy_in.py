"""Puts an object's rows into a table: COPY into a stage, then one statement for all of them. The mirror of copy_out.

Everything happens in the transaction that the caller holds, so an object is restored whole or not at all.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.csv as pa_csv
from psycopg import sql

from archiver_pipeline.domain.layout import DataFormat
from archiver_pipeline.domain.predicate import Predicate
from archiver_pipeline.domain.restore import ConflictStrategy
from archiver_pipeline.domain.table import TimestampType
from archiver_pipeline.errors import ManifestError, SourceError
from archiver_pipeline.postgres.connection import Connection, DeleteRefusedError, fetch_one
from archiver_pipeline.postgres.eligible import table_reference, typed_literal
from archiver_pipeline.postgres.landing import LandedColumn, Landing
from archiver_pipeline.postgres.predicate import predicate_sql

_STAGE = sql.SQL("pg_temp.archiver_stage")


class RestoreRefusedError(SourceError):
    """The target refused the rows of one object; nothing of it was restored."""


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows of an object are taken: those of the days (UTC, inclusive, None is open) that the predicate names."""

    start: date | None = None
    end: date | None = None
    timestamp_type: TimestampType = TimestampType.timestamptz
    where: Predicate | None = None

    @property
    def takes_all(self) -> bool:
        return self.start is None and self.end is None and self.where is None


@dataclass(frozen=True, slots=True)
class MergedRows:
    """What became of an object's staged rows. `replaced_rows` are among `restored_rows`."""

    restored_rows: int
    replaced_rows: int
    skipped_rows: int
    filtered_rows: int


def stage_lines(connection: Connection, blocks: Iterable[bytes]) -> None:
    """COPY JSON lines into the stage. CSV with a quote and a delimiter that JSON escapes takes every line as it is."""
    connection.execute("CREATE TEMPORARY TABLE archiver_stage (line pg_catalog.json) ON COMMIT DROP")
    # The stage is read once, a moment later: compressing long values for it would be wasted.
    connection.execute("ALTER TABLE pg_temp.archiver_stage ALTER COLUMN line SET STORAGE EXTERNAL")
    copy = sql.SQL("COPY {} (line) FROM STDIN (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')").format(_STAGE)
    with connection.cursor() as cursor, cursor.copy(copy) as stream:
        for block in blocks:
            stream.write(block)


def stage_columns(connection: Connection, landing: Landing, tables: Iterable[pa.Table]) -> None:
    """COPY columns of text into a stage that has the target's types. Raises ManifestError when one lacks."""
    names = [column.name for column in landing.columns]
    definitions = sql.SQL(", ").join(map(_definition, landing.columns))
    connection.execute(sql.SQL("CREATE TEMPORARY TABLE archiver_stage ({}) ON COMMIT DROP").format(definitions))
    copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(
        _STAGE, sql.SQL(", ").join(map(sql.Identifier, names))
    )
    with connection.cursor() as cursor, cursor.copy(copy) as stream:
        for piece in csv_of_columns(names, tables):
            stream.write(piece)


def csv_of_columns(names: Sequence[str], tables: Iterable[pa.Table]) -> Iterator[memoryview]:
    """Columns of text as the CSV that COPY reads. Raises ManifestError when one lacks."""
    for table in tables:
        _require_columns(table, names)
        sink = io.BytesIO()
        pa_csv.write_csv(table.select(names), sink, pa_csv.WriteOptions(include_header=False))
        yield sink.getbuffer()


def _require_columns(table: pa.Table, names: Iterable[str]) -> None:
    if missing := sorted(set(names).difference(table.schema.names)):
        raise ManifestError(f"the manifest names columns that the object does not have: {', '.join(missing)}")


def merge_rows(
    connection: Connection, landing: Landing, conflict: ConflictStrategy, rows: RowFilter, *, lossy: bool
) -> MergedRows:
    """Write the staged rows that the filter takes. `lossy` allows casts to a changed type that lose something.

    Raises RestoreRefusedError when a cast would lose something, or when the rows that were written are not the
    archived ones, and psycopg.Error when a constraint or a trigger says no.
    """
    merge = _Merge(connection, landing, conflict, rows)
    staged = merge.count_staged()
    taken = staged if rows.takes_all else merge.count_taken()
    if not lossy:
        merge.refuse_lossy_casts()
    replaced = merge.count_present() if conflict.updates else 0
    written = merge.write()
    if landing.shape.changes_rows:
        merge.require_all_present(taken)
    return MergedRows(
        restored_rows=written,
        replaced_rows=min(replaced, written),
        skipped_rows=taken - written,
        filtered_rows=staged - taken,
    )


def count_unchanged(connection: Connection, landing: Landing) -> int:
    """How many staged rows are in the table under their key, with the same text in every column that both have. Columns
    whose type changed are not compared."""
    return _Merge(connection, landing, ConflictStrategy.skip, RowFilter()).count_unchanged()


def explained_refusal(refusal: DeleteRefusedError, conflict: ConflictStrategy) -> RestoreRefusedError:
    """What a constraint or trigger said, now or at the commit, with what to do about it."""
    return RestoreRefusedError(refusal.message, hint=_REFUSAL_HINTS[conflict])


_REFUSAL_HINTS = {
    ConflictStrategy.skip: "restore the rows that it refers to first; another unique constraint may hold the value",
    ConflictStrategy.overwrite: "restore the rows that it refers to first; a trigger may forbid updates",
    ConflictStrategy.upsert: "restore the rows that it refers to first; a trigger may forbid updates",
    ConflictStrategy.fail: "--conflict-strategy skip, overwrite or upsert says what to do with rows already there",
}


class _Merge:
    """The statements over one staged object. `v` are its values, c0, c1, … in the archive's column order."""

    def __init__(self, connection: Connection, landing: Landing, conflict: ConflictStrategy, rows: RowFilter) -> None:
        self._connection = connection
        self._landing = landing
        self._conflict = conflict
        self._target = table_reference(landing.shape.name)
        self._positions = {column.name: position for position, column in enumerate(landing.columns)}
        self._condition = self._condition_of(rows)

    def count_staged(self) -> int:
        return self._count(sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(_STAGE))

    def count_taken(self) -> int:
        return self._count(sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(self._taken()))

    def count_present(self) -> int:
        """How many of the taken rows' keys are in the target."""
        return self._count(
            sql.SQL("SELECT pg_catalog.count(*) FROM {} JOIN {} AS target ON {}").format(
                self._taken(), self._target, self._same_key()
            )
        )

    def count_unchanged(self) -> int:
        """How many of the staged rows the target has, with equal values."""
        compared = [c.name for c in self._landing.columns if c.target_type is not None and not c.is_retyped]
        same = sql.SQL(" AND ").join(
            sql.SQL("target.{}::pg_catalog.text IS NOT DISTINCT FROM {}::pg_catalog.text").format(
                sql.Identifier(name), self._value(name)
            )
            for name in compared
        )
        return self._count(
            sql.SQL("SELECT pg_catalog.count(*) FROM {} JOIN {} AS target ON {} WHERE {}").format(
                self._taken(), self._target, self._same_key(), same
            )
        )

    def write(self) -> int:
        """Insert or update; returns how many rows were written."""
        if not self._landing.shape.changes_rows:
            return self._connection.execute(self._insert()).rowcount
        written, changed = fetch_one(self._connection, self._insert_and_compare())
        if changed:
            raise RestoreRefusedError(
                f"{changed} rows would be stored otherwise than they were archived: a trigger that runs before each"
                " row, or a generated column, changes them",
                hint="disable the trigger while restoring, or restore to a table without it",
            )
        return int(written)

    def require_all_present(self, taken: int) -> None:
        """A trigger may have left a row out, which looks like a conflict to an insert."""
        present = self.count_present()
        if present != taken:
            raise RestoreRefusedError(
                f"{taken - present} rows are not in the table after they were inserted: a trigger left them out",
                hint="disable the trigger while restoring, or restore to a table without it",
            )

    def refuse_lossy_casts(self) -> None:
        """Every value of a column whose type changed must come back as it was when it is cast back."""
        for column in self._landing.retyped:
            lost = self._count(
                sql.SQL("SELECT pg_catalog.count(*) FROM {} WHERE {} IS DISTINCT FROM {}").format(
                    self._source(), *_there_and_back(column)
                )
            )
            if lost:
                raise RestoreRefusedError(
                    f"{lost} values of column {column.name!r} would lose something as {column.target_type}",
                    hint="--allow-lossy-casts takes them as they come out",
                )

    def _count(self, query: sql.Composed) -> int:
        (rows,) = fetch_one(self._connection, query)
        return int(rows)

    def _insert(self) -> sql.Composed:
        written = self._landing.written
        return sql.SQL("INSERT INTO {} AS target ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}{}").format(
            self._target,
            sql.SQL(", ").join(sql.Identifier(column.name) for column in written),
            sql.SQL(", ").join(self._value(column.name) for column in written),
            self._taken(),
            self._on_conflict(),
        )

    def _on_conflict(self) -> sql.Composable:
        if self._conflict is ConflictStrategy.fail:
            return sql.SQL("")
        arbiter = sql.SQL(", ").join(map(sql.Identifier, self._landing.arbiter))
        if self._conflict is ConflictStrategy.skip:
            return sql.SQL(" ON CONFLICT ({}) DO NOTHING").format(arbiter)
        assignments = sql.SQL(", ").join(
            sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in self._updated()
        )
        return sql.SQL(" ON CONFLICT ({}) DO UPDATE SET {}").format(arbiter, assignments)

    def _updated(self) -> list[str]:
        """The columns an update sets. Columns that the insert does not name stand in EXCLUDED with their defaults."""
        if self._conflict is ConflictStrategy.overwrite:
            names = list(self._landing.shape.types)
        else:
            names = [column.name for column in self._landing.written]
        return [name for name in names if name not in self._landing.arbiter] or list(self._landing.arbiter)

    def _insert_and_compare(self) -> sql.Composed:
        """Insert, and hold what was stored against the archive, generated columns included, as text."""
        compared = [column for column in self._landing.columns if column.target_type is not None]
        stored = sql.SQL(", ").join(
            sql.SQL("target.{} AS {}").format(sql.Identifier(column.name), self._alias(column.name))
            for column in compared
        )
        differs = sql.SQL(" OR ").join(
            sql.SQL("w.{0}::pg_catalog.text IS DISTINCT FROM v.{0}::pg_catalog.text").format(self._alias(column.name))
            for column in compared
        )
        keys = sql.SQL(" AND ").join(
            sql.SQL("w.{0} = v.{0}").format(self._alias(name)) for name in self._landing.arbiter
        )
        return sql.SQL(
            "WITH w AS ({insert} RETURNING {stored})"
            " SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE {differs})"
            " FROM w LEFT JOIN {values} ON {keys}"
        ).format(insert=self._insert(), stored=stored, differs=differs, values=self._taken(), keys=keys)

    def _taken(self) -> sql.Composed:
        """The values `v` of the staged rows that the filter takes."""
        values = sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(column.value(), self._alias(column.name)) for column in self._landing.columns
        )
        everything = sql.SQL("(SELECT {} FROM {}) AS v").format(values, self._source())
        if self._condition is None:
            return everything
        return sql.SQL("(SELECT * FROM {} WHERE {}) AS v").format(everything, self._condition)

    def _source(self) -> sql.Composed:
        """The staged rows as `r`, under the archive's column names."""
        if self._landing.format is DataFormat.parquet:
            return sql.SQL("{} AS r").format(_STAGE)
        definitions = sql.SQL(", ").join(map(_definition, self._landing.columns))
        return sql.SQL("{} AS s CROSS JOIN LATERAL pg_catalog.json_to_record(s.line) AS r({})").format(
            _STAGE, definitions
        )

    def _same_key(self) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("target.{} = {}").format(sql.Identifier(name), self._value(name)) for name in self._landing.arbiter
        )

    def _alias(self, name: str) -> sql.Identifier:
        return sql.Identifier(f"c{self._positions[name]}")

    def _value(self, name: str) -> sql.Composed:
        return sql.SQL("v.{}").format(self._alias(name))

    def _condition_of(self, rows: RowFilter) -> sql.Composed | None:
        parts = list(_within_days(rows, self._value(self._landing.timestamp_column)))
        if rows.where is not None:
            parts.append(predicate_sql(rows.where, self._comparable(), self._value))
        return sql.SQL(" AND ").join(parts) if parts else None

    def _comparable(self) -> dict[str, str]:
        """The columns a predicate may name: those that the archive and the target both have."""
        return {column.name: column.target_type for column in self._landing.columns if column.target_type is not None}


def _within_days(rows: RowFilter, value: sql.Composed) -> Iterable[sql.Composed]:
    kind = rows.timestamp_type
    zone = "+00" if kind is TimestampType.timestamptz else ""
    moment = sql.SQL("{}::{}").format(value, sql.SQL(kind.value))
    if rows.start is not None:
        yield sql.SQL("{} >= {}").format(moment, typed_literal(f"{rows.start} 00:00:00{zone}", kind.value))
    if rows.end is not None and kind is TimestampType.date:
        yield sql.SQL("{} <= {}").format(moment, typed_literal(f"{rows.end}", kind.value))
    elif rows.end is not None:
        # 24:00 is the next day, also after the last day that Python has.
        yield sql.SQL("{} < {}").format(moment, typed_literal(f"{rows.end} 24:00:00{zone}", kind.value))


def _definition(column: LandedColumn) -> sql.Composed:
    return sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.staged_type))


def _there_and_back(column: LandedColumn) -> tuple[sql.Composed, sql.Composed]:
    """A value's text before, and after it went through the target's type."""
    staged, value = column.staged(), column.value()
    if column.archived_type is None:
        return staged, sql.SQL("{}::pg_catalog.text").format(value)
    archived = sql.SQL(column.archived_type)
    return (
        sql.SQL("{}::{}::pg_catalog.text").format(staged, archived),
        sql.SQL("{}::{}::pg_catalog.text").format(value, archived),
    )
