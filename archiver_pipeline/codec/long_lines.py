"""JSON lines of which any may be longer than memory allows: such a line is hashed and its key read as it passes."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import orjson
import pyarrow as pa

from archiver_pipeline.codec.rows import key_schema
from archiver_pipeline.domain.table import KeyColumn
from archiver_pipeline.errors import VerificationError

LONG_LINE_BYTES = 4 << 20
"""A line that is longer than this, by the server's count or here, is never held as a whole."""

_CUT_OFF = "the last row of the object is cut off"
_DAMAGED = "the rows read back are not the JSON lines that were written"
_MOST_KEPT_BYTES = 1 << 20
_REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_TO_MARK = re.compile(rb'[^"{}\[\],:]*+')
_TO_NESTED_MARK = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)


@dataclass(frozen=True, slots=True)
class LongLine:
    """What is known of one long line: its key, a table of one row, and the SHA-256 of its text without the newline."""

    keys: pa.Table
    sha256: str


def lines_in_bounds(
    pieces: Iterable[bytes], key: Sequence[KeyColumn], *, long_line_bytes: int = LONG_LINE_BYTES
) -> Iterator[bytes | LongLine]:
    """The lines in order: blocks of whole lines, and between them each long line by itself. Holds no more than a line
    of `long_line_bytes` and a piece.

    Raises VerificationError when the last line has no newline, or a long one does not have the key's columns.
    """
    held: list[bytes] = []
    passing: _PassingLine | None = None
    for piece in pieces:
        rest = piece
        if passing is not None:
            end = rest.find(b"\n")
            passing.feed(rest if end < 0 else rest[:end])
            if end < 0:
                continue
            yield passing.finished()
            passing, rest = None, rest[end + 1 :]
        cut = rest.rfind(b"\n") + 1
        if cut:
            yield b"".join([*held, rest[:cut]])
            held = []
        held.append(rest[cut:])
        if sum(map(len, held)) > long_line_bytes:
            passing = _PassingLine(key)
            for part in held:
                passing.feed(part)
            held = []
    if passing is not None or any(held):
        raise VerificationError(_CUT_OFF)


class _PassingLine:
    """A long line on its way."""

    def __init__(self, key: Sequence[KeyColumn]) -> None:
        self._key = key
        self._hash = hashlib.sha256()
        self._members = MemberReader({part.name for part in key})

    def feed(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._members.feed(piece)

    def finished(self) -> LongLine:
        found = self._members.finished()
        try:
            values = [[_value(found[part.name], is_integer=part.is_integer)] for part in self._key]
        except (KeyError, ValueError) as error:
            raise VerificationError(_DAMAGED) from error
        schema = key_schema(self._key)
        arrays = [pa.array(value, field.type) for value, field in zip(values, schema, strict=True)]
        return LongLine(pa.table(arrays, schema=schema), self._hash.hexdigest())


class MemberReader:
    """Reads a few members of one JSON object that comes in pieces, and holds nothing but these."""

    def __init__(self, names: set[str]) -> None:
        self._names = names
        self._found: dict[str, bytes] = {}
        self._depth = 0
        self._is_in_string = False
        self._name: str | None = None
        self._kept = bytearray()
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        """Raises VerificationError for what cannot be a JSON object of PostgreSQL's."""
        data, position = self._rest + piece, 0
        self._rest = b""
        while position < len(data):
            end = self._pattern().match(data, position).end()  # type: ignore[union-attr]  # it matches nothing too
            self._keep(data[position:end])
            if end < len(data) and data[end : end + 1] == b"\\":
                # Half of an escape: the other half comes with the next piece.
                self._rest = data[end:]
                return
            if end < len(data):
                self._pass_mark(data[end : end + 1])
            position = end + 1

    def finished(self) -> dict[str, bytes]:
        """The members' values as JSON text."""
        if self._depth or self._is_in_string or self._rest:
            raise VerificationError(_DAMAGED)
        return self._found

    def _pattern(self) -> re.Pattern[bytes]:
        if self._is_in_string:
            return _REST_OF_STRING
        return _TO_MARK if self._depth <= 1 else _TO_NESTED_MARK

    def _keep(self, part: bytes) -> None:
        if self._depth != 1 or (self._name is not None and self._name not in self._names):
            return
        self._kept += part
        if len(self._kept) > _MOST_KEPT_BYTES:
            raise VerificationError(_DAMAGED)

    def _pass_mark(self, mark: bytes) -> None:
        if mark == b'"':
            self._keep(mark)
            self._is_in_string = not self._is_in_string
        elif mark in b"{[":
            self._depth += 1
        elif mark in b"}]":
            if self._depth == 1:
                self._end_member()
            self._depth -= 1
        elif mark == b":" and self._name is None:
            self._begin_member()
        elif mark == b"," and self._depth == 1:
            self._end_member()

    def _begin_member(self) -> None:
        try:
            self._name = str(orjson.loads(bytes(self._kept)))
        except orjson.JSONDecodeError as error:
            raise VerificationError(_DAMAGED) from error
        self._kept.clear()

    def _end_member(self) -> None:
        if self._name in self._names and self._name is not None:
            self._found[self._name] = bytes(self._kept)
        self._name = None
        self._kept.clear()


def _value(text: bytes, *, is_integer: bool) -> int | str:
    value = orjson.loads(text)
    if not isinstance(value, int if is_integer else str) or isinstance(value, bool):
        raise ValueError(text)
    return value
