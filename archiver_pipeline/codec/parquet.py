"""Parquet (zstd) from the same staged JSON lines, typed where the type is lossless, text where it is not.

A column is typed only if every one of its values in the batch fits: infinity, years beyond 9999 or NaN in a numeric
column turn that column into text in that file. The PostgreSQL type is in each field's metadata.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from archiver_pipeline.codec.hashing import Sha256Counter, read_blocks
from archiver_pipeline.domain.table import Column, Rendering
from archiver_pipeline.errors import VerificationError

DEFAULT_LEVEL = 1
_BLOCK_BYTES = 4 << 20
_ROWS_AT_ONCE = 1024
_INTEGERS = {"smallint": pa.int16(), "integer": pa.int32(), "bigint": pa.int64()}
_TYPED_TEXT = {
    "real": pa.float32(),
    "double precision": pa.float64(),
    "date": pa.date32(),
    "timestamp without time zone": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
}
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")
_MAX_DECIMAL_DIGITS = 38


class _ColumnNeedsText(Exception):  # noqa: N818 - a signal between two functions of this module, never an outcome
    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def encode_parquet(
    source: Path, target: Path, columns: Sequence[Column], *, level: int | None, longest_row_bytes: int
) -> Sha256Counter:
    """Encode staged rows; returns size and SHA-256 of the file. One row group per block of staged rows."""
    types = {column.name: arrow_type(column) for column in columns}
    while True:
        try:
            _write(source, target, columns, types, level or DEFAULT_LEVEL, longest_row_bytes)
            break
        except _ColumnNeedsText as found:
            types[found.column] = pa.string()
    written = Sha256Counter()
    for block in read_blocks(target):
        written.update(block)
    return written


def verify_parquet(
    stored: Path, source: Path, columns: Sequence[Column], *, longest_row_bytes: int
) -> Iterator[pa.Table]:
    """Decode a stored file beside the staged rows it was made of, yielding each row group that equals them.

    Raises VerificationError at the first difference, and when either side ends before the other.
    """
    try:
        file = pq.ParquetFile(stored)
    except (pa.ArrowInvalid, OSError) as error:
        raise VerificationError(f"the object is not a readable Parquet file: {error}") from error
    with file:
        types = {field.name: field.type for field in file.schema_arrow}
        groups = 0
        for group, expected in enumerate(_typed_blocks(source, columns, types, longest_row_bytes)):
            found = _read_row_group(file, group)
            if not _bitwise(found.cast(expected.schema)).equals(_bitwise(expected)):
                raise VerificationError(f"row group {group} read back differs from the rows that were extracted")
            groups += 1
            yield found
        if groups != file.metadata.num_row_groups:
            raise VerificationError("the object holds more row groups than were extracted")


def read_parquet_columns(stored: IO[bytes], names: Sequence[str]) -> Iterator[pa.Table]:
    """The named columns of a Parquet file, some rows at a time.

    Raises VerificationError when it is no readable Parquet file or has not these columns.
    """
    yield from _some_rows(stored, names)


def decode_parquet(stored: IO[bytes]) -> Iterator[pa.Table]:
    """Every column of a Parquet file as PostgreSQL text (None is NULL), some rows at a time.

    Raises VerificationError when it is no readable Parquet file.
    """
    for rows in _some_rows(stored, None):
        yield rows.cast(pa.schema([(name, pa.string()) for name in rows.schema.names]))


def _some_rows(stored: IO[bytes], names: Sequence[str] | None) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(stored) as file:
            if missing := set(names or ()) - set(file.schema_arrow.names):
                raise VerificationError(f"the object has no column {', '.join(sorted(missing))}")
            batches = file.iter_batches(_ROWS_AT_ONCE, columns=None if names is None else [*names], use_threads=False)
            for batch in batches:
                table = pa.Table.from_batches([batch])
                yield table if names is None else table.select([*names])
    except (pa.ArrowInvalid, OSError) as error:
        raise VerificationError(f"the object is not a readable Parquet file: {error}") from error


def _bitwise(table: pa.Table) -> pa.Table:
    """The table with floats as the integers of their bits: NaN is not equal to itself, its bits are."""
    for position, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            bits = pa.int32() if field.type == pa.float32() else pa.int64()
            chunks = [chunk.view(bits) for chunk in table.column(position).chunks]
            table = table.set_column(position, field.name, pa.chunked_array(chunks, bits))
    return table


def arrow_type(column: Column) -> pa.DataType:
    """The Arrow type a column gets when all its values fit. Keys that are not integers stay text, as they travel."""
    if column.rendering is Rendering.native and column.type in _INTEGERS:
        return _INTEGERS[column.type]
    if column.rendering is Rendering.native and column.type == "boolean":
        return pa.bool_()
    if column.is_key:
        return pa.string()
    numeric = _NUMERIC.fullmatch(column.type)
    # Since PostgreSQL 15 the scale may exceed the precision, which Parquet does not know.
    if numeric and int(numeric[2]) <= int(numeric[1]) <= _MAX_DECIMAL_DIGITS:
        return pa.decimal128(int(numeric[1]), int(numeric[2]))
    return _TYPED_TEXT.get(column.type, pa.string())


def _write(
    source: Path,
    target: Path,
    columns: Sequence[Column],
    types: dict[str, pa.DataType],
    level: int,
    longest: int,
) -> None:
    schema = pa.schema(
        [
            pa.field(c.name, types[c.name], metadata={"postgresql_type": c.type, "rendering": c.rendering.value})
            for c in columns
        ]
    )
    with pq.ParquetWriter(target, schema, compression="zstd", compression_level=level) as writer:
        for table in _typed_blocks(source, columns, types, longest):
            writer.write_table(table.cast(schema), row_group_size=max(table.num_rows, 1))


def _typed_blocks(
    source: Path, columns: Sequence[Column], types: dict[str, pa.DataType], longest_row_bytes: int
) -> Iterator[pa.Table]:
    as_read = pa.schema([(c.name, _type_as_read(c)) for c in columns])
    reader = pa_json.open_json(
        source,
        read_options=pa_json.ReadOptions(use_threads=False, block_size=max(_BLOCK_BYTES, 2 * longest_row_bytes)),
        parse_options=pa_json.ParseOptions(explicit_schema=as_read, unexpected_field_behavior="error"),
    )
    for batch in reader:
        arrays = [_cast(batch.column(c.name), types.get(c.name, pa.string()), c.name) for c in columns]
        yield pa.table(arrays, names=[c.name for c in columns])


def _type_as_read(column: Column) -> pa.DataType:
    """What the JSON parser yields: numbers and booleans as such, everything else as text."""
    wanted = arrow_type(column)
    is_json_literal = pa.types.is_integer(wanted) or pa.types.is_boolean(wanted)
    return wanted if is_json_literal else pa.string()


def _cast(values: pa.Array, wanted: pa.DataType, column: str) -> pa.Array:
    try:
        return values if values.type == wanted else values.cast(wanted)
    except pa.ArrowInvalid as error:
        raise _ColumnNeedsText(column) from error


def _read_row_group(file: pq.ParquetFile, group: int) -> pa.Table:
    if group >= file.metadata.num_row_groups:
        raise VerificationError("the object holds fewer row groups than were extracted")
    try:
        return file.read_row_group(group, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise VerificationError(f"row group {group} of the object cannot be read: {error}") from error
