"""Single values: what each key accepts, and what it says when it does not."""

import pytest

from archiver_pipeline.config import Encryption
from archiver_pipeline.config.models import ArchiverConfig
from archiver_pipeline_tests.config.conftest import MINIMAL, with_database, with_s3, with_table, without

TABLE = "databases[0].tables[0]"

EVERY_PROMISED_KEY = """
version: "1.0"
s3: {bucket: b-1, endpoint: "https://minio:9000", prefix: p, region: r, storage_class: GLACIER,
     encryption: SSE-KMS, kms_key_id: k, local_fallback_dir: /tmp/f, multipart_threshold_mb: 5,
     access_key_id: a, secret_access_key: s}
defaults: {retention_days: 90, batch_size: 100, sleep_between_batches: 0.5, parallel_databases: true,
     max_parallel_databases: 2, connection_pool_size: 4, compression_level: 6, vacuum_strategy: full,
     lock_type: redis, fail_on_schema_drift: false}
databases:
  - {name: d, host: h, port: 5433, user: u, password_env: PW, password: x, read_replica: r,
     connection_pool_size: 3,
     tables: [{name: t, schema: s, timestamp_column: c, primary_key: [a, b], retention_days: 40,
               batch_size: 7, critical: true, classification: pii}]}
legal_holds: {enabled: true, source: api, table: legal.holds}
compliance: {retention_policy: {enabled: true, min_retention_days: 7, max_retention_days: 2555},
     enforce_encryption: true, data_classifications: {pii: {min_retention_days: 30}}}
restore_watermark: {enabled: true, storage_type: both}
monitoring: {metrics_enabled: true, metrics_port: 8000, health_check_enabled: true, health_check_port: 8001,
     progress_enabled: true}
notifications: {enabled: true, slack: {webhook_url: "https://s", channel: "#c"},
     teams: {webhook_url: "https://t"},
     email: {smtp_host: m, smtp_port: 25, use_tls: false, username: u, password: p, password_env: E,
             from: a@b, to: c@d},
     send_on_success: true, send_on_failure: true, send_on_start: true, send_on_threshold: true,
     digest_mode: true,
     rate_limit_hours: 4, quiet_hours_start: 22, quiet_hours_end: 6}
"""


def test_every_promised_key_loads(load):
    config = load(EVERY_PROMISED_KEY, PW="x").config
    assert config.databases[0].tables[0].primary_key == ("a", "b")
    assert config.notifications.email.to == ("c@d",)
    assert config.notifications.quiet_hours_start == 22


@pytest.mark.parametrize("version", ['"1"', '"1.0"', "1", "1.0"])
def test_spellings_of_the_version(load, version):
    assert load(f"version: {version}\n{MINIMAL}").config.version == "1"


@pytest.mark.parametrize("version", ["2", "1.1", "true", '""', "[1]"])
def test_other_versions_are_refused(problems, version):
    assert set(problems(f"version: {version}\n{MINIMAL}")) == {"version"}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("none", Encryption.NONE),
        ("sse-s3", Encryption.SSE_S3),
        ("AES256", Encryption.SSE_S3),
        ("Sse-Kms", Encryption.SSE_KMS),
        ("aws:kms", Encryption.SSE_KMS),
        ("off", Encryption.NONE),
    ],
)
def test_spellings_of_encryption(load, written, expected):
    assert load(with_s3(f"encryption: {written}\nkms_key_id: k")).store.encryption is expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1048576", 1024**2),
        ("512MB", 512 * 1000**2),
        ("2GiB", 2 * 1024**3),
        ("1.5 gib", 3 * 1024**3 // 2),
        ("'2097152'", 2 * 1024**2),
    ],
)
def test_sizes(load, written, expected):
    assert load(with_table(f"max_staged_bytes: {written}")).tables[0].max_staged_bytes == expected


@pytest.mark.parametrize("line", ["primary_key: id", "primary_key: [id]"])
def test_one_primary_key_column_or_a_list(load, line):
    assert load(with_table(line)).tables[0].primary_key == ("id",)


@pytest.mark.parametrize(("written", "expected"), [("archives", "archives"), ("/a/b/", "a/b"), ("/", "")])
def test_prefix_loses_its_outer_slashes(load, written, expected):
    assert load(with_s3(f"prefix: {written}")).store.prefix == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("retention_days: 0", "must be at least 1"),
        ("batch_size: 0", "must be at least 1"),
        ("batch_size: 1000001", "must be at most 1000000"),
        ("batch_size: many", "must be a whole number"),
        ("batch_size: 1.5", "must be a whole number"),
        ("batch_size: yes", "must be a number, not true or false"),
        ("sleep_between_batches: -1", "must be at least 0"),
        ("sleep_between_batches: .nan", "must be a finite number"),
        ("connection_pool_size: 0", "must be at least 1"),
        ("compression_level: 23", "must be at most 22"),
        ("compression_level: 0", "must be at least 1"),
        ("workers: 0", "must be at least 1"),
        ("max_staged_bytes: 2 potatoes", "must be a number of bytes, or a size like 512MB or 2GiB"),
        ("max_staged_bytes: 5", "must be at least 1048576"),
        ("verify_sample_rows: -1", "must be at least 0"),
        ("lock_timeout_ms: 0", "must be at least 1"),
        ("statement_timeout_seconds: -1", "must be at least 0"),
        ("fail_on_schema_drift: perhaps", "must be true or false"),
        ("first_window: 2020", "must be a date like 2020-01-01"),
        ("first_window: soon", "must be a date like 2020-01-01"),
        ("first_window: 2020-01-01 12:00:00", "must be a date like 2020-01-01"),
        ("vacuum_strategy: hard", "must be one of none, analyze, standard, full"),
        ("lock_type: zookeeper", "must be one of postgresql, redis, file"),
        ("format: csv", "must be one of jsonl.gz, parquet"),
        ("window: year", "must be one of hour, day, week, month"),
        ("primary_key: []", "must have at least one entry"),
        ("primary_key: [id, id]", "must not name one twice"),
        ("classification: 7", "must be text"),
    ],
)
def test_wrong_values_of_a_table(problems, line, message):
    key = line.partition(":")[0]
    text = with_table(line) if key != "retention_days" else MINIMAL.replace("retention_days: 90", line)
    found = problems(text)
    assert {path: problem.message for path, problem in found.items()} == {f"{TABLE}.{key}": message}
    assert found[f"{TABLE}.{key}"].line == (10 if key == "retention_days" else 11)


@pytest.mark.parametrize("name", ["a/b", "..", "' a'", '"a\\nb"', f"{'x' * 64}", "''"])
def test_names_that_can_not_be_a_part_of_a_key(problems, name):
    assert set(problems(MINIMAL.replace("name: audit_logs", f"name: {name}"))) == {f"{TABLE}.name"}


@pytest.mark.parametrize(
    "line",
    [
        "prefix: a//b",
        "prefix: a/../b",
        "prefix: ./a",
        "endpoint: minio:9000",
        "endpoint: https://u:hunter2@minio",
        "endpoint: https://minio/bucket",
        "storage_class: TAPE",
        "encryption: rot13",
        "multipart_threshold_mb: 4",
        "addressing_style: sideways",
        "access_key_id_env: AKIA-hunter2",
        "region: ''",
    ],
)
def test_wrong_values_of_the_store(problems, line):
    found = problems(with_s3(line))
    assert set(found) == {f"s3.{line.partition(':')[0]}"}
    assert "hunter2" not in str(found)


@pytest.mark.parametrize("bucket", ["s3://archive", "archive/x", "a", "''"])
def test_a_bucket_is_a_bare_name(problems, bucket):
    assert set(problems(MINIMAL.replace("bucket: archive", f"bucket: {bucket}"))) == {"s3.bucket"}


@pytest.mark.parametrize("hour", ["24", "-1", "22:00"])
def test_quiet_hours_are_hours_of_a_day(problems, hour):
    text = f"{MINIMAL}notifications:\n  quiet_hours_start: {hour}\n"
    assert set(problems(text)) == {"notifications.quiet_hours_start"}


@pytest.mark.parametrize("port", ["0", "65536"])
def test_ports_have_bounds(problems, port):
    assert set(problems(with_database(f"port: {port}"))) == {"databases[0].port"}


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("  bucket: archive", "s3.bucket"),
        ("    host: localhost", "databases[0].host"),
        ("    user: archiver", "databases[0].user"),
        ("        timestamp_column: created_at", f"{TABLE}.timestamp_column"),
        ("        retention_days: 90", f"{TABLE}.retention_days"),
    ],
)
def test_required_keys(problems, line, path):
    found = problems(without(line).replace("s3:\ndatabases", "s3: {}\ndatabases"))
    assert set(found) == {path}
    assert "required" in found[path].message
    assert found[path].line is not None


def test_a_section_without_content_counts_as_not_written(load):
    loaded = load(f"defaults:\nnotifications:\nmonitoring:\n{with_table('workers:')}")
    assert loaded.tables[0].workers is None
    assert loaded.config.monitoring.metrics_port == 8000


def test_models_are_frozen(load):
    config: ArchiverConfig = load(MINIMAL).config
    with pytest.raises(ValueError, match="frozen"):
        config.version = "2"


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("replica", "replica", None),
        ("replica:6432", "replica", 6432),
        ("'[::1]:6432'", "::1", 6432),
        ("'[::1]'", "::1", None),
        ("'fe80::1'", "fe80::1", None),
        ("{host: replica, port: 7}", "replica", 7),
    ],
)
def test_spellings_of_a_replica(load, written, host, port):
    replica = load(with_database(f"read_replica: {written}")).config.databases[0].read_replica
    assert (replica.host, replica.port) == (host, port)


def test_a_wrong_port_of_a_replica(problems):
    assert set(problems(with_database("read_replica: replica:x"))) == {"databases[0].read_replica.port"}


@pytest.mark.parametrize("written", ["[pii, public]", "{pii: , public: {}}"])
def test_classifications_without_rules(load, written):
    config = load(f"{MINIMAL}compliance:\n  data_classifications: {written}\n").config
    assert set(config.compliance.data_classifications) == {"pii", "public"}
