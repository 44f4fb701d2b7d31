"""Tables whose columns are no longer those of the archive: told, mapped by name or refused, never guessed."""

import hashlib
import json

import pytest

from archiver_pipeline.domain.restore import SchemaStrategy
from archiver_pipeline.engine.restore import preview_restore
from archiver_pipeline.errors import PreflightError
from archiver_pipeline_tests.engine.restore_cases import account_report, failed, rows_of, value
from archiver_pipeline_tests.engine.running import put

lenient = SchemaStrategy.lenient
ROWS = 20
each_format = pytest.mark.parametrize("data_format", ["jsonl.gz", "parquet"])


@pytest.fixture
def drifting(archiving):
    """A table with a column for every change, filled; archived by `archive`."""
    archiving.database.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
    archiving.database.execute(
        "CREATE TABLE audit_logs (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, small int,"
        " price numeric(10,2), word text, digits text, kind mood, at timestamptz, list int[], doc jsonb)"
    )
    archiving.database.execute(
        "INSERT INTO audit_logs SELECT n, now() - interval '50 days', n, n / 4.0, 'word ' || n, n, 'ok',"
        " timestamptz '2024-02-28 23:59:59+00' + n * interval '1 h', ARRAY[n, NULL], jsonb_build_object('n', n)"
        f" FROM generate_series(1, {ROWS}) AS n"
    )
    archiving.database.execute(
        "INSERT INTO audit_logs (id, created_at) SELECT 100, now() - interval '50 days'"  # every other value is NULL
    )
    return archiving.database


def archive_and_change(archiving, database, change, data_format):
    archiving.archive(format=data_format)
    assert value(database, "SELECT count(*) FROM audit_logs") == 0
    database.execute(change)


STRICT = {
    "ADD note text": "+ note text",
    "ADD note text NOT NULL DEFAULT 'x'": "+ note text",
    "DROP word": "- word text",
    "RENAME word TO phrase": "- word text (renamed to phrase?); + phrase text",
    "ALTER small TYPE bigint": "~ small integer → bigint",
    "ALTER price TYPE numeric(12,4)": "~ price numeric(10,2) → numeric(12,4)",
    "ALTER word TYPE varchar(3)": "~ word text → character varying(3)",
    "ALTER kind TYPE text": "~ kind public.mood → text",
}


@pytest.mark.parametrize("change", STRICT)
def test_strict_refuses_with_a_diff_and_restores_nothing(archiving, drifting, restoring, change):
    archive_and_change(archiving, drifting, f"ALTER TABLE audit_logs {change}", "jsonl.gz")
    report = account_report(restoring.restore())
    assert failed(report) == list(report.objects)
    assert all(STRICT[change] in item.reason and "lenient" in item.reason for item in report.objects)
    assert value(drifting, "SELECT count(*) FROM audit_logs") == 0
    session = restoring.session()
    preview = preview_restore(session)
    assert all(STRICT[change] in problem for problem in preview.problems)
    assert preview.problems


@each_format
def test_another_order_of_columns_is_no_drift(archiving, drifting, restoring, data_format):
    before = rows_of(drifting, "SELECT id, small, word, doc FROM public.audit_logs")
    archive_and_change(
        archiving,
        drifting,
        "ALTER TABLE audit_logs DROP small, DROP word; ALTER TABLE audit_logs ADD word text, ADD small int",
        data_format,
    )
    assert account_report(restoring.restore()).warnings == ()
    assert rows_of(drifting, "SELECT id, small, word, doc FROM public.audit_logs") == before


BY_NAME = {
    # change: (what to select afterwards, the same before)
    "ADD note text": ("note", "NULL::text"),
    "ADD note text NOT NULL DEFAULT 'x'": ("note", "'x'"),
    "ADD note int DEFAULT 2 * 3, DROP word": ("note", "6"),
    "RENAME word TO phrase": ("phrase", "NULL::text"),
    "ALTER small TYPE bigint": ("small", "small"),
    "ALTER small TYPE text": ("small", "small::text"),
    "ALTER price TYPE numeric(12,4)": ("price", "price::numeric(12,4)"),
    "ALTER price TYPE numeric": ("price", "price"),
    "ALTER kind TYPE text": ("kind", "kind::text"),
    "ALTER digits TYPE int USING digits::int": ("digits", "digits"),
    "ALTER word TYPE varchar(30)": ("word", "word"),
    "ALTER at TYPE timestamp USING at AT TIME ZONE 'UTC'": ("at", "at AT TIME ZONE 'UTC'"),
    "ALTER list TYPE bigint[]": ("list", "list"),
    "ALTER doc TYPE json": ("doc", "doc"),
    "ALTER doc TYPE text": ("doc", "doc::text"),
    "ALTER created_at TYPE timestamp(6) USING created_at AT TIME ZONE 'UTC'": (
        "created_at",
        "created_at AT TIME ZONE 'UTC'",
    ),
}


@each_format
@pytest.mark.parametrize("change", BY_NAME)
def test_lenient_maps_by_name_and_loses_nothing(archiving, drifting, restoring, change, data_format):
    after, before = BY_NAME[change]
    expected = rows_of(drifting, f"SELECT id, {before} AS value FROM public.audit_logs")
    archive_and_change(archiving, drifting, f"ALTER TABLE audit_logs {change}", data_format)
    report = account_report(restoring.restore(schema=lenient))
    assert failed(report) == []
    assert rows_of(drifting, f"SELECT id, {after} AS value FROM public.audit_logs") == expected
    assert any("mapped by name" in warning for warning in report.warnings)


@each_format
def test_a_type_that_is_gone_is_mapped_by_its_text(archiving, drifting, restoring, data_format):
    expected = rows_of(drifting, "SELECT id, kind::text FROM public.audit_logs")
    archive_and_change(archiving, drifting, "ALTER TABLE audit_logs ALTER kind TYPE text; DROP TYPE mood", data_format)
    account_report(restoring.restore(schema=lenient))
    assert rows_of(drifting, "SELECT id, kind FROM public.audit_logs") == expected


LOSSY = {
    "ALTER word TYPE varchar(3)": ("word", "word::varchar(3)"),
    "ALTER price TYPE numeric(10,1)": ("price", "price::numeric(10,1)"),
    "ALTER price TYPE int": ("price", "price::int"),
    "ALTER at TYPE date USING at::date": ("at", "(at AT TIME ZONE 'UTC')::date"),
    "ALTER small TYPE boolean USING small > 5": ("small", "small::boolean"),
}


@each_format
@pytest.mark.parametrize("change", LOSSY)
def test_a_cast_that_would_lose_something_is_refused_unless_allowed(
    archiving, drifting, restoring, change, data_format
):
    after, before = LOSSY[change]
    expected = rows_of(drifting, f"SELECT id, {before} AS value FROM public.audit_logs")
    archive_and_change(archiving, drifting, f"ALTER TABLE audit_logs {change}", data_format)
    report = account_report(restoring.restore(schema=lenient))
    # One archive holds nothing but the row of NULLs.
    assert (report.failed_rows, report.restored_rows) == (ROWS, 1)
    for item in failed(report):
        assert f"column '{after}' would lose something" in item.reason
        assert "--allow-lossy-casts" in item.reason
    account_report(restoring.restore(schema=lenient, allow_lossy_casts=True))
    assert rows_of(drifting, f"SELECT id, {after} AS value FROM public.audit_logs") == expected


IMPOSSIBLE = {
    "ALTER word TYPE int USING NULL": "invalid input syntax",
    "ALTER small TYPE smallint USING NULL, ADD CHECK (small < 3)": "check constraint",
    "ADD must text NOT NULL": "not-null",
    "ALTER doc TYPE int USING NULL": "",
    "ALTER list TYPE date USING NULL": "",
}


@each_format
@pytest.mark.parametrize("change", IMPOSSIBLE)
@pytest.mark.parametrize("allowed", [False, True])
def test_what_cannot_be_is_refused_whole(archiving, drifting, restoring, change, data_format, allowed):
    archive_and_change(archiving, drifting, f"ALTER TABLE audit_logs {change}", data_format)
    report = account_report(restoring.restore(schema=lenient, allow_lossy_casts=allowed))
    assert failed(report)
    assert all(IMPOSSIBLE[change] in item.reason for item in failed(report))
    assert value(drifting, "SELECT count(*) FROM audit_logs") == report.restored_rows
    assert report.restored_rows + report.failed_rows == ROWS + 1


def test_a_key_column_that_is_gone_is_refused(archiving, drifting, restoring):
    archive_and_change(
        archiving,
        drifting,
        "ALTER TABLE audit_logs RENAME id TO number",
        "jsonl.gz",
    )
    with pytest.raises(PreflightError, match="no unique index"):
        restoring.restore(schema=lenient)
    assert value(drifting, "SELECT count(*) FROM audit_logs") == 0


def forge(archiving, change):
    """Change one object's manifest, and its receipt so that it fits."""
    bucket = archiving.bucket
    key = next(key for key in bucket.keys("") if key.endswith(".manifest.json"))
    manifest = json.loads(bucket.read(key))
    change(manifest)
    data = json.dumps(manifest).encode()
    receipt_key = key.replace(".manifest.", ".receipt.")
    receipt = json.loads(bucket.read(receipt_key))
    receipt["manifest_sha256"] = hashlib.sha256(data).hexdigest()
    put(bucket, key, data)
    put(bucket, receipt_key, json.dumps(receipt).encode())
    return receipt["data_key"]


def retype(column, name):
    def change(manifest):
        [found] = [one for one in manifest["columns"] if one["name"] == column]
        found["type"] = name

    return change


def rename(column, name):
    def change(manifest):
        [found] = [one for one in manifest["columns"] if one["name"] == column]
        found["name"] = name

    return change


HOSTILE = [
    "integer); DROP TABLE audit_logs; --",
    "integer; DROP TABLE public.audit_logs",
    "integer --",
    "integer /* */",
    "int4, (SELECT pg_sleep(99))",
    "int4 FROM pg_class",
    'int4"',
    "text) = ('x'",
    "numeric(10,2) --",
    "numeric(10,2)); DROP TABLE public.audit_logs; --",
    "numeric((SELECT 1))",
    "audit_logs",
    "%s",
    "{}",
    "",
    "🙂",
    "\x01",
]


@each_format
@pytest.mark.parametrize("column", ["small", "id", "created_at"])
def test_a_hostile_type_name_injects_nothing(archiving, drifting, restoring, column, data_format):
    archiving.archive(format=data_format)
    for name in HOSTILE:
        key = forge(archiving, retype(column, name))
        for strategy in SchemaStrategy:
            report = account_report(restoring.restore(schema=strategy, ignore_watermark=True, data_key=key))
            assert len(report.objects) == 1
    assert value(drifting, "SELECT count(DISTINCT id) = count(*) FROM audit_logs") is True


@each_format
def test_a_hostile_column_name_injects_nothing(archiving, drifting, restoring, data_format):
    archiving.archive(format=data_format)
    for name in ['x"; DROP TABLE public.audit_logs; --', "x') --", "%s", "{0}", "r", "v", "c0", "line"]:
        key = forge(archiving, rename("word", name))
        report = account_report(restoring.restore(schema=lenient, ignore_watermark=True, data_key=key))
        assert len(report.objects) == 1
        forge(archiving, rename(name, "word"))
    assert account_report(restoring.restore(ignore_watermark=True)).failed_rows == 0
    assert value(drifting, "SELECT count(*) FROM audit_logs") == ROWS + 1


@pytest.mark.parametrize("name", ["csv", "jsonl", "", "../jsonl.gz"])
def test_an_unknown_format_is_told_and_the_others_go_on(archiving, drifting, restoring, name):
    archiving.archive()
    key = forge(archiving, lambda manifest: manifest.update(format=name))
    report = account_report(restoring.restore())
    [left_out] = failed(report)
    assert left_out.data_key == key
    assert "format" in left_out.reason
    assert value(drifting, "SELECT count(*) FROM audit_logs") == ROWS + 1 - left_out.rows
