"""A draft as YAML reads back as what it was, whatever its values are."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from archiver_pipeline.config.draft import (
    Draft,
    DraftDatabase,
    DraftStore,
    DraftTable,
    parse_draft,
    scalar,
)
from archiver_pipeline.config.enums import StorageClass, WindowSize
from archiver_pipeline.errors import ConfigError

STORE = DraftStore("bucket", "https://minio:9000", "eu", "a/b", StorageClass.STANDARD)
TABLE = DraftTable("public", "audit_log", "created_at", WindowSize.WEEK, 500, date(2019, 2, 1), ("Remark.",), {})
DATABASE = DraftDatabase("shop", "db", 5432, "archiver")
PATH = Path("/nowhere/archiver.yaml")
# What pydantic takes for the name of a table.
NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/\\"), min_size=1, max_size=15)


def draft(**changed):
    return replace(Draft("Title", STORE, DATABASE, 30, (TABLE,)), **changed)


@given(st.text(min_size=1))
@example("no")
@example("null")
@example("1e3")
@example("0x1F")
@example("2019-01-01")
@example("12:30")
@example("~")
@example("${HOME} $${X} ${")
@example("a # b: c")
@example("\x00\x1b\x85\u2028\ufeff\U0001f418")
def test_any_text_reads_back_as_itself(text):
    (password, user) = (SecretStr(text), text)
    database = DraftDatabase("shop", "db", 5432, user, password=password)
    loaded = parse_draft(draft(database=database), PATH, {})
    assert loaded.databases[0].primary.user == text
    assert loaded.databases[0].primary.password.get_secret_value() == text


@given(NAMES, NAMES, NAMES)
def test_any_table_reads_back_as_itself_with_remarks_that_hold_its_name(schema, name, column):
    table = DraftTable(schema, name, column, remarks=(f"{name}\n- evil: {column}",), reasons={"schema": name})
    loaded = parse_draft(draft(tables=(table,)), PATH, {})
    (found,) = loaded.tables
    assert (found.schema, found.table, found.timestamp_column) == (schema, name, column)


@pytest.mark.parametrize("plain", ["shop", "audit_log", "eu-central-1", "STANDARD_IA", "SHOP_DB_PASSWORD"])
def test_plain_words_stay_plain(plain):
    assert scalar(plain) == plain


@pytest.mark.parametrize("word", ["no", "Null", "TRUE", "y", "1e3", "0o7", "", " x", "x ", "a: b", "- a", "é"])
def test_what_some_parser_takes_for_something_else_is_quoted(word):
    assert scalar(word).startswith('"')
    assert yaml.safe_load(scalar(word)) == word


def test_everything_that_is_known_is_in_force():
    environ = {"PW": "x", "AK": "key", "SK": "secret"}
    store = DraftStore("bucket", None, "eu", "", StorageClass.GLACIER, "AK", "SK")
    database = DraftDatabase("shop", "db", 5433, "archiver", password_env="PW")
    loaded = parse_draft(draft(store=store, database=database), PATH, environ)
    assert (loaded.store.endpoint, loaded.store.prefix, loaded.store.access_key_id) == (None, "", "key")
    table = loaded.tables[0]
    assert (table.window, table.batch_size, table.first_window) == ("week", 500, date(2019, 2, 1))
    assert (table.retention_days, loaded.warnings) == (30, ())


def test_what_cannot_be_is_told(tmp_path):
    with pytest.raises(ConfigError) as caught:
        parse_draft(draft(tables=(DraftTable("public", "a/b", "t"),)), PATH, {})
    assert [problem.path for problem in caught.value.problems] == ["databases[0].tables[0].name"]
