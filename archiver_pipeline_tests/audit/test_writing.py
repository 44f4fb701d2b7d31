"""Entries become a chain: whoever writes at once, however long the chain, whatever the store knows of conditions."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from archiver_pipeline.domain.audit import AuditKind
from archiver_pipeline.domain.layout import audit_key
from archiver_pipeline.engine.audit import Fence, find_head
from archiver_pipeline.errors import ArchiverError, LockLostError, ManifestError
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.audit.trails import NAME, entries, link_keys, links, trail
from archiver_pipeline_tests.plugins.archiving import Archiving
from archiver_pipeline_tests.storage.weak_store import Weakness, weak_store

WRITERS = 4
EACH = 25


def numbers(bucket) -> list[str]:
    return sorted(entry["facts"]["number"] for entry in entries(bucket))


def test_a_chain_of_links(archiving: Archiving, bucket):
    writer = trail(S3Store(archiving.store_settings()))
    places = [writer.record(AuditKind.override, reason=str(number)) for number in range(3)]
    assert [place.sequence for place in places if place] == [1, 2, 3]
    assert [link["sequence"] for link in links(bucket)] == [1, 2, 3]
    [entry] = links(bucket)[0]["entries"]
    assert entry["facts"] == {"reason": "0"}
    assert entry["who"]["database_role"] == "app"
    assert entry["who"]["store_identity"] == f"access key {bucket.access_key_id}"
    assert bucket.secret_access_key not in json.dumps(links(bucket))
    assert find_head(writer.store, NAME) == writer.head


def test_no_trail_is_written_when_none_is_kept(archiving: Archiving, bucket):
    assert trail(S3Store(archiving.store_settings()), enabled=False).record(AuditKind.plan) is None
    assert bucket.keys() == []


def test_threads_of_one_process_share_links(archiving: Archiving, bucket):
    writer = trail(S3Store(archiving.store_settings()))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: writer.record(AuditKind.override, number=f"{n:03d}"), range(200)))
    assert numbers(bucket) == [f"{n:03d}" for n in range(200)]
    assert len(links(bucket)) < 150


def test_writers_that_race_lose_nothing(archiving: Archiving, bucket):
    """Each with a store and a head of its own, all at once, as processes have."""
    ready = threading.Barrier(WRITERS)

    def write(writer: int) -> None:
        own = trail(S3Store(archiving.store_settings()))
        ready.wait()
        for number in range(EACH):
            own.record(AuditKind.override, number=f"{writer}-{number:03d}")

    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(write, range(WRITERS)))
    assert numbers(bucket) == sorted(f"{w}-{n:03d}" for w in range(WRITERS) for n in range(EACH))


def test_an_entry_behind_a_fence_is_not_written_behind_what_its_writer_does_not_know(archiving: Archiving, bucket):
    """Those that go into the same link are written all the same."""
    own, another = trail(S3Store(archiving.store_settings())), trail(S3Store(archiving.store_settings()))
    own.record(AuditKind.override, number="first")
    known = own.known_sequence()
    another.record(AuditKind.override, number="another's")
    looks = []

    def refuse() -> None:
        looks.append("refused")
        raise LockLostError("gone")

    with pytest.raises(LockLostError):
        own.record_all((AuditKind.override, {"number": "fenced"}), fence=Fence(known, refuse))
    own.record_all((AuditKind.override, {"number": "looked"}), fence=Fence(known, lambda: looks.append("allowed")))
    own.record_all((AuditKind.override, {"number": "knew"}), fence=Fence(own.known_sequence(), refuse))
    assert looks == ["refused", "allowed"]
    assert numbers(bucket) == sorted(["first", "another's", "looked", "knew"])


def test_processes_that_race_lose_nothing(archiving: Archiving, bucket):
    settings = archiving.store_settings()
    program = [sys.executable, "-m", "archiver_pipeline_tests.audit.another_writer"]
    orders = {
        "endpoint": settings.endpoint,
        "bucket": settings.bucket,
        "prefix": settings.prefix,
        "region": settings.region,
        "key": bucket.access_key_id,
        "secret": bucket.secret_access_key,
        "entries": EACH,
    }
    running = [subprocess.Popen(program, stdin=subprocess.PIPE, text=True) for _ in range(2)]
    for number, process in enumerate(running):
        assert process.stdin
        process.stdin.write(json.dumps(orders | {"writer": number}))
        process.stdin.close()
    assert [process.wait(60) for process in running] == [0, 0]
    assert numbers(bucket) == sorted(f"{w}-{n:03d}" for w in range(2) for n in range(EACH))


@pytest.mark.parametrize("weakness", Weakness)
def test_a_store_without_conditions_is_read_back(archiving: Archiving, bucket, weakness):
    with weak_store(bucket, weakness) as weak:
        settings = replace(archiving.store_settings(), endpoint=weak.endpoint)
        one, other = trail(S3Store(settings)), trail(S3Store(settings))
        for number in range(4):
            for writer in (one, other):
                writer.record(AuditKind.override, number=f"{number}")
    assert len(links(bucket)) == 8
    assert len(numbers(bucket)) == 8


def test_the_head_of_a_long_chain_is_found_by_few_listings(archiving: Archiving, bucket, monkeypatch):
    """A listing of 100,000 links is feigned by one that answers as S3 does, page by page; the last link is real."""
    store = S3Store(archiving.store_settings())
    last, gone = 100_000, {*range(40_000, 52_345), 99_999}
    bucket.client.put_object(
        Bucket=bucket.bucket, Key=audit_key(bucket.prefix, NAME, last), Body=_link(store, bucket, last)
    )
    asked = []

    def list_objects(prefix: str, *, after: str = ""):
        first = int(after.rpartition("/")[2].removesuffix(".json")) + 1 if after else 1
        for offset, number in enumerate(n for n in range(first, last + 1) if n not in gone):
            if offset % 1000 == 0:
                asked.append(first + offset)
            yield _Listed(audit_key(bucket.prefix, NAME, number))
        asked.extend([first] if first > last else [])

    monkeypatch.setattr(store, "list_objects", list_objects)
    assert find_head(store, NAME).sequence == last
    assert len(asked) <= 20, asked


@pytest.mark.parametrize("links_written", [999, 1000, 1001, 1002, 2000])
def test_the_head_is_found_at_the_ends_of_pages(archiving: Archiving, bucket, monkeypatch, links_written):
    store = S3Store(archiving.store_settings())
    key = audit_key(bucket.prefix, NAME, links_written)
    bucket.client.put_object(Bucket=bucket.bucket, Key=key, Body=_link(store, bucket, links_written))

    def list_objects(prefix: str, *, after: str = ""):
        first = int(after.rpartition("/")[2].removesuffix(".json")) + 1 if after else 1
        return (_Listed(audit_key(bucket.prefix, NAME, number)) for number in range(first, links_written + 1))

    monkeypatch.setattr(store, "list_objects", list_objects)
    assert find_head(store, NAME).sequence == links_written


def test_nothing_is_chained_to_a_head_that_is_no_link(archiving: Archiving, bucket):
    store = S3Store(archiving.store_settings())
    trail(store).record(AuditKind.override)
    bucket.client.put_object(Bucket=bucket.bucket, Key=link_keys(bucket)[0], Body=b"{}")
    with pytest.raises(ManifestError, match=r"audit trail of .* could not be written"):
        trail(store).record(AuditKind.override)


def test_an_error_reaches_every_thread_that_waits(archiving: Archiving, bucket, monkeypatch):
    writer = trail(S3Store(replace(archiving.store_settings(), bucket="there-is-none")))
    with ThreadPoolExecutor(4) as threads:
        tries = [threads.submit(writer.record, AuditKind.override) for _ in range(8)]
    errors = [one.exception() for one in tries]
    assert all(isinstance(error, ArchiverError) for error in errors)
    assert len(set(map(id, errors))) == 8


def test_a_configuration_is_told_once_and_then_what_changed(archiving: Archiving, bucket):
    store = S3Store(archiving.store_settings())
    for days in (30, 30, 90):
        trail(store, configuration={"table": {"retention_days": days, "schema": "public"}}).record(AuditKind.override)
    trail(store).record(AuditKind.override)
    told = entries(bucket, "configuration")
    assert [entry["facts"]["changes"] for entry in told] == [None, {"table.retention_days": [30, 90]}]
    assert [link["configuration_sequence"] for link in links(bucket)] == [1, 1, 3, 3]


class _Listed:
    def __init__(self, key: str) -> None:
        self.key = key


def _link(store: S3Store, bucket, sequence: int) -> bytes:
    """A link as the program writes one, with another number."""
    trail(store).record(AuditKind.override)
    [key] = link_keys(bucket)
    written = json.loads(bucket.read(key)) | {"sequence": sequence}
    bucket.client.delete_object(Bucket=bucket.bucket, Key=key)
    return json.dumps(written).encode()
