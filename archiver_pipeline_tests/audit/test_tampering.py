"""Every way of tampering with a trail that we could think of, tried on every link, is found."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from archiver_pipeline.domain.audit import AuditKind, TrailAnchor, TrailFindingKind
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.audit import find_head
from archiver_pipeline.engine.audit_verify import verify_trail
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.audit.trails import NAME, link_keys, trail
from archiver_pipeline_tests.plugins.archiving import Archiving

LINKS = 6
Chain = dict[str, bytes]
Tampering = Callable[[Chain], Chain]


@pytest.fixture
def store(archiving: Archiving) -> S3Store:
    made = S3Store(archiving.store_settings())
    writer = trail(made)
    for number in range(LINKS):
        writer.record(AuditKind.override, reason=f"reason {number}")
    return made


@contextmanager
def tampered(bucket, tampering: Tampering) -> Iterator[None]:
    """The trail as the tampering leaves it; after the block it is as it was."""
    before = {key: bucket.read(key) for key in link_keys(bucket)}
    after = tampering(dict(before))
    _write(bucket, before, after)
    try:
        yield
    finally:
        _write(bucket, after, before)


def _write(bucket, now: Chain, wanted: Chain) -> None:
    for key in now.keys() - wanted.keys():
        bucket.client.delete_object(Bucket=bucket.bucket, Key=key)
    for key, data in wanted.items():
        if now.get(key) != data:
            bucket.client.put_object(Bucket=bucket.bucket, Key=key, Body=data)


def rehashed(chain: Chain) -> Chain:
    """The links renumbered and chained anew, as somebody does who knows the format."""
    keys, previous, made = sorted(chain), "none", {}
    folder = keys[0].rpartition("/")[0]
    for number, key in enumerate(keys, 1):
        link = json.loads(chain[key]) | {"sequence": number, "previous_sha256": previous}
        data = json.dumps(link, indent=2).encode()
        made[f"{folder}/{number:012d}.json"] = data
        previous = hashlib.sha256(data).hexdigest()
    return made


def one_byte(position: int) -> Tampering:
    def change(chain: Chain) -> Chain:
        key = sorted(chain)[position]
        data = bytearray(chain[key])
        where = data.index(b"reason ") + 1
        data[where] ^= 1
        return chain | {key: bytes(data)}

    return change


def one_field(position: int) -> Tampering:
    def change(chain: Chain) -> Chain:
        key = sorted(chain)[position]
        link = json.loads(chain[key])
        link["entries"][0]["who"]["os_user"] = "somebody else"
        return chain | {key: json.dumps(link, indent=2).encode()}

    return change


def removed(position: int) -> Tampering:
    return lambda chain: {key: chain[key] for key in sorted(chain) if key != sorted(chain)[position]}


def swapped(one: int, other: int) -> Tampering:
    def change(chain: Chain) -> Chain:
        keys = sorted(chain)
        return chain | {keys[one]: chain[keys[other]], keys[other]: chain[keys[one]]}

    return change


def inserted(position: int) -> Tampering:
    """A copy of a link behind it, and all later ones moved by one."""

    def change(chain: Chain) -> Chain:
        keys = sorted(chain)
        folder = keys[0].rpartition("/")[0]
        contents = [chain[key] for key in keys]
        contents.insert(position + 1, contents[position])
        return {f"{folder}/{number:012d}.json": data for number, data in enumerate(contents, 1)}

    return change


def beside(position: int) -> Tampering:
    return lambda chain: chain | {sorted(chain)[position] + ".bak": b"{}"}


def truncated(left: int) -> Tampering:
    return lambda chain: {key: chain[key] for key in sorted(chain)[:left]}


def forked(position: int) -> Tampering:
    """From this link on another history, chained as it must be."""

    def change(chain: Chain) -> Chain:
        return rehashed(one_field(position)(chain))

    return change


def of_another_table(position: int) -> Tampering:
    def change(chain: Chain) -> Chain:
        key = sorted(chain)[position]
        return chain | {key: json.dumps(json.loads(chain[key]) | {"table": "other"}, indent=2).encode()}

    return change


EACH = range(LINKS)
LAST = LINKS - 1
TAMPERINGS = {
    "one byte": [one_byte(n) for n in EACH],
    "one field": [one_field(n) for n in EACH],
    "removed": [removed(n) for n in EACH],
    "swapped": [swapped(a, b) for a, b in itertools.combinations(EACH, 2)],
    "inserted": [inserted(n) for n in EACH],
    "beside": [beside(n) for n in EACH],
    "of another table": [of_another_table(n) for n in EACH],
    "truncated": [truncated(n) for n in EACH],
    "forked": [forked(n) for n in EACH],
    "rewritten whole": [rehashed],
}
NEEDS_ANCHOR = {("one byte", LAST), ("one field", LAST), ("removed", LAST), ("rewritten whole", 0)}
NEEDS_ANCHOR |= {(kind, n) for kind in ("truncated", "forked") for n in EACH}
"""What leaves a chain that is whole in itself."""
OF_ANCHOR = {TrailFindingKind.truncated, TrailFindingKind.rewritten}


def test_every_tampering_is_found(store, bucket):
    """64 of 64 with an anchor; 48 of them by the chain alone: those that leave no chain behind that is whole."""
    head = find_head(store, NAME)
    anchors = [TrailAnchor(NAME, head.sequence, head.sha256)]
    found, found_alone = set(), set()
    for kind, position, tampering in (
        (kind, position, one) for kind, all_of_kind in TAMPERINGS.items() for position, one in enumerate(all_of_kind)
    ):
        with tampered(bucket, tampering):
            kinds = {finding.kind for finding in verify_trail(store, NAME, anchors).findings}
        found |= {(kind, position)} if kinds else set()
        found_alone |= {(kind, position)} if kinds - OF_ANCHOR else set()
    tried = {(kind, position) for kind, all_of_kind in TAMPERINGS.items() for position in range(len(all_of_kind))}
    assert tried - found == set()
    assert tried - found_alone == NEEDS_ANCHOR
    assert (len(tried), len(found_alone)) == (64, 48)
    assert verify_trail(store, NAME, anchors).is_clean


def test_without_an_anchor_a_rewritten_chain_is_not_seen_and_the_report_says_so(store, bucket):
    with tampered(bucket, forked(2)):
        report = verify_trail(store, NAME)
    assert report.is_clean
    assert "no anchor was given" in report.notes[-1]


@pytest.mark.parametrize(
    ("tampering", "kind", "sequence"),
    [
        (one_byte(2), TrailFindingKind.changed, 3),
        (removed(2), TrailFindingKind.missing, 3),
        (swapped(1, 3), TrailFindingKind.reordered, 2),
        (beside(1), TrailFindingKind.inserted, None),
        (of_another_table(1), TrailFindingKind.inserted, 2),
        (truncated(4), TrailFindingKind.truncated, 6),
        (forked(3), TrailFindingKind.rewritten, 6),
        (lambda chain: chain | {sorted(chain)[1]: b"{}"}, TrailFindingKind.unreadable, 2),
    ],
)
def test_the_finding_names_what_happened_and_where(store, bucket, tampering, kind, sequence):
    head = find_head(store, NAME)
    with tampered(bucket, tampering):
        found = verify_trail(store, NAME, [TrailAnchor(NAME, head.sequence, head.sha256)]).findings
    assert (kind, sequence) in {(finding.kind, finding.sequence) for finding in found}


def test_an_anchor_of_another_table_says_nothing_of_this_one(store):
    other = TrailAnchor(TableName("appdb", "public", "other"), 99, "0" * 64)
    report = verify_trail(store, NAME, [other])
    assert (report.is_clean, report.anchors) == (True, 0)
