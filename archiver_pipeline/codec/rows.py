"""Reading columns and lines out of JSON lines without a Python step per row."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.json as pa_json

from archiver_pipeline.domain.table import KeyColumn
from archiver_pipeline.errors import VerificationError


def key_schema(key: Sequence[KeyColumn]) -> pa.Schema:
    """The Arrow columns in which keys travel: 64-bit integers, text for everything else."""
    return pa.schema([(column.name, pa.int64() if column.is_integer else pa.string()) for column in key])


def keys_of_rows(rows: bytes, schema: pa.Schema) -> pa.Table:
    """The key columns of JSON lines, in row order. Raises VerificationError when they cannot be read."""
    options = pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    reading = pa_json.ReadOptions(use_threads=False, block_size=max(len(rows), 1))
    try:
        table = pa_json.read_json(pa.BufferReader(rows), read_options=reading, parse_options=options)
    except pa.ArrowInvalid as error:
        raise VerificationError("the rows read back are not the JSON lines that were written") from error
    return table.select(schema.names)


def count_rows(rows: bytes) -> int:
    return rows.count(b"\n")


def lines_at(rows: bytes, positions: Sequence[int]) -> list[bytes]:
    """The lines at the given positions (0 is the first), without their newlines."""
    ends = np.flatnonzero(np.frombuffer(rows, dtype=np.uint8) == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    return [rows[int(starts[position]) : int(ends[position])] for position in positions]
