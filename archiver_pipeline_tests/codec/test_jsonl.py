"""gzip that any gunzip reads, and a reader that takes nothing but exactly one whole member."""

import gzip
import hashlib
import random
import subprocess
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver_pipeline.codec.jsonl import decode_jsonl, encode_jsonl, whole_lines
from archiver_pipeline.errors import VerificationError

ROWS = b"".join(b'{"n":%d,"text":"%s"}\n' % (n, hashlib.sha256(b"%d" % n).hexdigest().encode()) for n in range(5000))


def encoded(tmp_path, rows, level=None):
    source, target = tmp_path / "rows", tmp_path / "object"
    source.write_bytes(rows)
    counter = encode_jsonl(source, target, level=level)
    data = target.read_bytes()
    assert (counter.size_bytes, counter.hexdigest()) == (len(data), hashlib.sha256(data).hexdigest())
    return data


def pieces(data, size=1 << 16):
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("level", [None, *range(1, 10)])
@pytest.mark.parametrize("rows", [b"", b"{}\n", ROWS], ids=["no rows", "one row", "many rows"])
def test_round_trip(tmp_path, level, rows):
    data = encoded(tmp_path, rows, level)
    assert b"".join(decode_jsonl(pieces(data))) == rows
    assert gzip.decompress(data) == rows


def test_gunzip_reads_it(tmp_path):
    data = encoded(tmp_path, ROWS)
    assert subprocess.run(["gunzip", "-c"], input=data, capture_output=True, check=True).stdout == ROWS


def test_the_same_rows_give_the_same_bytes(tmp_path):
    (tmp_path / "other").mkdir()
    assert encoded(tmp_path, ROWS) == encoded(tmp_path / "other", ROWS)


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
def test_pieces_of_any_size(tmp_path, size):
    data = encoded(tmp_path, ROWS[:2000])
    assert b"".join(decode_jsonl(pieces(data, size))) == ROWS[:2000]


def test_every_cut_is_refused(tmp_path):
    data = encoded(tmp_path, ROWS[:200])
    for length in range(len(data)):
        with pytest.raises(VerificationError):
            list(decode_jsonl(pieces(data[:length])))


def test_every_flipped_bit_is_refused_or_harmless(tmp_path):
    """Some header bits mean nothing; no flip may yield other rows."""
    rows = ROWS[:200]
    data = encoded(tmp_path, rows)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = b"".join(decode_jsonl(pieces(bytes(damaged))))
        except VerificationError:
            continue
        assert found == rows


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    "trailing", [b"\0", b"\n", gzip.compress(b"{}\n"), b"garbage"], ids=["NUL", "newline", "another member", "text"]
)
def test_trailing_bytes_are_refused(tmp_path, trailing, size):
    with pytest.raises(VerificationError, match="goes on after"):
        list(decode_jsonl(pieces(encoded(tmp_path, ROWS) + trailing, size)))


@pytest.mark.parametrize(
    "data", [b"plain text", b"\x1f\x8b", zlib.compress(b"zlib, not gzip")], ids=["text", "two bytes", "zlib"]
)
def test_what_is_no_gzip_is_refused(data):
    with pytest.raises(VerificationError):
        list(decode_jsonl([data]))


def test_a_bomb_is_unpacked_in_bounded_memory():
    bomb = gzip.compress(b"\0" * (512 << 20), 9)
    tracemalloc.start()
    total = sum(map(len, decode_jsonl([bomb])))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 512 << 20
    assert peak_bytes < 32 << 20


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"") + b"\n")), st.randoms())
def test_whole_lines_changes_nothing_but_the_cuts(lines, chance: random.Random):
    rows = b"".join(lines)
    cut = []
    while rows:
        length = chance.randint(1, 30)
        cut.append(rows[:length])
        rows = rows[length:]
    found = list(whole_lines(cut))
    assert b"".join(found) == b"".join(lines)
    assert all(piece.endswith(b"\n") for piece in found)


def test_a_last_line_without_its_newline_is_refused():
    with pytest.raises(VerificationError, match="cut off"):
        list(whole_lines([b'{"a":1}\n{"a"']))
