"""Finding the file, precedence of levels, resolved settings, selection of tables, secrets."""

import os
from datetime import date
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from archiver_pipeline.config import load_config
from archiver_pipeline.config.models import INHERITED, ArchiverConfig
from archiver_pipeline.errors import ConfigError
from archiver_pipeline_tests.config.conftest import MINIMAL, with_database, with_s3, with_table

TWO_DATABASES = """\
s3: {bucket: archive}
defaults: {retention_days: 90}
databases:
  - name: shop
    host: h
    user: u
    tables:
      - {name: audit_logs, timestamp_column: at}
      - {name: audit_logs, schema: eu, timestamp_column: at}
      - {name: orders, timestamp_column: at}
  - name: billing
    host: h
    user: u
    tables:
      - {name: audit_logs, timestamp_column: at}
"""


def config_named(folder: Path, name: str, bucket: str) -> Path:
    path = folder / name
    path.write_text(MINIMAL.replace("bucket: archive", f"bucket: {bucket}"))
    return path


def test_the_explicit_path_comes_before_the_environment_before_the_folder(tmp_path):
    explicit = config_named(tmp_path, "one.yaml", "explicit")
    environ = {"ARCHIVER_CONFIG": str(config_named(tmp_path, "two.yaml", "environment"))}
    config_named(tmp_path, "archiver.yaml", "folder")

    assert load_config(explicit, environ=environ, cwd=tmp_path).store.bucket == "explicit"
    assert load_config(None, environ=environ, cwd=tmp_path).store.bucket == "environment"
    assert load_config(None, environ={}, cwd=tmp_path).store.bucket == "folder"
    assert load_config(None, environ={"ARCHIVER_CONFIG": ""}, cwd=tmp_path).store.bucket == "folder"
    assert load_config(Path("one.yaml"), environ={}, cwd=tmp_path).path == tmp_path / "one.yaml"


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(None, environ={}, cwd=tmp_path)
    assert str(tmp_path / "archiver.yaml") in str(caught.value)
    assert "archiver.example.yaml" in caught.value.hint
    assert "make demo" in caught.value.hint


def test_a_named_file_that_is_missing_is_not_replaced_by_the_default(tmp_path):
    config_named(tmp_path, "archiver.yaml", "folder")
    with pytest.raises(ConfigError):
        load_config(tmp_path / "other.yaml", environ={}, cwd=tmp_path)
    with pytest.raises(ConfigError):
        load_config(None, environ={"ARCHIVER_CONFIG": "other.yaml"}, cwd=tmp_path)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="can't be read"):
        load_config(tmp_path, environ={}, cwd=tmp_path)


def test_every_message_begins_with_the_file(tmp_path):
    path = tmp_path / "archiver.yaml"
    for text in ("a: [", "", MINIMAL + "x: 1\n"):
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config(None, environ={}, cwd=tmp_path)
        assert str(caught.value).startswith(f"{path}: ")


def test_the_built_in_defaults(load):
    table = load(MINIMAL).tables[0]
    assert vars(table) == {
        "database": "shop",
        "dbname": "shop",
        "schema": "public",
        "table": "audit_logs",
        "timestamp_column": "created_at",
        "primary_key": None,
        "retention_days": 90,
        "retention_floor_override": None,
        "archive_retention_days": None,
        "restore_protection_days": 30,
        "batch_size": 10_000,
        "sleep_between_batches_seconds": 2.0,
        "connection_pool_size": 10,
        "compression_level": None,
        "format": "jsonl.gz",
        "window": "day",
        "first_window": date(2020, 1, 1),
        "workers": None,
        "max_staged_bytes": 2 * 1024**3,
        "staging_dir": None,
        "verify_sample_rows": 20,
        "vacuum_strategy": "standard",
        "reclaim": "none",
        "reclaim_min_free_ratio": 0.3,
        "reclaim_min_bytes": 256 * 1024**2,
        "reclaim_wait_seconds": 60,
        "pg_repack_path": None,
        "lock_type": "postgresql",
        "lock_timeout_ms": 100,
        "statement_timeout_seconds": 0,
        "fail_on_schema_drift": False,
        "throttle": None,
        "allowed_hours": None,
        "adaptive_batch_size": None,
        "critical": False,
        "classification": None,
        "legal_hold": False,
        "legal_hold_reason": None,
        "must_encrypt": False,
        "lock_days": None,
        "lock_from_last_row": False,
        "partitions": "rows",
    }


# For each key: a value for defaults, for the database and for the table, all different.
LEVELS = {
    "retention_days": (10, 20, 30),
    "retention_floor_override": ("the first of reasons", "the second of reasons", "the third of reasons"),
    "archive_retention_days": (100, 200, 300),
    "restore_protection_days": (7, 0, 9),
    "batch_size": (10, 20, 30),
    "sleep_between_batches": (0, 1.5, 3),
    "connection_pool_size": (1, 2, 3),
    "compression_level": (1, 2, 3),
    "format": ("parquet", "jsonl.gz", "parquet"),
    "window": ("hour", "week", "month"),
    "first_window": ("2001-01-01", "2002-01-01", "2003-01-01"),
    "workers": (1, 2, 3),
    "max_staged_bytes": (2**20, 2**21, 2**22),
    "staging_dir": ("/a", "/b", "/c"),
    "verify_sample_rows": (1, 0, 2),
    "vacuum_strategy": ("none", "full", "analyze"),
    "partitions": ("drop", "rows", "drop"),
    "reclaim": ("full", "repack", "squeeze"),
    "reclaim_min_free_ratio": (0.1, 0.2, 0.4),
    "reclaim_min_bytes": (1, 2, 3),
    "reclaim_wait_seconds": (1, 2, 3),
    "pg_repack_path": ("/a", "/b", "/c"),
    "lock_type": ("file", "redis", "postgresql"),
    "lock_timeout_ms": (1, 2, 3),
    "statement_timeout_seconds": (1, 0, 3),
    "fail_on_schema_drift": ("true", "false", "true"),
    "throttle": ("{query_ms: 1.0}", "{query_ms: 2.0}", "{query_ms: 3.0}"),
    "adaptive_batch_size": ("{min_rows: 1}", "{min_rows: 2}", "{min_rows: 3}"),
    "allowed_hours": ("01:00-02:00", "22:00-03:00", "03:00-24:00"),
}
# How the sections among them are written.
AS_WRITTEN = {
    "throttle": lambda throttle: f"{{query_ms: {throttle.limits[0][1]}}}",
    "adaptive_batch_size": lambda bounds: f"{{min_rows: {bounds.min_rows}}}",
    "allowed_hours": lambda hours: str(hours).removesuffix(" UTC"),
}


def test_every_inherited_key_is_tested():
    assert set(LEVELS) == set(INHERITED)


@pytest.mark.parametrize("key", LEVELS)
def test_the_innermost_level_wins(load, key):
    outer, middle, inner = LEVELS[key]
    attribute = "sleep_between_batches_seconds" if key == "sleep_between_batches" else key
    without_days = MINIMAL.replace("        retention_days: 90\n", "" if key == "retention_days" else "\x00")
    text = without_days.replace("\x00", "        retention_days: 90\n")
    in_defaults = f"{text}defaults: {{{key}: {outer}}}\n"
    in_database = in_defaults.replace("    user: archiver\n", f"    user: archiver\n    {key}: {middle}\n")
    in_table = in_database.replace("created_at\n", f"created_at\n        {key}: {inner}\n")

    def effective(text: str) -> str:
        if key != "retention_days":
            assert text.count(" retention_days") == 1
        return str(AS_WRITTEN.get(key, str)(getattr(load(text).tables[0], attribute))).lower()

    if key == "sleep_between_batches":
        outer, middle, inner = (float(value) for value in LEVELS[key])
    assert [effective(in_defaults), effective(in_database), effective(in_table)] == [
        str(outer),
        str(middle),
        str(inner),
    ]


def test_a_zero_or_false_in_the_table_is_not_passed_over(load):
    text = with_table("sleep_between_batches: 0\nfail_on_schema_drift: false\nverify_sample_rows: 0")
    table = load(f"{text}defaults: {{verify_sample_rows: 5}}\n").tables[0]
    assert table.sleep_between_batches_seconds == 0
    assert table.fail_on_schema_drift is False
    assert table.verify_sample_rows == 0


def test_folders_start_at_the_file(load, tmp_path):
    text = with_s3("local_fallback_dir: kept") + "        staging_dir: staged/here\n"
    loaded = load(text)
    assert loaded.store.local_fallback_dir == tmp_path / "kept"
    assert loaded.tables[0].staging_dir == tmp_path / "staged/here"
    assert load(with_table("staging_dir: /var/tmp")).tables[0].staging_dir == Path("/var/tmp")


def test_the_password_of_the_environment_wins_over_a_plain_one(load):
    loaded = load(with_database("password_env: PW\npassword: plain"), PW="from-environment")
    assert loaded.databases[0].primary.password == SecretStr("from-environment")
    assert loaded.warnings == ("databases[0].password: ignored, because password_env is written too",)


def test_a_reference_wins_over_a_plain_secret_and_is_not_read(load):
    loaded = load(with_database("password_from: file:nowhere\npassword: plain"))
    assert loaded.warnings == ("databases[0].password: ignored, because password_from is written too",)
    assert loaded.databases[0].primary.password.reference.place == str(loaded.path.parent / "nowhere")
    assert load(with_s3("access_key_id: k\nsecret_access_key_from: file:nowhere")).warnings == ()


def test_plain_secrets_warn(load):
    text = with_s3("access_key_id: a\nsecret_access_key: s").replace(
        "user: archiver", "user: archiver\n    password: p\n    read_replica: {host: r, password: q}"
    )
    places = [warning.partition(":")[0] for warning in load(text).warnings]
    assert places == ["databases[0].password", "databases[0].read_replica.password", "s3.secret_access_key"]


def test_without_a_password_it_is_left_to_libpq(load):
    assert load(MINIMAL).databases[0].primary.password is None


def test_a_replica_takes_what_it_does_not_say_from_the_primary(load):
    database = load(with_database("port: 6000\npassword: p\nsslmode: require\nread_replica: replica")).databases[0]
    assert database.replica.host == "replica"
    same = ("id", "dbname", "port", "user", "password", "sslmode", "application_name")
    for name in same:
        assert getattr(database.replica, name) == getattr(database.primary, name)


def test_a_replica_may_differ_in_everything(load):
    text = with_database(
        "read_replica: {host: r, port: 7, user: reader, password_env: RPW, sslmode: verify-full, application_name: x}"
    )
    replica = load(text, RPW="rpw").databases[0].replica
    assert (replica.host, replica.port, replica.user, replica.application_name) == ("r", 7, "reader", "x")
    assert replica.password.get_secret_value() == "rpw"
    assert replica.sslmode == "verify-full"


def test_the_store_in_force(load):
    store = load(MINIMAL).store
    assert (store.prefix, store.region, store.storage_class) == ("archives", "us-east-1", "STANDARD_IA")
    assert store.multipart_threshold_bytes == 64 * 1024**2
    assert (store.access_key_id, store.secret_access_key) == (None, None)
    text = with_s3("access_key_id_env: KEY\nsecret_access_key_env: SECRET\nmultipart_threshold_mb: 5")
    store = load(text, KEY="k", SECRET="s").store
    assert (store.access_key_id, store.secret_access_key) == ("k", SecretStr("s"))
    assert store.multipart_threshold_bytes == 5 * 1024**2


@pytest.mark.parametrize(
    ("lines", "style"),
    [
        ("region: r", "auto"),
        ("endpoint: http://h:9000/", "path"),
        ("endpoint: http://h\naddressing_style: virtual", "virtual"),
        ("addressing_style: path", "path"),
    ],
)
def test_an_endpoint_means_path_style_unless_written(load, lines, style):
    assert load(with_s3(lines)).store.addressing_style == style


@pytest.mark.parametrize(
    ("database", "table", "expected"),
    [
        ("shop", None, ["shop/public.audit_logs", "shop/eu.audit_logs", "shop/public.orders"]),
        (None, "orders", ["shop/public.orders"]),
        ("billing", None, ["billing/public.audit_logs"]),
        (None, "audit_logs", ["shop/public.audit_logs", "shop/eu.audit_logs", "billing/public.audit_logs"]),
        ("shop", "audit_logs", ["shop/public.audit_logs", "shop/eu.audit_logs"]),
        (None, "eu.audit_logs", ["shop/eu.audit_logs"]),
        ("shop", "public.audit_logs", ["shop/public.audit_logs"]),
    ],
)  # fmt: skip
def test_selection(load, database, table, expected):
    selected = load(TWO_DATABASES).select_tables(database, table)
    assert [f"{one.database}/{one.qualified_name}" for one in selected] == expected


@pytest.mark.parametrize(
    ("database", "table", "hint"),
    [
        ("shp", None, "did you mean shop?"),
        ("zzz", None, "configured: billing, shop"),
        (None, "audit", "did you mean audit_logs?"),
        (None, "eu.audit_log", "did you mean eu.audit_logs?"),
        ("billing", "orders", "configured: audit_logs"),
        (None, "", "configured: audit_logs, orders"),
    ],
)
def test_a_selection_of_nothing_is_an_error_that_names_the_nearest(load, database, table, hint):
    with pytest.raises(ConfigError) as caught:
        load(TWO_DATABASES).select_tables(database, table)
    assert caught.value.hint == hint


def test_a_selection_of_everything(load):
    loaded = load(TWO_DATABASES)
    assert loaded.select_tables(None, None) == loaded.tables
    assert len(loaded.tables) == 4


def test_a_database_by_id(load):
    loaded = load(TWO_DATABASES)
    assert loaded.database("billing").tables == loaded.select_tables("billing", None)
    with pytest.raises(ConfigError):
        loaded.database("audit_logs")


SECRETS = ("hunter2-pg", "hunter2-replica", "hunter2-s3", "hunter2-slack", "hunter2-teams", "hunter2-mail")
WITH_SECRETS = """\
s3: {bucket: archive, access_key_id: a, secret_access_key: hunter2-s3}
databases:
  - name: shop
    host: h
    user: u
    password_env: PW
    read_replica: {host: r, password: hunter2-replica}
    tables: [{name: t, timestamp_column: at, retention_days: 9}]
notifications:
  slack: {webhook_url: hunter2-slack}
  teams: {webhook_url: "${TEAMS}"}
  email: {password: hunter2-mail}
"""


def test_no_secret_is_shown_by_anything_that_was_loaded(load):
    loaded = load(WITH_SECRETS, PW="hunter2-pg", TEAMS="hunter2-teams")
    shown = " ".join(
        f"{thing!r} {thing}"
        for thing in (loaded, loaded.config, loaded.store, loaded.databases, loaded.warnings, loaded.tables)
    )
    shown += loaded.config.model_dump_json()
    assert [secret for secret in SECRETS if secret in shown] == []
    assert loaded.databases[0].primary.password.get_secret_value() == "hunter2-pg"


@pytest.mark.parametrize(
    ("find", "replace"),
    [
        ("password: hunter2-replica", "password: [hunter2-replica]"),
        ("secret_access_key: hunter2-s3", "secret_access_key: {hunter2-s3: 1}"),
        ("webhook_url: hunter2-slack", "webhook_url: [hunter2-slack]"),
        ("secret_access_key: hunter2-s3", "storage_class: hunter2-s3"),
        ("bucket: archive", "bucket: 'hunter2-s3/x'"),
        ("user: u", "port: hunter2-pg"),
        ("user: u", "port: ${PW}"),
        ("password_env: PW", "password_env: hunter2-pg"),
        ("name: t,", "name: '${PW}/x',"),
    ],
)
def test_no_secret_is_shown_by_an_error(load, find, replace):
    with pytest.raises(ConfigError) as caught:
        load(WITH_SECRETS.replace(find, replace), PW="hunter2-pg", TEAMS="hunter2-teams")
    error = caught.value
    shown = f"{error} {error!r} {error.problems} {error.__cause__!r}"
    assert [secret for secret in SECRETS if secret in shown] == []
    assert error.__suppress_context__, "the exception underneath could carry values into a traceback"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    path = config_named(tmp_path, "archiver.yaml", "bucket-1")
    path.chmod(0)
    with pytest.raises(ConfigError, match="can't be read"):
        load_config(path, environ={}, cwd=tmp_path)


def test_the_pool_of_a_database_is_inherited_too(load):
    assert load(MINIMAL).databases[0].connection_pool_size == 10
    in_defaults = "defaults: {connection_pool_size: 4}\n"
    assert load(MINIMAL + in_defaults).databases[0].connection_pool_size == 4
    assert load(with_database("connection_pool_size: 6") + in_defaults).databases[0].connection_pool_size == 6


def test_even_a_raw_validation_error_shows_no_value():
    with pytest.raises(ValidationError) as caught:
        ArchiverConfig.model_validate({"s3": {"bucket": "archive", "secret_access_key": ["hunter2-s3"]}})
    assert "hunter2" not in str(caught.value)
