"""Rules between keys, and that one reading of the file reports everything."""

import pytest

from archiver_pipeline_tests.config.conftest import MINIMAL, with_database, with_s3, with_table

TABLE = "databases[0].tables[0]"
SECOND_DATABASE = """\
  - name: shop
    host: elsewhere
    user: archiver
    tables:
      - {name: audit_logs, timestamp_column: at, retention_days: 90}
"""


def test_two_databases_of_one_name_need_an_id(problems, load):
    found = problems(MINIMAL + SECOND_DATABASE)
    assert {path: (p.message, p.line) for path, p in found.items()} == {
        "databases[1].name": ("database shop is already at databases[0]", 11)
    }
    with_id = MINIMAL + SECOND_DATABASE.replace("name: shop\n", "name: shop\n    id: shop_eu\n")
    assert [database.id for database in load(with_id).databases] == ["shop", "shop_eu"]


def test_an_id_may_not_be_the_name_of_another_database(problems):
    text = MINIMAL + SECOND_DATABASE.replace("name: shop\n", "name: other\n    id: shop\n")
    assert set(problems(text)) == {"databases[1].id"}


@pytest.mark.parametrize("key_id", ["a/b", "..", "_audit", "_dagster", "'a '"])
def test_ids_that_can_not_be_a_part_of_a_key(problems, key_id):
    assert set(problems(with_database(f"id: {key_id}"))) == {"databases[0].id"}
    assert set(problems(MINIMAL.replace("name: shop", f"name: {key_id}"))) == {"databases[0].name"}


def test_an_id_saves_a_name_that_can_not_be_a_part_of_a_key(load):
    loaded = load(MINIMAL.replace("name: shop", "name: a/b\n    id: ab"))
    assert (loaded.databases[0].id, loaded.databases[0].primary.dbname) == ("ab", "a/b")


def test_a_table_is_listed_once_per_schema(problems, load):
    again = "      - {name: audit_logs, SCHEMA timestamp_column: at, retention_days: 90}\n"
    found = problems(MINIMAL + again.replace("SCHEMA", ""))
    assert {path: p.message for path, p in found.items()} == {
        "databases[0].tables[1].name": f"table public.audit_logs is already at {TABLE}"
    }
    assert len(load(MINIMAL + again.replace("SCHEMA", "schema: eu,")).tables) == 2


def test_a_schema_named_like_a_public_table_warns(load):
    loaded = load(MINIMAL + "      - {name: x, schema: audit_logs, timestamp_column: at, retention_days: 9}\n")
    assert len(loaded.warnings) == 1
    assert loaded.warnings[0].startswith("databases[0].tables[1].schema: ")


def policy(rules: str, *, days: int = 90, classification: str | None = None) -> str:
    text = MINIMAL.replace("retention_days: 90", f"retention_days: {days}")
    if classification:
        text += f"        classification: {classification}\n"
    return f"{text}compliance: {{{rules}}}\n"


BOUNDS = "retention_policy: {min_retention_days: 30, max_retention_days: 100}"


@pytest.mark.parametrize("days", [30, 100])
def test_the_bounds_of_the_policy_are_allowed(load, days):
    assert load(policy(BOUNDS, days=days)).tables[0].retention_days == days


@pytest.mark.parametrize(("days", "words"), [(29, "minimum of 30"), (101, "maximum of 100")])
def test_retention_outside_the_policy_is_refused(problems, days, words):
    found = problems(policy(BOUNDS, days=days))
    assert set(found) == {f"{TABLE}.retention_days"}
    assert words in found[f"{TABLE}.retention_days"].message


def test_a_disabled_policy_refuses_nothing(load):
    assert load(policy("retention_policy: {enabled: false, min_retention_days: 365}"))


def test_the_classification_replaces_the_bound_of_the_policy(load, problems):
    rules = f"{BOUNDS}, data_classifications: {{pii: {{min_retention_days: 5}}, tax: {{min_retention_days: 60}}}}"
    assert load(policy(rules, days=10, classification="pii"))
    assert problems(policy(rules, days=40, classification="tax"))
    assert problems(policy(rules, days=101, classification="pii")), "the other bound stays the policy's"


def test_an_inherited_violation_names_where_it_comes_from(problems):
    text = MINIMAL.replace("        retention_days: 90\n", "")
    found = problems(f"{text}defaults: {{retention_days: 5}}\ncompliance: {{{BOUNDS}}}\n")
    assert "from defaults.retention_days" in found[f"{TABLE}.retention_days"].message


def test_an_unknown_classification_is_refused_and_the_nearest_named(problems, load):
    """Else a slip of the pen takes a table out of its rules."""
    [found] = problems(policy("data_classifications: [personal]", classification="personel")).values()
    assert (found.path, found.hint) == (f"{TABLE}.classification", "did you mean personal?")
    assert load(policy("enforce_encryption: false", classification="a word where none is declared"))


@pytest.mark.parametrize("place", ["table", "database", "defaults"])
def test_below_the_floor_a_retention_needs_a_reason(problems, load, place):
    def text(reason):
        line = f'retention_floor_override: "{reason}"'
        short = MINIMAL.replace("retention_days: 90", "retention_days: 6")
        if place == "defaults":
            return f"{short}defaults: {{{line}}}\n"
        indent, after = (8, "retention_days: 6\n") if place == "table" else (4, "user: archiver\n")
        return short.replace(after, f"{after}{' ' * indent}{line}\n")

    loaded = load(text("drained hourly into the warehouse"))
    assert str(loaded.tables[0].below_floor) == (
        "retention_days 6 is below the floor of 7: drained hourly into the warehouse"
    )
    assert loaded.warnings == (f"{TABLE}: {loaded.tables[0].below_floor}",)
    [found] = problems(text("    because    ")).values()
    assert "must say why" in found.message
    [found] = problems(MINIMAL.replace("retention_days: 90", "retention_days: 6")).values()
    assert found.path == f"{TABLE}.retention_days"
    assert "retention_floor_override" in str(found.hint)
    at_the_floor = load(MINIMAL.replace("retention_days: 90", "retention_days: 7"))
    assert (at_the_floor.tables[0].below_floor, at_the_floor.warnings) == (None, ())


def test_the_floor_holds_without_a_policy_and_for_variables(problems):
    text = MINIMAL.replace("retention_days: 90", "retention_days: ${DAYS}")
    text += "compliance: {retention_policy: {enabled: false}}\n"
    assert set(problems(text, DAYS="1")) == {f"{TABLE}.retention_days"}


def test_a_reason_does_not_get_past_the_policy(problems):
    line = "retention_floor_override: a reason that is long enough\n        retention_days: 3"
    text = MINIMAL.replace("retention_days: 90", line)
    for least in (5, 30):
        [found] = problems(f"{text}compliance: {{retention_policy: {{min_retention_days: {least}}}}}\n").values()
        assert f"minimum of {least}" in found.message


def test_archives_stay_longer_than_rows(load, problems):
    assert load(MINIMAL).tables[0].archive_retention_days is None
    assert load(with_table("archive_retention_days: 91")).tables[0].archive_retention_days == 91
    for days in (1, 90):
        [found] = problems(f"{MINIMAL}defaults: {{archive_retention_days: {days}}}\n").values()
        assert found.path == f"{TABLE}.archive_retention_days"
        assert "from defaults.archive_retention_days" in found.message


@pytest.mark.parametrize(
    ("days", "classification", "least"), [(364, None, 365), (499, "tax", 500), (150, "logs", None)]
)
def test_archives_stay_as_long_as_the_policy_says(load, problems, days, classification, least):
    rules = (
        "retention_policy: {min_archive_retention_days: 365}, data_classifications:"
        " {tax: {min_archive_retention_days: 500}, logs: {min_archive_retention_days: 100}}"
    )
    text = policy(f"{rules}", days=60, classification=classification).replace(
        "        retention_days: 60\n", f"        retention_days: 60\n        archive_retention_days: {days}\n"
    )
    if least is None:
        assert load(text)
        return
    [found] = problems(text).values()
    assert f"minimum of {least}" in found.message


@pytest.mark.parametrize("level", ["defaults", "database", "table"])
def test_gzip_levels_end_at_9(problems, load, level):
    def text(line: str) -> str:
        if level == "defaults":
            return f"{MINIMAL}defaults: {{{line}}}\n"
        return (with_table if level == "table" else with_database)(line.replace(", ", "\n"))

    place = {"defaults": "defaults", "database": "databases[0]", "table": TABLE}[level]
    assert set(problems(text("compression_level: 10"))) == {f"{place}.compression_level"}
    assert load(text("compression_level: 9")).tables[0].compression_level == 9
    assert load(text("compression_level: 10, format: parquet")).tables[0].compression_level == 10


def test_sse_kms_needs_a_key(problems, load):
    assert set(problems(with_s3("encryption: SSE-KMS"))) == {"s3.kms_key_id"}
    assert load(with_s3("encryption: SSE-KMS\nkms_key_id: k")).store.kms_key_id == "k"


def test_critical_tables_must_be_encrypted_where_enforced(problems, load):
    critical = with_table("critical: true")
    enforced = "compliance: {enforce_encryption: true}\n"
    assert set(problems(critical + enforced)) == {TABLE}
    assert load(MINIMAL + enforced), "other tables may stay as they are"
    assert load(critical).warnings == (f"{TABLE}.critical: a critical table, but s3.encryption is none",)
    encrypted = critical.replace("bucket: archive", "bucket: archive\n  encryption: SSE-S3")
    assert load(encrypted + enforced).warnings == ()


def test_a_classification_can_require_encryption(problems):
    rules = "data_classifications: {pii: {require_encryption: true}}"
    assert set(problems(policy(rules, classification="pii"))) == {TABLE}


def test_a_misspelt_encryption_is_the_only_problem_it_causes(problems):
    text = with_s3("encryption: SSE-S4") + "        critical: true\ncompliance: {enforce_encryption: true}\n"
    assert set(problems(text)) == {"s3.encryption"}


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("access_key_id: a", "secret_access_key"),
        ("access_key_id_env: A", "secret_access_key"),
        ("secret_access_key: s", "access_key_id"),
    ],
)
def test_store_credentials_come_together(problems, line, missing):
    assert set(problems(with_s3(line), A="a")) == {f"s3.{missing}"}


def test_every_unset_secret_is_reported_and_empty_counts_as_unset(problems):
    text = with_s3("access_key_id_env: KEY\nsecret_access_key_env: SECRET").replace(
        "user: archiver",
        "user: archiver\n    password_env: PASSWORD\n    read_replica: {host: r, password_env: REPLICA}",
    )
    found = problems(text, SECRET="", KEY="x")
    assert {path: p.message for path, p in found.items()} == {
        "s3.secret_access_key_env": "environment variable SECRET is empty",
        "databases[0].password_env": "environment variable PASSWORD is not set",
        "databases[0].read_replica.password_env": "environment variable REPLICA is not set",
    }


EVERYTHING_WRONG = """\
version: 2
bucket: x
s3: {bukket: foo, encryption: sse-kms, region: "${REGION}"}
defaults: {lock_type: postgres, batch_sise: 3}
databases:
  - name: a
    host: h
    user: 55
    port: 0
    password_env: NOPE
    tables:
      - {name: t, timestamp_column: c, retention_days: 0}
      - {name: t}
      - {name: u, timestamp_column: c, window: decade}
  - {name: a, host: h, user: u, tables: []}
"""


def test_one_reading_reports_every_kind_of_problem(problems):
    found = problems(EVERYTHING_WRONG)
    lines = [problem.line for problem in found.values()]
    assert lines == sorted(lines)
    assert set(found) == {
        "version",
        "bucket",
        "s3.bucket",
        "s3.bukket",
        "s3.kms_key_id",
        "s3.region",
        "defaults.lock_type",
        "defaults.batch_sise",
        "databases[0].user",
        "databases[0].port",
        "databases[0].password_env",
        "databases[0].tables[0].retention_days",
        "databases[0].tables[1].name",
        "databases[0].tables[1].timestamp_column",
        "databases[0].tables[1].retention_days",
        "databases[0].tables[2].window",
        "databases[0].tables[2].retention_days",
        "databases[1].name",
        "databases[1].tables",
    }


@pytest.mark.parametrize(
    ("text", "path", "hint"),
    [
        (with_table("retention_day: 5"), f"{TABLE}.retention_day", "did you mean retention_days?"),
        (with_table("shema: x"), f"{TABLE}.shema", "did you mean schema?"),
        (with_database("pasword_env: x"), "databases[0].pasword_env", "did you mean password_env?"),
        (f"databse: x\n{MINIMAL}", "databse", "did you mean databases?"),
        (f"bucket: x\n{MINIMAL}", "bucket", "bucket belongs under s3"),
        (with_s3("timestamp_column: x"), "s3.timestamp_column", "belongs under databases[].tables"),
        (f"{MINIMAL}compliance: {{data_classifications: {{pii: {{min_days: 1}}}}}}\n",
         "compliance.data_classifications.pii.min_days", "did you mean min_retention_days?"),
        (f"{MINIMAL}notifications: {{email: {{form: x}}}}\n",
         "notifications.email.form", "did you mean from?"),
        (with_s3("zzz: x"), "s3.zzz", "known here: access_key_id, "),
        (f"{MINIMAL}defaults: {{vacuum_strategy: ful}}\n", "defaults.vacuum_strategy", "did you mean full?"),
    ],
)  # fmt: skip
def test_hints_name_the_nearest_right_spelling(problems, text, path, hint):
    found = problems(text)
    assert set(found) == {path}
    assert hint in found[path].hint


@pytest.mark.parametrize("section", ["s3", "defaults", "databases", "compliance", "databases[0].tables"])
@pytest.mark.parametrize("value", ["5", "text", "[1]", "{a: 1}"])
def test_sections_of_the_wrong_shape_are_problems_not_tracebacks(problems, section, value):
    lines = {
        "s3": MINIMAL.replace("s3:\n  bucket: archive\n", f"s3: {value}\n"),
        "databases": f"s3: {{bucket: archive}}\ndatabases: {value}\n",
        "databases[0].tables": MINIMAL[: MINIMAL.index("    tables:")] + f"    tables: {value}\n",
    }
    text = lines.get(section, f"{MINIMAL}{section}: {value}\n")
    found = problems(text)
    assert found
    assert all(path.startswith(section) for path in found)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6379/0",
        "rediss://user:p%40ss@redis.example.com:6380/2?ssl_cert_reqs=none",
        "redis://:secret@[::1]:6379",
        "unix:///run/redis.sock?db=1",
    ],
)
def test_addresses_of_redis(load, url):
    text = f"{MINIMAL}lock: {{redis_url_env: REDIS}}\n"
    assert load(text, REDIS=url).databases[0].lock.redis_url.get_secret_value() == url


NO_ADDRESSES = ["localhost:6379", "http://:hunter2@h", "redis://:hunter2@", "redis://:hun/ter2@h", "x"]


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_addresses_of_redis_that_are_none_are_not_repeated(problems, url):
    found = problems(f"{MINIMAL}lock: {{redis_url_env: REDIS}}\n", REDIS=url)
    assert set(found) == {"lock.redis_url_env"}
    assert "must be a URL" in found["lock.redis_url_env"].message
    assert "ter2" not in str(found)


def test_the_variable_with_the_address_of_redis_must_be_set(problems):
    found = problems(f"{MINIMAL}lock: {{redis_url_env: REDIS}}\n")
    assert "environment variable REDIS is not set" in found["lock.redis_url_env"].message


def test_the_lock_of_a_table_and_of_one_that_is_not_configured(load):
    text = with_table("lock_type: redis").replace("    user: archiver\n", "    user: archiver\n    lock_type: file\n")
    loaded = load(f"{text}lock: {{directory: locks, ttl_seconds: 9}}\n")
    [database] = loaded.databases
    assert (database.lock_of(None).lock_type, database.lock_of(database.tables[0]).lock_type) == ("file", "redis")
    assert database.lock.ttl_seconds == 9
    assert database.lock.directory == loaded.path.parent / "locks"
    assert database.lock.redis_url.get_secret_value() == "redis://localhost:6379/0"


@pytest.mark.parametrize(
    ("lock", "warned"),
    [
        ("redis_url: redis://localhost", []),
        ("redis_url: 'redis://:hunter2@localhost'", ["lock.redis_url: a secret in the file"]),
        ("{redis_url: redis://localhost, redis_url_env: REDIS}", ["lock.redis_url: ignored"]),
    ],
)
def test_a_password_in_the_address_of_redis_warns(load, lock, warned):
    written = lock if lock.startswith("{") else f"{{{lock}}}"
    loaded = load(f"{MINIMAL}lock: {written}\n", REDIS="redis://other")
    assert [warning.partition(";")[0].partition(",")[0] for warning in loaded.warnings] == warned
    assert "hunter2" not in repr(loaded) + repr(loaded.warnings)


def test_a_secret_is_kept_in_one_place_only(problems):
    found = problems(with_database("password_from: vault:secret/db#p\npassword_env: PW"), PW="x")
    assert set(found) == {"databases[0].password_from"}
    assert "password_env is written, too" in found["databases[0].password_from"].message


@pytest.mark.parametrize("reference", ["hunter2", "vaullt:secret/db#p", "file:"])
def test_a_misspelt_reference_names_the_right_ones_and_nothing_of_itself(problems, reference):
    found = problems(with_database(f"password_from: '{reference}'"))["databases[0].password_from"]
    for scheme in ("file:<path>", "aws-secretsmanager:<name or ARN>", "vault:<mount>/<path>#<key>"):
        assert scheme in found.message
    assert "hunter2" not in str(found)


def test_a_password_file_is_told_its_name_here(problems):
    found = problems(with_database("password_file: /run/secrets/db"))["databases[0].password_file"]
    assert found.hint == "write password_from: file:<path>"
