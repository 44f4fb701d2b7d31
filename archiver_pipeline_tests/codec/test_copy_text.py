"""JSON lines as COPY text: every value as a JSON parser reads it, and lines of another layout refused, never misread.

Lines are written as `row_to_json` writes them: no space between members, `jsonb` with a space behind commas and colons.
That PostgreSQL itself reads the text so is tested with every type in engine/test_restore_types.py.
"""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver_pipeline.codec.copy_text import CopyTextEncoder, NotPlainRowsError, copy_text_of
from archiver_pipeline.codec.long_lines import LONG_LINE_BYTES

TEXT = st.text(st.characters(blacklist_categories=("Cs",), min_codepoint=1), max_size=12) | st.sampled_from(
    ["null", "\\", '"', ',"b":', ",", "\\N", "\\.", "\\u0001", "\x01\x1f", '","b":"', "\t\n\r\b\f", "}", "a,"]
)
JSONB = (
    st.integers()
    | st.lists(TEXT | st.integers(), max_size=3)
    | st.dictionaries(TEXT, TEXT | st.none() | st.lists(TEXT, max_size=2), max_size=3)
)
SCALARS = st.none() | st.booleans() | st.integers() | TEXT
ROWS = st.lists(st.tuples(SCALARS, TEXT, JSONB, SCALARS), min_size=1, max_size=4)
NAMES = ["a", "b", 'c "\\ é', "d,"]
ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
COPY_ESCAPE = re.compile(r"\\(x[0-9a-f]{1,2}|.)", re.DOTALL)


def written(value):
    return json.dumps(value, ensure_ascii=False)


def line(row, names=NAMES):
    return "{" + ",".join(f"{written(name)}:{written(value)}" for name, value in zip(names, row, strict=True)) + "}\n"


def as_text(value):
    """What the type's input function gets; None is NULL."""
    return value if value is None or isinstance(value, str) else written(value)


def unescaped(field):
    def meant(found):
        code = found[1]
        return chr(int(code[1:], 16)) if code[0] == "x" else ESCAPES.get(code, code)

    return None if field == "\\N" else COPY_ESCAPE.sub(meant, field)


def read(text):
    """As COPY reads it: fields end at tabs, rows at newlines."""
    rows = bytes(text).decode().split("\n")
    assert rows.pop() == ""
    assert "\\." not in rows
    return [[unescaped(field) for field in row.split("\t")] for row in rows]


@given(ROWS)
def test_every_value_arrives(rows):
    text = CopyTextEncoder(NAMES).encode("".join(map(line, rows)).encode())
    assert read(text) == [[as_text(value) for value in row] for row in rows]


@given(ROWS, st.integers(1, 50))
def test_pieces_of_any_size(rows, size):
    data = "".join(map(line, rows)).encode()
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    text = b"".join(copy_text_of(pieces, NAMES))
    assert read(text) == [[as_text(value) for value in row] for row in rows]


def test_one_column():
    assert read(CopyTextEncoder(["a"]).encode(b'{"a":"x"}\n{"a":null}\n{"a":""}\n')) == [["x"], [None], [""]]


@pytest.mark.parametrize(
    "rows",
    [
        b'{"a":1, "b":2}\n',
        b'{"a": 1,"b":2}\n{"b":1,"a":2}\n',
        b'{"b":1,"a":2}\n',
        b'{"a":1}\n',
        b'{"a":1,"b":2,"c":3}\n',
        b'{"a":1,"b":2,"b":3}\n{"a":1}\n',
        b'{"a":1}\n{"a":1,"b":2,"b":3}\n',
        b'{"a":1,"b":}\n',
        b'{"a":,"b":1}\n',
        b'{"a":"x,"b":1}\n',
        b'{"a":1,"b":"}\n',
        b'{"a":1,"b":2\n',
        b'{"a":1,"b":2}',
        b'{"a":1,"b":2}\n\n',
        b'{"a":1,"b":nul}\n',
        b'{"a":1,"b":"\\u0141"}\n',
        b'{"a":1,"b":"\\u',
        b"",
        b"\n",
        b"}\n",
    ],
)
def test_another_layout_is_refused(rows):
    with pytest.raises(NotPlainRowsError):
        CopyTextEncoder(["a", "b"]).encode(rows)


@pytest.mark.parametrize("name", [",x", ":x", "}x", "]x"])
def test_a_column_that_could_be_taken_for_the_end_of_a_string_is_refused(name):
    with pytest.raises(NotPlainRowsError):
        CopyTextEncoder(["a", name]).encode(line([1, 2], ["a", name]).encode())


def test_a_line_that_is_too_long_to_be_held_is_refused():
    long = b'{"a":"' + b"x" * (LONG_LINE_BYTES + 65536) + b'"}\n'
    with pytest.raises(NotPlainRowsError):
        list(copy_text_of((long[at : at + 65536] for at in range(0, len(long), 65536)), ["a"]))
