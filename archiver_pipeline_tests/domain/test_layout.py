"""Keys: whatever a table is called, they parse back, and no two tables share one."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver_pipeline.domain.layout import (
    BatchState,
    DataFormat,
    StoredObject,
    batch_stem,
    data_key,
    group_batches,
    iter_batches,
    key_after,
    key_part,
    listing_prefix,
    stem_of,
    table_prefix,
)
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.windows import WindowUnit, window_of_key

KINDS = ["jsonl.gz", "parquet", "manifest.json", "receipt.json", "superseded.json"]
WINDOW = window_of_key(WindowUnit.day, "2024-02-29", first=date(2020, 1, 1))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
BATCH = "0123456789abcdef0123"
# PostgreSQL's identifiers: any characters but NUL, 63 bytes at most; surrogates are no characters.
PARTS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=63).filter(
    lambda text: len(text.encode()) <= 63
)
# Names out of few characters collide sooner.
COLLIDING = st.text("a/._-%=", min_size=1, max_size=4)
NAMES = st.builds(TableName, PARTS | COLLIDING, PARTS | COLLIDING | st.just("public"), PARTS | COLLIDING)
PREFIXES = st.sampled_from(["", "archives", "a/b"])


@given(PREFIXES, NAMES, st.sampled_from(list(DataFormat)))
def test_a_key_parses_back(prefix, name, data_format):
    stem = batch_stem(prefix, name, WINDOW, BATCH)
    key = data_key(stem, data_format)
    assert stem_of(key) == stem
    [found] = group_batches([StoredObject(key, 7, NOW)])
    assert (found.stem, found.data_key, found.object_bytes) == (stem, key, 7)
    assert (found.window_key, found.batch_id) == (WINDOW.key, BATCH)
    assert found.state is BatchState.orphaned


@given(PREFIXES, NAMES)
def test_a_key_fits_every_store(prefix, name):
    key = data_key(batch_stem(prefix, name, WINDOW, BATCH), DataFormat.jsonl_gz)
    assert len(key.encode()) <= 1024
    assert key.isascii()
    assert not {"", ".", ".."} & set(key.split("/"))


@given(PREFIXES, NAMES, NAMES)
def test_no_table_is_listed_with_another(prefix, one, other):
    key = data_key(batch_stem(prefix, one, WINDOW, BATCH), DataFormat.jsonl_gz)
    assert key.startswith(listing_prefix(prefix, one))
    assert (one == other) == key.startswith(listing_prefix(prefix, other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("db", "public", "audit"), ("db", "public", "audit_logs")),
        (("db", "public", "sales"), ("db", "sales", "sales")),
        (("db", "public", "a/b"), ("db", "a", "b")),
        (("db", "public", "year=2024"), ("db", "year=2024", "x")),
        (("db", "public", "x"), ("db", "PUBLIC", "x")),
        (("a/b", "public", "x"), ("a", "b", "x")),
        (("db", "x", "%2F"), ("db", "x", "/")),
    ],
)
def test_names_that_look_alike_do_not_collide(one, other):
    assert table_prefix("p", TableName(*one)) != table_prefix("p", TableName(*other))
    assert not listing_prefix("p", TableName(*one)).startswith(listing_prefix("p", TableName(*other)))
    assert not listing_prefix("p", TableName(*other)).startswith(listing_prefix("p", TableName(*one)))


@pytest.mark.parametrize("name", [".", "..", "...", "a b", "é", "a/b", "a%2Fb", "?#&"])
def test_a_name_is_one_plain_path_segment(name):
    part = key_part(name)
    assert part not in {".", ".."}
    assert set(part) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~%")


@pytest.mark.parametrize(
    ("kinds", "state"),
    [
        (["jsonl.gz"], BatchState.orphaned),
        (["jsonl.gz", "manifest.json"], BatchState.pending),
        (["jsonl.gz", "manifest.json", "receipt.json"], BatchState.receipted),
        (["jsonl.gz", "manifest.json", "superseded.json"], BatchState.superseded),
        # The rows are gone, so the object is their only copy, whatever else is said.
        (["jsonl.gz", "manifest.json", "superseded.json", "receipt.json"], BatchState.receipted),
        (["manifest.json"], BatchState.pending),
        (["manifest.json", "receipt.json"], BatchState.receipted),
    ],
)
def test_what_lies_beside_each_other_says_how_it_stands(kinds, state):
    stem = batch_stem("p", TableName("db", "public", "audit"), WINDOW, BATCH)
    [found] = group_batches([StoredObject(f"{stem}.{kind}", 1, NOW) for kind in kinds])
    assert found.state is state
    assert (found.data_key is None) == ("jsonl.gz" not in kinds)


def test_other_objects_are_passed_over():
    stem = batch_stem("p", TableName("db", "public", "audit"), WINDOW, BATCH)
    strangers = [f"{stem}.jsonl", f"{stem}.jsonl.gz.tmp", "p/db/audit/.restore_watermark.json", f"{stem}.MANIFEST.JSON"]
    assert group_batches([StoredObject(key, 1, NOW) for key in strangers]) == []


@pytest.mark.parametrize("key", ["x", "x.json", "x.manifest.json", "x.jsonl"])
def test_a_key_of_no_data_object_has_no_stem(key):
    with pytest.raises(ValueError, match="not the key of a data object"):
        stem_of(key)


@given(st.lists(st.tuples(st.text("0a", min_size=16, max_size=18), st.sampled_from([*KINDS, "jsonl.gz.tmp", "zip"]))))
def test_a_listing_is_grouped_while_it_goes_on(found):
    """The same batches as from the whole listing, and a listing that goes on behind one shows the others."""
    name = TableName("db", "public", "audit")
    keys = sorted({f"{batch_stem('p', name, WINDOW, batch)}.{kind}" for batch, kind in found})
    listed = [StoredObject(key, 1, NOW) for key in keys]
    batches = list(iter_batches(iter(listed)))
    assert batches == group_batches(listed)
    for position, batch in enumerate(batches, 1):
        rest = [one for one in listed if one.key > key_after(batch)]
        assert list(iter_batches(rest)) == batches[position:]
