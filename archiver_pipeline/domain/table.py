"""What is known of a source table: its name, columns, key and how each column becomes text."""

from dataclasses import dataclass
from enum import StrEnum

from archiver_pipeline.domain.holds import NO_HOLDS, Holds

INTEGER_TYPES = frozenset({"smallint", "integer", "bigint"})
"""Types whose values travel as JSON integers, also in keys."""


class Rendering(StrEnum):
    """How a column's value stands in a row's JSON object.

    Whatever the rendering, `object ->> column` is text that the column's own input function takes back.
    """

    native = "native"
    """As `row_to_json` writes it: JSON numbers, booleans and strings."""
    jsonb = "jsonb"
    """Nested JSON; a top-level `null` or string is written as a JSON string that holds its JSON text."""
    text = "text"
    """The type's output function, as a JSON string."""


class TimestampType(StrEnum):
    """The types a timestamp column may have. A naive timestamp and a date are read as UTC."""

    date = "date"
    timestamp = "timestamp without time zone"
    timestamptz = "timestamp with time zone"


def timestamp_type_of(type_name: str) -> TimestampType | None:
    """The kind of time a type holds; a precision such as timestamp(3) makes no difference."""
    plain = (
        type_name.split("(", maxsplit=1)[0] + type_name.rsplit(")", maxsplit=1)[-1] if "(" in type_name else type_name
    )
    return next((kind for kind in TimestampType if kind.value == plain), None)


@dataclass(frozen=True, slots=True)
class TableName:
    """A table's full name. `database` is the id used in the store's keys."""

    database: str
    schema: str
    table: str

    def __str__(self) -> str:
        return f"{self.database}.{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True)
class TimedTable:
    """What a look at the age of a table's rows needs, and no more."""

    name: TableName
    timestamp_column: str
    timestamp_type: TimestampType


@dataclass(frozen=True, slots=True)
class Column:
    """One column, in table order. `type` is PostgreSQL's `format_type`, qualified outside pg_catalog."""

    name: str
    type: str
    not_null: bool
    rendering: Rendering
    output_function: str
    is_key: bool = False


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """One column of the unique key; `is_integer` tells whether it travels as a JSON integer."""

    name: str
    type: str
    is_integer: bool


@dataclass(frozen=True, slots=True)
class TableShape:
    """The table as it was when the plan was made.

    `fingerprint` changes with every column added, dropped, renamed or retyped, dropped columns included, so that
    equal fingerprints at plan and inside the delete transaction mean that no column came or went between.
    Rows that `holds` cover are not eligible, however old they are.
    """

    name: TableName
    columns: tuple[Column, ...]
    key: tuple[KeyColumn, ...]
    timestamp_column: str
    timestamp_type: TimestampType
    fingerprint: str
    system_identifier: str
    warnings: tuple[str, ...] = ()
    holds: Holds = NO_HOLDS

    @property
    def types(self) -> dict[str, str]:
        """Name → type of every column, in table order."""
        return {column.name: column.type for column in self.columns}
