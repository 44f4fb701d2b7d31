"""Random tables: columns of random types, with values as the text that each type's input function takes."""

import datetime as dt
import json
from dataclasses import dataclass

import psycopg
from hypothesis import strategies as st
from psycopg import sql

TYPES = """
CREATE TYPE feeling AS ENUM ('glad', 'so "so"', 'a,b{}', '', 'Ünï');
CREATE DOMAIN short_text AS varchar(12) CHECK (VALUE <> 'forbidden');
CREATE DOMAIN small_numbers AS numeric(8, 3)[];
CREATE DOMAIN any_json AS json;
CREATE TYPE inner_row AS (n numeric, "te xt" text, at timestamptz);
CREATE TYPE outer_row AS (id bigint, one inner_row, many inner_row[], feel feeling, tree jsonb);
CREATE DOMAIN row_domain AS inner_row;
CREATE DOMAIN span_domain AS int4range;
"""

Values = st.SearchStrategy[str | None]
MAX_NAME_BYTES = 63

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["", " ", "NULL", "\\N", "\\.", "\\", '"', "a\n\\.\nb", "\r\n", "\x01\x02", "\t", "{}", "()", ",", "\\x41", "%s"]
)
LAST_DATE = dt.date(9999, 12, 30)
"""The day after it is the end that PostgreSQL writes for a range up to it."""
FLOATS = st.floats(width=32).map(repr) | st.floats().map(repr).filter(lambda text: "inf" in text or "nan" in text)
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False).map(str) | st.sampled_from(["NaN", "-0.000", "1e-200"])
INT4 = st.integers(-(2**31), 2**31 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OLD_TIMES = st.builds(
    "2020-02-{} {:02d}:00:00.{:06d}".format, st.integers(28, 29), st.integers(0, 23), st.integers(0, 999_999)
)
BLANKS = st.sampled_from(["", " ", "\n", "\t", " \r\n "])
DATES = st.dates().map(str) | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC", "5874897-12-31"])
TIMES = st.times().map(str) | st.just("24:00:00")
TIMESTAMPS = st.datetimes().map(str) | st.sampled_from(
    ["infinity", "-infinity", "0044-03-15 12:00:00 BC", "294276-12-31 23:59:59.999999"]
)


def _json_text(value: object, blank: str) -> str:
    return blank + json.dumps(value, ensure_ascii=len(blank) > 1, indent=len(blank) or None) + blank


def _bounded(low: object, high: object, kind: str) -> str:
    """A range literal; PostgreSQL wants the lower bound first."""
    low, high = sorted([low, high])
    left, right = ("", high) if kind[0] == "<" else (low, high)
    return f'{"(" if kind[0] == "<" else kind[0]}"{left}","{right}"{kind[1]}'.replace('""', "")


def ranges_of(bounds: st.SearchStrategy) -> Values:
    kinds = st.sampled_from(["[)", "[]", "(]", "()", "<)", "<]"])
    return st.just("empty") | st.just("(,)") | st.builds(_bounded, bounds, bounds, kinds)


def quoted(value: str | None, null: str) -> str:
    """An element of an array or composite literal."""
    if value is None:
        return null
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def rows_of(*fields: Values) -> Values:
    """Composite literals."""
    return st.tuples(*(st.none() | field for field in fields)).map(
        lambda found: "(" + ",".join(quoted(value, "") for value in found) + ")"
    )


def arrays_of(elements: Values) -> Values:
    """Array literals: empty, of one or two dimensions, from any lower bound, with NULLs."""

    def literal(shape: tuple[int, int], low: int | None, found: list[str | None]) -> str:
        rows, columns = shape
        texts = [quoted(value, "NULL") for value in found]
        if not columns:
            body = "{" + ",".join(texts[:rows]) + "}"
            return body if low is None else f"[{low}:{low + rows - 1}]={body}"
        lines = [",".join(texts[row * columns : (row + 1) * columns]) for row in range(rows)]
        body = "{" + ",".join("{" + line + "}" for line in lines) + "}"
        return body if low is None else f"[{low}:{low + rows - 1}][5:{4 + columns}]={body}"

    shapes = st.tuples(st.integers(1, 3), st.integers(0, 3))
    filled = st.builds(
        literal,
        shapes,
        st.none() | st.integers(-3, 3),
        st.lists(st.none() | elements, min_size=9, max_size=9),
    )
    return st.just("{}") | filled


def _scalars() -> dict[str, Values]:
    inner = rows_of(NUMBERS, TEXT, TIMESTAMPS.map(_in_utc))
    feelings = st.sampled_from(["glad", 'so "so"', "a,b{}", "", "Ünï"])
    jsons = st.builds(_json_text, JSON, BLANKS)
    points = st.tuples(FLOATS, FLOATS).map(lambda pair: f"({pair[0]},{pair[1]})")
    return {
        "smallint": st.integers(-(2**15), 2**15 - 1).map(str),
        "integer": INT4.map(str),
        "bigint": st.integers(-(2**63), 2**63 - 1).map(str),
        "numeric": NUMBERS,
        "numeric(12,4)": st.decimals(-(10**7), 10**7, places=4).map(str) | st.just("NaN"),
        "real": FLOATS,
        "double precision": st.floats().map(repr),
        "boolean": st.sampled_from(["t", "f"]),
        "text": TEXT,
        "varchar(12)": TEXT.map(lambda text: text[:12]),
        "char(12)": TEXT.map(lambda text: text[:12]),
        "name": TEXT.map(lambda text: text.encode()[:60].decode(errors="ignore")),
        '"char"': st.characters(min_codepoint=1, max_codepoint=127),
        "bytea": st.binary(max_size=20).map(lambda found: "\\x" + found.hex()),
        "date": DATES,
        "time": TIMES,
        "time with time zone": st.builds("{}{:+03d}:30".format, TIMES, st.integers(-14, 14)),
        "timestamp": TIMESTAMPS,
        # PostgreSQL itself rounds the last microsecond up to a time that it does not take back.
        "timestamp(2)": TIMESTAMPS.filter(lambda text: not text.startswith("294276")),
        "timestamptz": TIMESTAMPS.map(_in_utc),
        "interval": st.builds("{} mons {} days {} hours {} us".format, INT4, INT4, st.integers(-(10**6), 10**6), INT4),
        "json": jsons,
        "jsonb": st.builds(_json_text, JSON, st.just("")),
        "uuid": st.uuids().map(str),
        "inet": st.ip_addresses().map(str),
        "cidr": st.ip_addresses().map(str),
        "bit(5)": st.text("01", min_size=5, max_size=5),
        "bit varying": st.text("01", max_size=70),
        "money": st.integers(-(2**53), 2**53).map(lambda cents: f"{cents / 100:.2f}"),
        "oid": st.integers(0, 2**32 - 1).map(str),
        "pg_lsn": st.builds("{:X}/{:X}".format, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
        "point": points,
        "path": st.lists(points, min_size=1, max_size=3).map(lambda found: "[" + ",".join(found) + "]"),
        "tsvector": st.lists(TEXT.filter(bool), max_size=3).map(
            lambda words: " ".join("'" + word.replace("\\", "\\\\").replace("'", "''") + "':1A,3" for word in words)
        ),
        "int4range": ranges_of(st.integers(-1000, 2**31 - 2)),
        "numrange": ranges_of(st.decimals(-1000, 1000, places=3)),
        "tsrange": ranges_of(st.datetimes()),
        "daterange": ranges_of(st.dates(max_value=LAST_DATE)),
        "feeling": feelings,
        "short_text": TEXT.map(lambda text: text[:12]),
        "small_numbers": arrays_of(st.decimals(-(10**4), 10**4, places=3).map(str)),
        "any_json": jsons,
        "span_domain": ranges_of(st.integers(-1000, 1000)),
        "inner_row": inner,
        "row_domain": inner,
        "outer_row": rows_of(
            INT4.map(str), inner, arrays_of(inner), feelings, st.builds(_json_text, JSON, st.just(""))
        ),
    }


def _in_utc(text: str) -> str:
    if "infinity" in text:
        return text
    return text.replace(" BC", "+00 BC") if text.endswith("BC") else text + "+00"


SCALARS = _scalars()
ARRAYS = {f"{name}[]": arrays_of(values) for name, values in SCALARS.items() if name != "small_numbers"}
COLUMNS = SCALARS | ARRAYS
KEYS = {
    name: SCALARS[name]
    for name in (
        *(
            "smallint",
            "integer",
            "bigint",
            "text",
            "varchar(12)",
            "char(12)",
            "uuid",
            "numeric",
            "numeric(12,4)",
            "date",
        ),
        *("timestamptz", "timestamp", "bytea", "inet", "feeling", "short_text", "boolean", "double precision"),
    )
}
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=15).filter(
    lambda name: len(name.encode()) <= MAX_NAME_BYTES and name not in SYSTEM_COLUMNS
)
SYSTEM_COLUMNS = {"tableoid", "ctid", "xmin", "xmax", "cmin", "cmax", "oid"}


@dataclass(frozen=True)
class RandomTable:
    """Columns as (name, type, is key) in table order, and rows of as many values."""

    columns: tuple[tuple[str, str, bool], ...]
    rows: tuple[tuple[str | None, ...], ...]
    timestamp_column: str

    @property
    def types(self) -> set[str]:
        return {type_name for _, type_name, _ in self.columns}

    def create(self, connection: psycopg.Connection, name: sql.Identifier) -> None:
        """Create and fill the table; rows whose keys PostgreSQL finds equal are left out."""
        definitions = [sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(t)) for n, t, _ in self.columns]
        key = [sql.Identifier(n) for n, _, is_key in self.columns if is_key]
        connection.execute(
            sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}))").format(
                name, sql.SQL(", ").join(definitions), sql.SQL(", ").join(key)
            )
        )
        rows = sql.SQL(", ").join(sql.SQL("({})").format(self._values(row)) for row in self.rows)
        connection.execute(sql.SQL("INSERT INTO {} VALUES {} ON CONFLICT DO NOTHING").format(name, rows))

    def _values(self, row: tuple[str | None, ...]) -> sql.Composed:
        return sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(type_name))
            for value, (_, type_name, _) in zip(row, self.columns, strict=True)
        )


@st.composite
def random_tables(draw: st.DrawFn) -> RandomTable:
    """A table of one to three key columns, up to 15 others, and up to 25 rows of two days in 2020."""
    kinds = [(name, KEYS[name], True) for name in draw(st.lists(st.sampled_from([*KEYS]), min_size=1, max_size=3))]
    others = draw(st.lists(st.sampled_from([*COLUMNS]), min_size=1, max_size=15))
    kinds += [(name, st.none() | COLUMNS[name], False) for name in others]
    time_type, in_key = draw(st.sampled_from(["timestamptz", "timestamp", "date"])), draw(st.booleans())
    kinds.append((time_type, OLD_TIMES, in_key))
    names = draw(st.lists(NAMES, min_size=len(kinds), max_size=len(kinds), unique=True))
    order = draw(st.permutations(range(len(kinds))))
    row = st.tuples(*(kinds[position][1] for position in order))
    return RandomTable(
        columns=tuple((names[position], kinds[position][0], kinds[position][2]) for position in order),
        rows=tuple(draw(st.lists(row, min_size=draw(st.integers(1, 15)), max_size=25))),
        timestamp_column=names[len(kinds) - 1],
    )
