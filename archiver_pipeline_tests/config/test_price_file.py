"""A price list of a user's own: what it says is what is computed with, and its mistakes are told all at once."""

import json

import pytest

from archiver_pipeline.config.price_file import load_prices
from archiver_pipeline.domain.prices import BYTES_PER_KIB
from archiver_pipeline.domain.restore import RetrievalTier
from archiver_pipeline.errors import ConfigError
from archiver_pipeline_tests.docs.reading import ROOT

EXAMPLE = ROOT / "docs" / "prices.example.yaml"
LEAST = "name: Here\nas_of: 2026\ndisk_gb_month: 0.1\nclasses:\n  STANDARD: {gb_month: 0.02}\n"


@pytest.fixture
def load(tmp_path):
    def load_text(text):
        path = tmp_path / "prices.yaml"
        path.write_text(text)
        return load_prices(path, {})

    return load_text


def test_the_example_says_everything_there_is():
    prices = load_prices(EXAMPLE, {})
    assert (prices.name, prices.as_of, prices.currency) == ("Example Cloud", "2026-11-01", "EUR")
    deep = prices.classes["DEEP_ARCHIVE"]
    assert (deep.least_days, deep.overhead_bytes) == (180, 32 * BYTES_PER_KIB)
    assert prices.retrieval["DEEP_ARCHIVE"][RetrievalTier.Bulk].thousand_requests == 0.025
    assert set(prices.retrieval) == {"DEEP_ARCHIVE"}


def test_the_least_that_works_costs_nothing_else(load):
    prices = load(LEAST)
    assert prices.classes["STANDARD"].thousand_puts == 0
    assert (prices.as_of, prices.disk_gib_month) == ("2026", 0.1)


def test_json_is_read_too(load):
    text = {"name": "x", "as_of": "now", "disk_gb_month": 1, "classes": {"STANDARD": {"gb_month": 2}}}
    assert load(json.dumps(text)).classes["STANDARD"].gib_month == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("disk_gb_month: 0.1", "disk_gb_month: -1"), "line 3: disk_gb_month: must be at least 0"),
        (("gb_month: 0.02", "gb_mont: 0.02"), "line 5: classes.STANDARD.gb_mont: unknown key — did you mean gb_month?"),
        (("STANDARD", "STANDRD"), "line 5: classes.STANDRD: no storage class"),
        (("STANDARD", "GLACIER"), "STANDARD is missing, and manifests and receipts are always in it"),
        (("gb_month: 0.02", "gb_month: cheap"), "classes.STANDARD.gb_month: must be a number"),
        (("gb_month: 0.02", "gb_month: .nan"), "classes.STANDARD.gb_month: must be a finite number"),
        (("0.02}", "0.02, retrieval: {Fast: {gb: 1}}}"), "must be one of Expedited, Standard, Bulk"),
        ((LEAST, ""), "the file is empty — start from docs/prices.example.yaml"),
        (("classes:", "classes: ["), "not valid YAML"),
    ],
)
def test_mistakes_are_told_with_their_place(load, change, told):
    with pytest.raises(ConfigError) as caught:
        load(LEAST.replace(*change))
    assert told in str(caught.value)


def test_all_mistakes_are_told_at_once(load):
    with pytest.raises(ConfigError) as caught:
        load("nam: x\nclasses: {STANDARD: {gb_month: -1}}\n")
    assert {problem.path for problem in caught.value.problems} >= {"nam", "name", "as_of", "classes.STANDARD.gb_month"}


def test_a_missing_file_is_told_without_a_traceback(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.yaml: can't be read: No such file"):
        load_prices(tmp_path / "nowhere.yaml", {})
