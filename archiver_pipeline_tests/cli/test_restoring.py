"""What the names of a restore command mean: where rows come from and where they go."""

import pytest

from archiver_pipeline.cli.restoring import RestoreNames, listed_table, resolve_names
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.errors import ConfigError
from archiver_pipeline_tests.orchestration.documents import config_of, database, table

FILE = "year=2026/month=01/day=31/audit_logs_2026-01-31_0123456789abcdef0123"
KEY = f"orders/audit_logs/{FILE}.jsonl.gz"
LOGS = TableName("orders", "public", "audit_logs")
SALES = TableName("orders", "sales", "audit_logs")


@pytest.fixture
def loaded(tmp_path):
    return config_of(
        tmp_path,
        database("orders", table(), table("audit_logs", schema="sales"), table("events", schema="sales")),
        database("users", table("logins", schema="app"), table("audit_logs", schema="app")),
    )


def resolve(loaded, **names):
    unwritten = dict.fromkeys(["database", "schema", "table", "s3_key", "to_database", "to_schema", "to_table"])
    return resolve_names(loaded, RestoreNames(**(unwritten | names)))


def key(loaded, text=KEY):
    return f"{loaded.store.prefix}/{text}" if loaded.store.prefix else text


@pytest.mark.parametrize(
    ("names", "source"),
    [
        ({"table": "events"}, TableName("orders", "sales", "events")),
        ({"table": "sales.audit_logs"}, SALES),
        ({"table": "audit_logs", "schema": "sales"}, SALES),
        ({"table": "audit_logs", "database": "users"}, TableName("users", "app", "audit_logs")),
        ({"table": "public.audit_logs"}, LOGS),
        ({"schema": "public"}, LOGS),
    ],
)
def test_without_a_key_the_names_are_the_source_and_the_target(loaded, names, source):
    found = resolve(loaded, **names)
    assert (found.source, found.target, found.data_key) == (source, source, None)


@pytest.mark.parametrize(
    ("names", "target"),
    [
        ({"to_table": "copy"}, TableName("orders", "sales", "copy")),
        ({"to_schema": "old"}, TableName("orders", "old", "events")),
        ({"to_database": "users"}, TableName("users", "sales", "events")),
        ({"to_database": "users", "to_schema": "a", "to_table": "b"}, TableName("users", "a", "b")),
    ],
)
def test_another_target(loaded, names, target):
    found = resolve(loaded, table="events", **names)
    assert (found.source, found.target) == (TableName("orders", "sales", "events"), target)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({}, "several tables fit: orders.public.audit_logs, orders.sales.audit_logs"),
        ({"table": "audit_logs"}, "several tables fit: .*users.app.audit_logs"),
        ({"table": "audit_log"}, "audit_logs"),
        ({"table": "events", "schema": "public"}, "no configured table of these names is in schema 'public'"),
        ({"database": "order"}, "orders"),
        ({"table": "events", "to_database": "user"}, "users"),
    ],
)
def test_names_that_name_nothing_or_too_much(loaded, names, told):
    with pytest.raises(ConfigError, match=told):
        resolve(loaded, **names)


@pytest.mark.parametrize("ending", ["jsonl.gz", "parquet", "manifest.json", "receipt.json"])
def test_a_key_is_the_source(loaded, ending):
    written = key(loaded, f"orders/sales/audit_logs/{FILE}.{ending}")
    found = resolve(loaded, s3_key=written)
    assert (found.source, found.target, found.data_key) == (SALES, SALES, written)
    address = f"s3://{loaded.store.bucket}/{written}"
    assert resolve(loaded, s3_key=address) == found


@pytest.mark.parametrize(
    ("names", "target"),
    [
        ({"table": "logins", "database": "users"}, TableName("users", "app", "logins")),
        ({"database": "users"}, TableName("users", "public", "audit_logs")),
        ({"table": "events"}, TableName("orders", "sales", "events")),
        ({"table": "sales.audit_logs"}, SALES),
        ({"table": "audit_logs", "schema": "sales"}, SALES),
        ({"schema": "sales"}, SALES),
        ({"table": "copy"}, TableName("orders", "public", "copy")),
        ({"table": "copy", "schema": "old"}, TableName("orders", "old", "copy")),
        ({"table": "events", "to_table": "copy"}, TableName("orders", "sales", "copy")),
        ({"database": "orders", "to_database": "users"}, TableName("users", "public", "audit_logs")),
    ],
)
def test_with_a_key_the_names_are_the_target(loaded, names, target):
    found = resolve(loaded, s3_key=key(loaded), **names)
    assert (found.source, found.target) == (LOGS, target)


def test_the_target_is_guessed_from_the_key_s_table_or_not_at_all(loaded):
    of_sales = key(loaded, f"orders/sales/audit_logs/{FILE}.parquet")
    assert resolve(loaded, s3_key=of_sales, table="audit_logs").target == SALES
    of_other = key(loaded, f"orders/old/audit_logs/{FILE}.parquet")
    with pytest.raises(ConfigError, match=r"several tables fit as the target: orders\.public.*, orders\.sales"):
        resolve(loaded, s3_key=of_other, table="audit_logs")


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("s3://other/" + KEY, "is in bucket 'other'"),
        ("nonsense", "not the key of a batch's object"),
        ("", "not the key of a batch's object"),
        ("s3://audit-archive", "not the key of a batch's object"),
        ("elsewhere/" + KEY, "not the key of a batch's object"),
    ],
)
def test_keys_of_nothing_here(loaded, written, told):
    with pytest.raises(ConfigError, match=told):
        resolve(loaded, s3_key=written)


def test_a_key_of_a_database_that_is_not_configured_any_more(loaded):
    gone = key(loaded, KEY.replace("orders", "shop"))
    with pytest.raises(ConfigError, match="no database 'shop' is configured") as refused:
        resolve(loaded, s3_key=gone)
    assert "--to-database" in refused.value.hint
    assert "orders, users" in refused.value.hint
    found = resolve(loaded, s3_key=gone, to_database="users")
    assert (found.source, found.target) == (
        TableName("shop", "public", "audit_logs"),
        TableName("users", "public", "audit_logs"),
    )


def test_the_table_of_a_listing():
    assert listed_table(None, None) is None
    assert listed_table(None, "a.b") == "a.b"
    assert listed_table("a", "b") == listed_table("a", "a.b") == "a.b"
    with pytest.raises(ConfigError, match="--schema"):
        listed_table("a", None)
