"""Receipts that were read once are not read again, and never shown when they changed."""

import sqlite3
import stat

import pytest

from archiver_pipeline.storage.document_cache import DocumentCache, DocumentVersion

ONE = DocumentVersion("a/b.receipt.json", '"1"')
OTHER = DocumentVersion("a/b.receipt.json", '"2"')


@pytest.fixture
def cache(tmp_path):
    return DocumentCache(tmp_path / "new" / "documents.sqlite")


def test_what_was_written_is_found_under_its_version_only(cache):
    assert cache.read([ONE]) == {}
    cache.write({ONE: b"one"})
    assert cache.read([ONE, DocumentVersion("a/c", '"1"')]) == {ONE: b"one"}
    assert cache.read([OTHER]) == {}
    cache.write({OTHER: b"other"})
    assert (cache.read([ONE]), cache.read([OTHER])) == ({}, {OTHER: b"other"})


def test_without_an_etag_nothing_is_kept(cache):
    nameless = DocumentVersion("a", "")
    cache.write({nameless: b"x"})
    assert cache.read([nameless]) == {}


def test_many_documents_are_found(cache):
    many = {DocumentVersion(f"k{number}", '"e"'): b"%d" % number for number in range(1_203)}
    cache.write(many)
    assert cache.read([*many]) == many


def test_it_is_for_its_owner_only(cache):
    cache.write({ONE: b"one"})
    assert stat.S_IMODE(cache.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.path.parent.stat().st_mode) == 0o700


def test_a_file_that_is_no_cache_is_replaced(cache):
    cache.path.parent.mkdir()
    cache.path.write_bytes(b"not a database, " * 100)
    assert cache.read([ONE]) == {}
    cache.write({ONE: b"one"})
    assert cache.read([ONE]) == {ONE: b"one"}


def test_a_folder_that_cannot_be_made_is_as_good_as_empty(tmp_path):
    (tmp_path / "file").write_text("")
    cache = DocumentCache(tmp_path / "file" / "documents.sqlite")
    cache.write({ONE: b"one"})
    assert cache.read([ONE]) == {}


def test_a_cache_in_use_by_another_process_is_waited_for_and_then_passed_over(cache, monkeypatch):
    cache.write({ONE: b"one"})
    monkeypatch.setattr("archiver_pipeline.storage.document_cache._WAIT_SECONDS", 0.05)
    with sqlite3.connect(cache.path) as busy:
        busy.execute("BEGIN EXCLUSIVE")
        assert cache.read([ONE]) == {}
