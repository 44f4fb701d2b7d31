"""`archiver cost`: what it prints for a size, for rows, and for the tables of a configuration."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from archiver_pipeline.cli.main import app
from archiver_pipeline.config.enums import StorageClass
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline_tests.cli.workplace import PASSWORD_VARIABLE
from archiver_pipeline_tests.docs.reading import ROOT
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, YOUNG_ROWS

EXAMPLE = str(ROOT / "docs" / "prices.example.yaml")


def cost(*arguments):
    """What is printed for a size; errors are raised."""
    shown = CliRunner().invoke(app, ["cost", *arguments], env={"COLUMNS": "80"}, standalone_mode=False)
    if shown.exception:
        raise shown.exception
    return shown.output


def figures(*arguments):
    return json.loads(cost(*arguments, "--json"))


def test_a_size_is_priced_and_says_that_it_is_an_estimate():
    shown = cost("--size-gb", "100")
    assert "An estimate in USD at AWS S3 us-east-1 prices of 2026-11" in " ".join(shown.split())
    assert "STANDARD_IA" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_comparing_shows_every_class_in_full_on_a_narrow_terminal():
    shown = cost("--size-gb", "100", "--compare", "--restore-share", "0.1")
    assert [name for name in StorageClass if f"{name} " not in shown] == []
    assert max(map(len, shown.splitlines())) <= 80
    assert "Least for 12 months: DEEP_ARCHIVE" in shown


def test_rows_and_a_size_are_two_ways_to_say_the_same():
    by_rows = figures("--rows", "2147483648", "--avg-row-bytes", "100", "--compare")
    by_size = figures("--size-gb", "200", "--avg-row-bytes", "100", "--compare")
    assert by_rows["classes"] == by_size["classes"]
    assert by_rows["load"]["rows_bytes"] == 200 * 2**30


def test_every_option_has_its_effect():
    base = figures("--size-gb", "100")
    assert base["load"]["compression_ratio"] == 0.3
    (found,) = base["classes"]
    assert found["storage_class"] == "STANDARD_IA"
    for option, value, key in (
        ("--months", "24", "total"),
        ("--compression-ratio", "0.1", "month"),
        ("--batch-size", "100", "write"),
        ("--restore-share", "0.5", "read"),
        ("--storage-class", "GLACIER", "month"),
        ("--disk-price", "0.01", "pays_after_disk"),
        ("--prices", EXAMPLE, "month"),
    ):
        assert figures("--size-gb", "100", option, value)["classes"][0][key] != found[key], option
    assert figures("--size-gb", "100", "--region", "us-east-1") == base
    bulk = figures("--size-gb", "1", "--storage-class", "GLACIER", "--restore-share", "1", "--retrieval-tier", "Bulk")
    assert bulk["classes"][0]["read"] < 0.01


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--size-gb", "1", "--rows", "1"], "exclude each other"),
        (["--size-gb", "1", "--region", "mars"], "no prices of region 'mars'"),
        (["--size-gb", "1", "--prices", "nowhere.yaml"], "can't be read"),
        (["--size-gb", "1", "--prices", EXAMPLE, "--storage-class", "GLACIER"], "has no price of GLACIER"),
        (
            ["--size-gb", "1", "--compare", "--restore-share", "1", "--retrieval-tier", "Expedited"],
            "DEEP_ARCHIVE has no retrieval tier Expedited",
        ),
        (["--config", "nowhere.yaml"], "no such configuration file"),
    ],
)
def test_what_cannot_be_priced_is_told(arguments, told):
    with pytest.raises(ArchiverError) as caught:
        cost(*arguments)
    assert (caught.value.exit_code, told in str(caught.value)) == (3, True)


def table_days(workplace):
    """Days from the oldest row to the retention."""
    query = "SELECT extract(epoch FROM now() - interval '30 days' - min(created_at)) / 86400 FROM audit_logs"
    return float(workplace.database.execute(query)[0][0])


def test_a_configuration_is_measured_and_left_as_it_is(workplace):
    workplace.database.execute("ANALYZE audit_logs")
    found = workplace.run("cost", "--compare", "--json")
    assert found.code == 0, found.stderr
    assert "the prices are AWS S3 us-east-1's" in found.error
    (table,) = found.json["tables"]
    assert table["name"] == "appdb.public.audit_logs"
    assert (table["rows"], table["eligible_rows"]) == (OLD_ROWS + YOUNG_ROWS, OLD_ROWS)
    assert table["eligible_share"] == pytest.approx(OLD_ROWS / (OLD_ROWS + YOUNG_ROWS))
    # The rows are taken to be spread over all the days up to the retention: a batch a day.
    assert table["backlog"]["batches"] == pytest.approx(table_days(workplace), abs=1)
    assert found.json["disk"]["bytes"] == pytest.approx(table["disk_bytes"] * table["eligible_share"])
    assert workplace.keys_like("") == []
    text = workplace.run("cost", "--table", "audit_logs")
    assert "measured (estimates)" in text.stdout
    assert workplace.run("cost", "--table", "audit_log").code == 3
    workplace.environment[PASSWORD_VARIABLE] = "wrong"
    assert workplace.run("cost").code == 5


def test_the_example_of_prices_works_as_the_page_says(workplace):
    shutil.copy(EXAMPLE, workplace.folder)
    found = workplace.run("cost", "--prices", "prices.example.yaml", "--storage-class", "STANDARD")
    assert found.code == 0
    assert "the prices are" not in found.stderr
    assert "EUR" in found.stdout
