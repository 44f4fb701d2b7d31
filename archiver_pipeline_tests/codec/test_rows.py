"""Keys and lines out of JSON lines: the fast way reads what the parser reads, and both refuse damage."""

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver_pipeline.codec.rows import KeyReader, lines_at
from archiver_pipeline.domain.table import KeyColumn
from archiver_pipeline.errors import VerificationError

INTEGERS = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)
LEADING = (KeyColumn("id", "bigint", True), KeyColumn("n", "integer", True))
COLUMNS = ["id", "n", "text", "body"]
ROWS = st.lists(st.tuples(INTEGERS, INTEGERS, TEXT, st.none() | TEXT | st.lists(INTEGERS)), min_size=1, max_size=20)


def lines(rows, columns=COLUMNS):
    texts = (json.dumps(dict(zip(columns, row, strict=True)), separators=(",", ":")) for row in rows)
    return "".join(text + "\n" for text in texts).encode()


@given(ROWS)
def test_leading_integers_are_read_as_the_parser_reads_them(rows):
    """Whatever the columns after them say, keys included."""
    found = KeyReader(LEADING, COLUMNS).read(lines(rows))
    assert found.to_pydict() == {"id": [row[0] for row in rows], "n": [row[1] for row in rows]}
    parsed = KeyReader(LEADING, ["body", *COLUMNS]).read(lines(rows))
    assert found.equals(parsed)


@given(st.lists(st.tuples(TEXT, TEXT, INTEGERS), min_size=1, max_size=20))
def test_keys_anywhere_and_of_any_type(rows):
    key = (KeyColumn("id", "bigint", True), KeyColumn('it\'s "k"', "text", False))
    columns = ["text", 'it\'s "k"', "id"]
    found = KeyReader(key, columns).read(lines(rows, columns))
    assert found.to_pydict() == {"id": [row[2] for row in rows], 'it\'s "k"': [row[1] for row in rows]}


def test_text_that_looks_like_the_key_is_not_taken_for_it():
    rows = [(1, 2, '{"id":99,"n":99}\n"id":99', None), (3, 4, '\n{"id":99,"n":99,', None)]
    assert KeyReader(LEADING, COLUMNS).read(lines(rows)).to_pydict() == {"id": [1, 3], "n": [2, 4]}


@pytest.mark.parametrize(
    "rows",
    [
        b'{"id":1}\n',
        b'{"id":null,"n":1}\n',
        b'{"id":"1","n":1}\n',
        b'{"id":1.5,"n":1}\n',
        b'{"n":1,"id":1}\n',
        b' {"id":1,"n":1}\n',
        b'{"id":99999999999999999999,"n":1}\n',
        b'{"id":1,"n":1,"text":"","body":null}\ngarbage\n',
        b"\xff\xfe\n",
        b"\n",
    ],
)
def test_lines_that_were_never_written_are_refused(rows):
    """Or read as keys that no row has: either way they prove nothing."""
    try:
        found = KeyReader(LEADING, COLUMNS).read(rows)
    except VerificationError:
        return
    assert not found.equals(pa.table([[1], [1]], schema=found.schema))


@given(ROWS)
def test_lines_are_found_by_position(rows):
    text = lines(rows)
    positions = list(range(len(rows)))
    assert lines_at(text, positions) == text.removesuffix(b"\n").split(b"\n")
    assert lines_at(text, positions[-1:]) == [text.removesuffix(b"\n").split(b"\n")[-1]]
