"""The shell commands of docs/archive-format.md bring back every row, using nothing of this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from archiver_pipeline.config.enums import ObjectFormat
from archiver_pipeline.domain.manifest import Expired, ExpiryIntent, Manifest, ManifestColumn, Receipt, Superseded
from archiver_pipeline.domain.protection import ProtectedRange, Protection
from archiver_pipeline_tests.docs.reading import ROOT, runnable_blocks
from archiver_pipeline_tests.ledger import EXACT_TEXT

PAGE = ROOT / "docs" / "archive-format.md"
BLOCKS = runnable_blocks(PAGE)
TABLE = 'public."Audit ""log"""'

CREATE_AWKWARD_TABLE = """
CREATE TYPE mood AS ENUM ('sad', 'so "so"');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
CREATE TABLE {table} (
    id bigint GENERATED ALWAYS AS IDENTITY,
    part uuid NOT NULL DEFAULT md5(random()::text)::uuid,
    created_at timestamptz NOT NULL DEFAULT '2020-05-05 12:00:00.123456+02',
    line text, "Weird ""name"", 'quoted'" varchar(9), fixed char(5), raw bytea,
    document json, binary_document jsonb, precise numeric, money numeric(12,2), cash money, ok boolean,
    small smallint, floating real, doubled double precision,
    day date, naive timestamp, moment time, zoned timetz, took interval,
    address inet, network cidr, bits bit(3), grid text[], numbers int[], during tstzrange, place point,
    feeling mood, "both" pair, above positive, words tsvector,
    PRIMARY KEY (id, part)
);
ALTER TABLE {table} ADD COLUMN dropped int;
ALTER TABLE {table} DROP COLUMN dropped;
"""
# One value per column and row; {} stands for the rows whose other columns are NULL.
AWKWARD_ROWS = [
    {},
    {"line": "a\tb\nc\\n\"d\" 'e' \x01\x02 \u2028 \U0001f600 \\."},
    {"line": "", "fixed": "x  ", 'Weird ""name"", \'quoted\'': "NULL"},
    {"raw": "\\x00ff0a22", "document": '{"b" : [1,\n 2], "b": "\\u00e9"}', "binary_document": '{"a": [null, 1.50]}'},
    {"document": "null", "binary_document": "null"},
    {"document": '"text"', "binary_document": '"with \\"quotes\\""'},
    {"binary_document": "12.300", "precise": "NaN", "money": "NaN", "cash": "-1234.56"},
    {"precise": "123456789012345678901234567890.000100", "money": "-0.10", "small": "-32768", "ok": "false"},
    {"floating": "Infinity", "doubled": "-Infinity"},
    {"floating": "1e-30", "doubled": "0.1"},
    {"day": "infinity", "naive": "-infinity", "moment": "24:00", "zoned": "12:00+02:30", "took": "-1 year 2 days"},
    {"day": "0044-03-15 BC", "naive": "294276-12-31 23:59:59.999999", "took": "3 mons -4 days 05:06:07.000008"},
    {"day": "2020-02-29", "naive": "1999-12-31 23:59:59.5", "created_at": "2019-12-31 23:00:00-05"},
    {"address": "::1/64", "network": "10.0.0.0/8", "bits": "101", "place": "(1.5,-2)"},
    {"grid": '[0:1][2:3]={{a,"b,c"},{NULL,"NULL"}}', "numbers": "{}", "during": "[2020-01-01,)"},
    {"feeling": 'so "so"', "both": '(1,"x, ""y""")', "above": "1.50", "words": "'fat':2 'rat':3A"},
]


@pytest.fixture
def awkward(database):
    """The table, filled; its rows as text, by id."""
    with database.connect() as connection:
        connection.execute(CREATE_AWKWARD_TABLE.format(table=TABLE).encode())
        if connection.info.server_version >= 120000:
            connection.execute(
                f"ALTER TABLE {TABLE} ADD COLUMN doubled_id bigint GENERATED ALWAYS AS (id * 2) STORED".encode()
            )
        for row in AWKWARD_ROWS:
            names = ", ".join(f'"{name}"' for name in row)
            values = ", ".join(["%s"] * len(row))
            insert = f"({names}) VALUES ({values})" if row else "DEFAULT VALUES"
            connection.execute(f"INSERT INTO {TABLE} {insert}".encode(), list(row.values()))
    return rows_of(database)


def rows_of(database):
    with database.connect(options=EXACT_TEXT) as connection:
        return connection.execute(
            f"SELECT id, t::text, row_to_json(t)::text FROM {TABLE} AS t ORDER BY id".encode()
        ).fetchall()


@pytest.fixture
def shell(database, postgres_server, tmp_path):
    """Runs a block of the page with its placeholders filled in, against the test's database."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(postgres_server.bin_dir), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PGHOST": database.host,
        "PGPORT": str(database.port),
        "PGUSER": database.user,
        "PGPASSWORD": database.password,
        "PGDATABASE": database.name,
    }

    def run(block: str, batch: str) -> subprocess.CompletedProcess[str]:
        text = BLOCKS[block].replace("BATCH", batch).replace("TARGET", TABLE)
        return subprocess.run(
            ["sh", "-c", text], check=False, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


@pytest.fixture
def receipted(archiving, awkward, bucket, tmp_path):
    """Archives the table; returns the names of the receipted batches' files, which it downloads."""

    def archive(data_format: ObjectFormat) -> list[str]:
        report = archiving.archive(table='Audit "log"', format=data_format, batch_size=5)
        assert report.rows == len(awkward)
        for key in bucket.keys(""):
            (tmp_path / key.rsplit("/", 1)[-1]).write_bytes(bucket.read(key))
        names = sorted(path.name.removesuffix(".receipt.json") for path in tmp_path.glob("*.receipt.json"))
        assert len(names) == 4
        return names

    return archive


@pytest.mark.matrix
@pytest.mark.parametrize("data_format", ObjectFormat)
def test_the_documented_commands_bring_every_row_back(data_format, receipted, shell, database, awkward):
    for batch in receipted(data_format):
        assert rows_of(database) != awkward
        first = "check" if data_format is ObjectFormat.JSONL_GZ else "parquet"
        for block in (first, "load", "insert"):
            done = shell(block, batch)
            assert done.returncode == 0, f"{block}: {done.stderr}"
            assert "ERROR" not in done.stderr
    assert rows_of(database) == awkward


@pytest.mark.parametrize("data_format", list(ObjectFormat))
def test_nan_in_a_float_column_is_archived(archiving, awkward, database, data_format):
    database.execute(f"UPDATE {TABLE} SET floating = 'NaN', doubled = 'NaN' WHERE id = 1")
    assert archiving.archive(table='Audit "log"', format=data_format).rows == len(awkward)


def test_the_documented_check_finds_one_wrong_byte(receipted, shell, tmp_path):
    batch = receipted(ObjectFormat.JSONL_GZ)[0]
    for ending, field in [("jsonl.gz", "object_sha256"), ("manifest.json", "manifest_sha256")]:
        path = tmp_path / f"{batch}.{ending}"
        good = path.read_bytes()
        path.write_bytes(good[:-3] + bytes([good[-3] ^ 1]) + good[-2:])
        done = shell("check", batch)
        assert done.returncode != 0
        assert field in done.stderr
        path.write_bytes(good)
    assert shell("check", batch).returncode == 0


def test_every_field_of_every_document_is_specified():
    text = PAGE.read_text()
    for kind in (Protection, ProtectedRange, Manifest, ManifestColumn, Receipt, Superseded, ExpiryIntent, Expired):
        missing = [name for name in kind.__dataclass_fields__ if f"`{name}`" not in text]
        assert not missing, f"{kind.__name__}: {missing}"


def test_every_field_that_is_written_is_of_the_documented_type(receipted, tmp_path):
    batch = receipted(ObjectFormat.JSONL_GZ)[0]
    manifest = json.loads((tmp_path / f"{batch}.manifest.json").read_text())
    assert [len(keys) for keys in manifest["keys"]] == [manifest["rows"]] * len(manifest["primary_key"])
    assert sum(rows for _, rows in manifest["xmin_runs"]) == manifest["rows"]
    assert (type(manifest["keys"][0][0]), type(manifest["keys"][1][0])) == (int, str)
    assert all(manifest[name].endswith("+00:00") for name in ("window_start", "window_end", "cutoff", "extracted_at"))
    assert manifest["last_row_time"].endswith("+00")
