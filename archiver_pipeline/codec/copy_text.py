"""JSON lines as the text that COPY reads, without a Python step per row.

JSON and COPY text escape alike: `\\n`, `\\t`, `\\\\` and a backslash before a quote mean the same in both, and neither
has a raw tab or newline within a value. So a value stays as it is, and what is between values is cut out.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from archiver_pipeline.codec.long_lines import LONG_LINE_BYTES
from archiver_pipeline.errors import VerificationError

_QUOTE, _BACKSLASH, _NEWLINE, _BRACE = ord('"'), ord("\\"), ord("\n"), ord("}")
_TAB, _NULL, _NOT_A_NAME = ord("\t"), ord("n"), b",:]}"
_NULL_BYTES = len("null")
_CONTROL_ESCAPE = b"\\u00"


class NotPlainRowsError(Exception):
    """The lines are JSON that another parser must read: they are not laid out as PostgreSQL's `row_to_json` does."""


def copy_text_of(pieces: Iterable[bytes], column_names: Sequence[str]) -> Iterator[memoryview]:
    """JSON lines as COPY text (`FORMAT text`, its defaults), in pieces. Raises NotPlainRowsError for lines that this
    module does not know for sure, or that are too long to be held whole."""
    encoder = CopyTextEncoder(column_names)
    for rows in _short_lines(pieces):
        yield memoryview(encoder.encode(rows))


class CopyTextEncoder:
    """Turns lines whose members are `column_names`, in that order, into COPY text.

    It knows where a member begins without parsing: `row_to_json` writes a comma right before a member's quote and
    nowhere else, for `jsonb` puts a space between the two and strings escape their quotes. A quote that follows a comma
    at the end of a string closes it, and no name begins with what comes then. Names and counts are held against the
    columns in every row, so lines of another layout are refused, never misread.
    """

    def __init__(self, column_names: Sequence[str]) -> None:
        quoted = [json.dumps(name, ensure_ascii=False).encode() + b":" for name in column_names]
        self._first = b"{" + quoted[0]
        self._markers = [b"," + name for name in quoted[1:]]
        self._may_be_read = not any(name[1] in _NOT_A_NAME for name in quoted[1:])

    def encode(self, rows: bytes) -> pa.Buffer:
        """The COPY text of whole lines. Raises NotPlainRowsError for lines that it does not know for sure."""
        _require(self._may_be_read and rows.endswith(b"\n"))
        text = np.frombuffer(rows, np.uint8).copy()
        starts, ends = self._values(text)
        text, starts, ends = _with_own_escapes(text, starts, ends)
        return _cut_out(text, starts, ends, 1 + len(self._markers))

    def _values(self, text: Any) -> tuple[Any, Any]:
        """Where each value begins and ends (exclusive), row by row and column by column."""
        row_ends = np.flatnonzero(text == _NEWLINE)
        row_starts = np.concatenate([[0], row_ends[:-1] + 1])
        members = _member_commas(text)
        _require(len(members) == len(row_ends) * len(self._markers))
        members = members.reshape(len(row_ends), len(self._markers))
        starts = np.empty((len(row_ends), len(self._markers) + 1), np.int64)
        starts[:, 0] = _behind(text, row_starts, self._first)
        for position, marker in enumerate(self._markers):
            starts[:, position + 1] = _behind(text, members[:, position], marker)
        ends = np.column_stack([members, row_ends - 1])
        _require(
            (text[row_ends - 1] == _BRACE).all() and (starts < ends).all() and (starts[1:, 0] > row_ends[:-1]).all()
        )
        _require((ends[:-1, -1] < starts[1:, 0]).all())
        return starts.ravel(), ends.ravel()


def _member_commas(text: Any) -> Any:
    """Positions of the commas before a member."""
    found = np.flatnonzero((text[:-2] == ord(",")) & (text[1:-1] == _QUOTE))
    behind = text[found + 2]
    return found[~np.isin(behind, np.frombuffer(_NOT_A_NAME, np.uint8))]


def _behind(text: Any, positions: Any, marker: bytes) -> Any:
    """The positions behind the marker, which must be at each of them."""
    size = len(marker)
    _require(int(positions[-1]) + size <= len(text))
    windows: Any = np.ndarray((len(text) - size + 1,), f"V{size}", text, strides=(1,))
    found = windows[positions].view(np.uint8).reshape(len(positions), size)
    _require((found == np.frombuffer(marker, np.uint8)).all())
    return positions + size


def _with_own_escapes(text: Any, starts: Any, ends: Any) -> tuple[Any, Any, Any]:
    """Escape what COPY would read otherwise: backslashes of values that are JSON themselves; `\\u00XX` of strings."""
    backslashes = np.flatnonzero(text == _BACKSLASH)
    if not len(backslashes):
        return text, starts, ends
    value = np.searchsorted(starts, backslashes, side="right") - 1
    in_string = text[starts[value]] == _QUOTE
    doubled = backslashes[~in_string & (value >= 0)]
    control = _control_escapes(text, backslashes[in_string])
    if not len(doubled) and not len(control):
        return text, starts, ends
    text[control + 1] = ord("x")
    dropped = np.sort(np.concatenate([control + 2, control + 3]))
    times = np.ones(len(text), np.int64)
    times[doubled] = 2
    times[dropped] = 0
    moved = [at + np.searchsorted(doubled, at) - np.searchsorted(dropped, at) for at in (starts, ends)]
    return np.repeat(text, times), *moved


def _control_escapes(text: Any, backslashes: Any) -> Any:
    """Where `\\u` begins a character, not where a backslash stands before a `u`."""
    if not len(backslashes):
        return backslashes
    number = np.arange(len(backslashes))
    begins_run = np.diff(backslashes, prepend=-2) != 1
    in_run = number - np.maximum.accumulate(np.where(begins_run, number, 0))
    found = backslashes[(in_run % 2 == 0) & (text[backslashes + 1] == ord("u"))]
    if len(found):
        _behind(text, found, _CONTROL_ESCAPE)
    return found


def _cut_out(text: Any, starts: Any, ends: Any, columns: int) -> pa.Buffer:
    """The values, each with the character that ends it."""
    is_string = text[starts] == _QUOTE
    is_null = text[starts] == _NULL
    _require((text[ends[is_string] - 1] == _QUOTE).all() and (ends - starts > is_string).all())
    _require((ends[is_null] - starts[is_null] == _NULL_BYTES).all())
    text[starts[is_null]], text[starts[is_null] + 1] = _BACKSLASH, ord("N")
    ends = np.where(is_null, starts + 2, ends - is_string)
    text[ends] = _TAB
    text[ends[columns - 1 :: columns]] = _NEWLINE
    bounds = np.empty(2 * len(ends) + 1, np.int32)
    bounds[0], bounds[1::2], bounds[2::2] = 0, starts + is_string, ends + 1
    pieces = pa.Array.from_buffers(pa.binary(), 2 * len(ends), [None, pa.py_buffer(bounds), pa.py_buffer(text)])
    kept = pieces.take(pa.array(np.arange(1, 2 * len(ends), 2)))
    return kept.buffers()[2]


def _require(holds: Any) -> None:
    if not holds:
        raise NotPlainRowsError


def _short_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes cut into whole lines, as long as these are short."""
    line = b""
    for piece in pieces:
        cut = piece.rfind(b"\n") + 1
        if cut:
            yield line + piece[:cut]
        line = piece[cut:] if cut else line + piece
        _require(len(line) <= LONG_LINE_BYTES)
    if line:
        raise VerificationError("the last row of the object is cut off")
