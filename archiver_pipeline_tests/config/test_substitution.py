"""`${VAR}` in values."""

import pytest

from archiver_pipeline.config.substitution import Substituted, expand
from archiver_pipeline_tests.config.conftest import MINIMAL, with_database, with_s3, with_table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "one"),
        ("x-${A}-${B:-two}", "x-one-two"),
        ("${EMPTY:-fallback}", "fallback"),
        ("${EMPTY}", ""),
        ("${B:-}", ""),
        ("${B:-http://h:1/a?b=c}", "http://h:1/a?b=c"),
        ("$${A}", "${A}"),
        ("$A $ {A}", "$A $ {A}"),
        ("${NESTED}", "${A}"),
    ],
)
def test_text_after_substitution(text, expected):
    expansion = expand(text, {"A": "one", "EMPTY": "", "NESTED": "${A}"})
    assert (expansion.text, expansion.missing, expansion.malformed) == (expected, (), False)


@pytest.mark.parametrize("text", ["${", "${}", "${1A}", "${A:fallback}", "${A-b}"])
def test_malformed_variables_are_noticed(text):
    assert expand(text, {"A": "one"}).malformed


@pytest.mark.parametrize(("text", "whole"), [("${A}", True), ("x${A}", False), ("${A}${A}", False), ("$${A}", False)])
def test_only_a_value_that_is_wholly_one_variable_is_marked(text, whole):
    assert isinstance(expand(text, {"A": "1"}).text, Substituted) is whole


def test_every_missing_variable_is_reported_with_its_place(problems):
    text = with_s3("region: ${REGION}\nendpoint: https://${HOST}:${S3_PORT}")
    text = text.replace("host: localhost", "host: ${DB_HOST}")
    with_places = {path: (p.message, p.line) for path, p in problems(text, S3_PORT="1").items()}
    assert with_places == {
        "s3.region": ("environment variable REGION is not set", 3),
        "s3.endpoint": ("environment variable HOST is not set", 4),
        "databases[0].host": ("environment variable DB_HOST is not set", 7),
    }


def test_a_number_stays_text_where_the_key_wants_text(load):
    loaded = load(with_database("port: ${PORT}\npassword: ${PASSWORD}"), PORT="6543", PASSWORD="0123")
    primary = loaded.databases[0].primary
    assert primary.port == 6543
    assert primary.password.get_secret_value() == "0123"


def test_a_variable_may_hold_a_boolean_a_date_or_a_size(load):
    text = with_table(
        "fail_on_schema_drift: ${DRIFT}\nfirst_window: ${FIRST}\nmax_staged_bytes: ${STAGED}\nformat: ${FORMAT}"
    )
    table = load(text, DRIFT="no", FIRST="2021-05-06", STAGED="3MiB", FORMAT="parquet").tables[0]
    assert table.fail_on_schema_drift is False
    assert table.first_window.isoformat() == "2021-05-06"
    assert table.max_staged_bytes == 3 * 1024**2
    assert table.format == "parquet"


def test_a_variable_that_is_no_number_is_a_problem_of_its_key(problems):
    assert set(problems(with_database("port: ${PORT}"), PORT="abc")) == {"databases[0].port"}


def test_an_empty_default_means_not_written(load):
    assert load(with_table("workers: ${WORKERS:-}")).tables[0].workers is None


def test_malformed_variable_in_a_file(problems):
    assert "malformed" in problems(MINIMAL.replace("localhost", "'${DB HOST}'"))["databases[0].host"].message


def test_keys_are_not_substituted(problems):
    assert "s3.${A}" in problems(with_s3("'${A}': x"), A="region")
