"""Long lines, cut at every place: the same rows, hashes and keys as when they are read whole."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver_pipeline.codec.long_lines import LongLine, MemberReader, lines_in_bounds
from archiver_pipeline.domain.table import KeyColumn
from archiver_pipeline.errors import VerificationError

KEY = (KeyColumn("id", "bigint", is_integer=True), KeyColumn('na"me', "text", is_integer=False))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def _pieces(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


def _row(before, number, name, after, *, ascii_only=False):
    return json.dumps({"a": before, "id": number, 'na"me': name, "z": after}, ensure_ascii=ascii_only).encode()


@given(VALUES, st.integers(-(2**63), 2**63 - 1), st.text(), VALUES, st.integers(1, 9), st.booleans())
def test_keys_are_read_wherever_a_line_is_cut(before, number, name, after, size, ascii_only):
    line = _row(before, number, name, after, ascii_only=ascii_only)
    [found] = lines_in_bounds(_pieces(line + b"\n", size), KEY, long_line_bytes=10)
    assert isinstance(found, LongLine)
    assert found.keys.to_pylist() == [{"id": number, 'na"me': name}]
    assert found.sha256 == hashlib.sha256(line).hexdigest()


@given(st.lists(st.integers(0, 60), max_size=12), st.integers(1, 40))
def test_short_and_long_lines_come_in_order(lengths, size):
    lines = [_row(None, number, "x" * length, None) for number, length in enumerate(lengths)]
    data = b"".join(line + b"\n" for line in lines)
    found = list(lines_in_bounds(_pieces(data, size), KEY, long_line_bytes=60))
    hashes = []
    for part in found:
        short = [] if isinstance(part, LongLine) else part.splitlines()
        hashes += [part.sha256] if isinstance(part, LongLine) else [hashlib.sha256(one).hexdigest() for one in short]
    assert hashes == [hashlib.sha256(line).hexdigest() for line in lines]


@pytest.mark.parametrize(
    "line", [b'{"id":1}', b'{"id":"1","na\\"me":"x"}', b'{"id":true,"na\\"me":"x"}', b'{"id":1,"x":[}']
)
def test_a_long_line_without_its_key_is_refused(line):
    with pytest.raises(VerificationError):
        list(lines_in_bounds([line + b"\n"[:0], b" " * 20 + b"\n"], KEY, long_line_bytes=1))


def test_a_long_line_that_is_cut_off_is_refused():
    with pytest.raises(VerificationError):
        list(lines_in_bounds([_row(None, 1, "x" * 100, None)], KEY, long_line_bytes=10))


def test_members_that_are_not_asked_for_are_not_held():
    reader = MemberReader({"id"})
    reader.feed(b'{"big":"')
    for _ in range(200):
        reader.feed(b'\\"x' * 10_000)
    reader.feed(b'","id":7}')
    assert reader.finished() == {"id": b"7"}
