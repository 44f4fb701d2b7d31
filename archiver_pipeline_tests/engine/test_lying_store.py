"""A store that lies: no row is lost or doubled by it, whatever it lies about, and the next run goes on."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.errors import ArchiverError, StoreError, VerificationError
from archiver_pipeline_tests.engine.running import pending
from archiver_pipeline_tests.engine.test_validate import found
from archiver_pipeline_tests.storage.lying_store import KINDS, Lie, lying_store

READS = (Lie.flips_a_bit, Lie.cuts_short, Lie.swaps, Lie.stale, Lie.says_missing)
LIES = [
    (kind, lie)
    for kind in KINDS
    for lie in (*READS, Lie.unlisted, Lie.lists_twice, Lie.overwrites, Lie.wrong_checksum)
    # A trail that is not listed is looked for again and again, which takes long: once is enough, below.
    if (kind, lie) != ("trail", Lie.unlisted)
]


def archive_from(archiving, endpoint):
    """A run against the liar; returns its error, if it had one."""
    session = archiving.session(store=replace(archiving.store_settings(), endpoint=endpoint))
    try:
        archive_windows(session, archiving.windows(session))
    except ArchiverError as error:
        return error
    finally:
        session.close()
    return None


@pytest.mark.parametrize("honest", [0, 3])
@pytest.mark.parametrize("lie", [Lie.flips_a_bit, Lie.cuts_short, Lie.swaps, Lie.stale, Lie.says_missing])
def test_an_object_that_is_read_back_wrong_is_never_deleted_for(archiving, audit, bucket, lie, honest):
    with lying_store(bucket, lie, "data", honest=honest) as liar:
        error = archive_from(archiving, liar.endpoint)
    assert liar.told
    assert isinstance(error, VerificationError | StoreError), error
    audit.account()
    assert audit.archived_rows() == []
    archiving.archive()
    audit.account_all_archived()


@pytest.mark.parametrize("honest", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_write_that_did_not_happen_loses_nothing(archiving, audit, bucket, kind, honest):
    with lying_store(bucket, Lie.loses_the_write, kind, honest=honest) as liar:
        archive_from(archiving, liar.endpoint)
    assert liar.told
    archive_until_settled(archiving)
    audit.account_all_archived()


@pytest.mark.parametrize("kind", ["data", "manifest", "receipt"])
def test_other_bytes_than_were_sent_are_found(archiving, audit, bucket, kind):
    """A document that cannot be read decides nothing. Once a person has removed it, all goes on."""
    with lying_store(bucket, Lie.stores_other_bytes, kind) as liar:
        error = archive_from(archiving, liar.endpoint)
    [damaged] = liar.told
    if kind == "receipt":
        assert ("unreadable", damaged) in found(archiving)
    else:
        assert damaged in str(error)
        # Other workers may have gone on with theirs; of the damaged batch nothing was deleted.
        gone = audit.expected - Counter(audit.table_rows())
        assert gone.total() == sum(json.loads(bucket.read(key))["rows"] for key in receipts(bucket))
    bucket.client.delete_object(Bucket=bucket.bucket, Key=damaged)
    archive_until_settled(archiving)
    audit.account_all_archived()


@pytest.mark.parametrize("point", ["after a manifest", "after a delete committed"])
@pytest.mark.parametrize(("kind", "lie"), LIES)
def test_a_pending_batch_is_settled_right_after_any_lie(archiving, audit, bucket, kind, lie, point):
    pending(archiving, audit, point)
    with lying_store(bucket, lie, kind) as liar:
        archive_from(archiving, liar.endpoint)
    archive_until_settled(archiving)
    audit.account_all_archived()


def test_a_trail_that_is_not_listed_stops_the_run(archiving, audit, bucket):
    archiving.archive(limit_rows=10)
    with lying_store(bucket, Lie.unlisted, "trail") as liar:
        assert isinstance(archive_from(archiving, liar.endpoint), ArchiverError)
    audit.account()
    archive_until_settled(archiving)
    audit.account_all_archived()


def receipts(bucket):
    return [key for key in bucket.archive_keys() if key.endswith(".receipt.json")]


def archive_until_settled(archiving):
    """Honest runs; the second finds nothing, which is also a test of what the first left."""
    archiving.archive()
    archiving.archive()
