"""How an archive's columns land in a target: by name, each through its type's own input function."""

import re
from dataclasses import dataclass

from psycopg import Error, sql

from archiver_pipeline.domain.drift import Drift, Retyped, compare_columns
from archiver_pipeline.domain.layout import DataFormat
from archiver_pipeline.domain.manifest import Manifest, ManifestColumn
from archiver_pipeline.domain.restore import SchemaStrategy
from archiver_pipeline.domain.table import Rendering
from archiver_pipeline.errors import ManifestError, PreflightError
from archiver_pipeline.postgres.connection import Connection, fetch_one
from archiver_pipeline.postgres.target import TargetColumn, TargetShape

_TEXT = "pg_catalog.text"
_MODIFIER = re.compile(r"\([0-9]{1,9}(?:,-?[0-9]{1,9})?\)")
_TYPE_NAME = re.compile(r'[\w "().,\[\]$-]+')


class SchemaDriftError(PreflightError):
    """The archive's columns are not those of the target."""

    def __init__(self, message: str, drift: Drift, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.drift = drift


@dataclass(frozen=True, slots=True)
class LandedColumn:
    """One archived column on its way. `staged_type` is how it is read from the stage: the target's type where its
    input function can take the text at once, else text.

    `target_type` is None when the target has no such column. `archived_type` is set when the type changed and the
    archived one exists here; values then go through it, so that PostgreSQL's own casts decide what they become.
    """

    name: str
    staged_type: str
    target_type: str | None
    archived_type: str | None = None
    is_retyped: bool = False
    is_generated: bool = False

    def staged(self) -> sql.Composed:
        return sql.SQL("r.{}").format(sql.Identifier(self.name))

    def value(self) -> sql.Composed:
        """What is written into the target."""
        value = self.staged()
        for type_name in self._casts():
            value = sql.SQL("{}::{}").format(value, sql.SQL(type_name))
        return value

    def _casts(self) -> list[str]:
        if self.target_type is None or self.staged_type == self.target_type:
            return []
        return [*([self.archived_type] if self.archived_type else []), self.target_type]


@dataclass(frozen=True, slots=True)
class Landing:
    """Every archived column in its order, and where it goes."""

    shape: TargetShape
    format: DataFormat
    columns: tuple[LandedColumn, ...]
    arbiter: tuple[str, ...]
    timestamp_column: str
    drift: Drift

    @property
    def written(self) -> tuple[LandedColumn, ...]:
        """The columns that an insert names."""
        return tuple(c for c in self.columns if c.target_type is not None and not c.is_generated)

    @property
    def retyped(self) -> tuple[LandedColumn, ...]:
        return tuple(c for c in self.columns if c.is_retyped)


def plan_landing(connection: Connection, shape: TargetShape, manifest: Manifest, strategy: SchemaStrategy) -> Landing:
    """Map an archive's columns to the target's.

    Raises SchemaDriftError with the diff when the strategy does not allow it, or no column is left to write, and
    PreflightError when the target has no unique index within the archived key, ManifestError when the archive's format
    is unknown.
    """
    drift = compare_columns(manifest.columns, _types_of(shape))
    if drift and strategy is SchemaStrategy.strict:
        raise SchemaDriftError(
            f"{manifest.data_key}: archived columns are not those of {shape.name}: {drift}",
            drift,
            hint="--schema-strategy lenient maps them by name",
        )
    retyped = {one.name: _known_type(connection, one) for one in drift.retyped}
    landing = Landing(
        shape=shape,
        format=_format_of(manifest),
        columns=tuple(_landed(column, shape, manifest.format, retyped) for column in manifest.columns),
        arbiter=shape.arbiter_for(manifest.primary_key),
        timestamp_column=manifest.timestamp_column,
        drift=drift,
    )
    if missing := set(landing.arbiter) - {column.name for column in landing.written}:
        raise SchemaDriftError(
            f"{manifest.data_key}: key column {', '.join(sorted(missing))} cannot be written to {shape.name}", drift
        )
    return landing


def _format_of(manifest: Manifest) -> DataFormat:
    try:
        return DataFormat(manifest.format)
    except ValueError as error:
        raise ManifestError(
            f"{manifest.data_key}: its manifest names the unknown format {manifest.format!r}"
        ) from error


def _types_of(shape: TargetShape) -> dict[str, str]:
    return {column.name: column.type for column in shape.columns}


def _landed(
    column: ManifestColumn, shape: TargetShape, data_format: str, retyped: dict[str, str | None]
) -> LandedColumn:
    target = next((one for one in shape.columns if one.name == column.name), None)
    if target is None:
        return LandedColumn(column.name, _TEXT, None)
    if column.name in retyped:
        return LandedColumn(
            column.name,
            _TEXT,
            target.type,
            archived_type=retyped[column.name],
            is_retyped=True,
            is_generated=target.is_generated,
        )
    return LandedColumn(
        column.name, _staged_type(column, target, data_format), target.type, is_generated=target.is_generated
    )


def _staged_type(column: ManifestColumn, target: TargetColumn, data_format: str) -> str:
    """COPY reads every type by its input function, and so do JSON functions where the archive has a JSON string: also
    arrays, composites and domains over them. JSON types keep the string's quotes, so theirs goes through text."""
    if data_format == DataFormat.parquet.value:
        return target.type
    is_read_from_json = target.is_json or column.rendering == Rendering.jsonb.value
    return _TEXT if is_read_from_json else target.type


def _known_type(connection: Connection, retyped: Retyped) -> str | None:
    """The archived type as this server writes it, when it exists here and has a cast to the target's type.

    The name comes from a manifest, so it is looked up. It is pasted only where it is, but for a modifier of digits,
    the name that the server has for the type; the modifier counts, as it gives numbers their trailing zeros.
    """
    if not _TYPE_NAME.fullmatch(retyped.archived_type):
        return None
    try:
        (name,) = fetch_one(
            connection,
            sql.SQL("SELECT pg_catalog.format_type(pg_catalog.to_regtype(%s), -1)"),
            (retyped.archived_type,),
        )
    except Error:
        return None
    if name is None:
        return None
    known = retyped.archived_type if _MODIFIER.sub("", retyped.archived_type, count=1) == name else str(name)
    return known if _has_cast(connection, known, retyped.target_type) else None


def _has_cast(connection: Connection, source: str, target: str) -> bool:
    try:
        connection.execute(sql.SQL("SELECT NULL::{}::{}").format(sql.SQL(source), sql.SQL(target)))
    except Error:
        return False
    return True
