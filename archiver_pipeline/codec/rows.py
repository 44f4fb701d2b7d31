"""Reading columns and lines out of JSON lines without a Python step per row."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from archiver_pipeline.domain.table import KeyColumn
from archiver_pipeline.errors import VerificationError

_OFFSETS_LIMIT_BYTES = 1 << 31
_DAMAGED = "the rows read back are not the JSON lines that were written"


class KeyReader:
    """Reads the key columns out of JSON lines whose members are `column_names`, in that order.

    Where the key's columns are integers and stand first in the row, an anchored pattern reads them without parsing
    the rest of the line; otherwise the lines are parsed as JSON.
    """

    def __init__(self, key: Sequence[KeyColumn], column_names: Sequence[str]) -> None:
        self.schema = key_schema(key)
        leads = list(column_names[: len(key)]) == [part.name for part in key]
        # Names that JSON may escape, and other types, are left to the parser.
        is_plain = all(part.is_integer and part.name.isascii() and part.name.isidentifier() for part in key)
        self._pattern = _leading_integers(key) if leads and is_plain else None

    def read(self, rows: bytes) -> pa.Table:
        """The key columns of whole lines, in row order. Raises VerificationError when they cannot be read."""
        if self._pattern is None or len(rows) >= _OFFSETS_LIMIT_BYTES:
            return self._parsed(rows)
        return self._matched(rows, self._pattern)

    def _matched(self, rows: bytes, pattern: str) -> pa.Table:
        found = pc.extract_regex(_as_lines(rows), pattern)
        if found.null_count:
            raise VerificationError(_DAMAGED)
        try:
            columns = [found.field(position).cast(pa.int64()) for position in range(len(self.schema))]
        except pa.ArrowInvalid as error:
            raise VerificationError(_DAMAGED) from error
        return pa.table(columns, schema=self.schema)

    def _parsed(self, rows: bytes) -> pa.Table:
        options = pa_json.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior="ignore")
        reading = pa_json.ReadOptions(use_threads=False, block_size=max(len(rows), 1))
        try:
            table = pa_json.read_json(pa.BufferReader(rows), read_options=reading, parse_options=options)
        except pa.ArrowInvalid as error:
            raise VerificationError(_DAMAGED) from error
        return table.select(self.schema.names)


def key_schema(key: Sequence[KeyColumn]) -> pa.Schema:
    """The Arrow columns in which keys travel: 64-bit integers, text for everything else."""
    return pa.schema([(column.name, pa.int64() if column.is_integer else pa.string()) for column in key])


def lines_at(rows: bytes, positions: Sequence[int]) -> list[bytes]:
    """The lines at the given positions (0 is the first), without their newlines."""
    offsets = _line_offsets(rows)
    return [rows[int(offsets[position]) : int(offsets[position + 1]) - 1] for position in positions]


def _leading_integers(key: Sequence[KeyColumn]) -> str:
    """RE2 for the line's first members."""
    members = [rf'"{re.escape(part.name)}":(?P<k{position}>-?[0-9]+)' for position, part in enumerate(key)]
    return r"^\{" + ",".join(members) + "[,}]"


def _as_lines(rows: bytes) -> pa.Array:
    """The lines as an Arrow string array over the very bytes, each with its newline."""
    offsets = _line_offsets(rows)
    return pa.Array.from_buffers(
        pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(rows)]
    )


def _line_offsets(rows: bytes) -> Any:
    """Where each line begins, and the end of the last one."""
    ends = np.flatnonzero(np.frombuffer(rows, dtype=np.uint8) == ord("\n")) + 1
    return np.concatenate([[0], ends])
