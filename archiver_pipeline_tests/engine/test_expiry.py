"""Archives whose own retention is over leave the store, and nothing else ever does."""

import json
import os
import random
import threading
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from archiver_pipeline.config.effective import HoldSettings
from archiver_pipeline.config.enums import HoldSource
from archiver_pipeline.domain.expiry import ExpiryOutcome
from archiver_pipeline.domain.layout import BatchState
from archiver_pipeline.domain.validation import ValidationRequest
from archiver_pipeline.engine import expiry
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.archived import list_stored
from archiver_pipeline.engine.expiry import apply_expiry, plan_expiry
from archiver_pipeline.engine.inventory import DateRange, find_archives, read_receipts
from archiver_pipeline.engine.validate import validate_table
from archiver_pipeline.errors import (
    HoldsError,
    LockHeldError,
    ManifestError,
    NetworkError,
    PreflightError,
    StoreError,
)
from archiver_pipeline.postgres.advisory_lock import acquire_table_lock
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.cli.faulty_store import _relay_to
from archiver_pipeline_tests.engine.faults import InterruptedRunError, Point, interrupt, place
from archiver_pipeline_tests.engine.running import pending, put
from archiver_pipeline_tests.engine.test_holds_race import WAITING
from archiver_pipeline_tests.plugins.holding import FROM_TABLE

DAYS = 39
"""The youngest archived row is 40 days old, so every archive is past this."""
MOST_HOLDS = 6
SEED = int(os.environ.get("ARCHIVER_TEST_SEED", "11"))
_EXPIRY, _STORE = "archiver_pipeline.engine.expiry", "archiver_pipeline.storage.s3:S3Store"
CRASHES = {
    "before the intent": Point(_EXPIRY, "write_intent", nth=2, before=True),
    "after the intent": Point(_EXPIRY, "write_intent", nth=2),
    "after its entry in the trail": Point(_EXPIRY, "record_expiry", nth=3),
    "before the removal": Point(_STORE, "remove_expired", nth=2, before=True),
    "between data object and manifest": Point(_STORE, "_remove_version"),
    "after the removal": Point(_STORE, "remove_expired", nth=2),
    "before the receipt of expiry": Point(_EXPIRY, "write_expired", nth=2, before=True),
    "after the receipt of expiry": Point(_EXPIRY, "write_expired", nth=2),
}
"""In one archive, after the one that the crash before has left was finished."""


@pytest.fixture
def archives(archiving, audit):
    """The table archived in batches of a few rows; what is stored, in key order."""
    archiving.archive()
    found = audit.receipted()
    assert len(found) > 4
    return found


@pytest.fixture
def expire(archiving):
    """Apply an expiry in a session of its own; returns what became of each archive."""

    def apply(*, before=None, days=DAYS, **overrides):
        session = archiving.session(archive_retention_days=days, **overrides)
        try:
            return list(apply_expiry(session, before=before))
        finally:
            session.close()

    return apply


def outcomes(settled):
    return Counter(one.outcome for one in settled)


def forget(audit, archives):
    """The rows of these archives are gone on purpose."""
    audit.expected -= Counter(row for found in archives for row in audit.rows_of(found))


def endings(bucket, stem):
    return {key.removeprefix(f"{stem}.") for key in bucket.keys(f"{stem}.")}


def contents(bucket):
    """Every object but those of the audit trail, which tells of everything that was tried."""
    return {key: bucket.read(key) for key in bucket.keys() if "/_audit/" not in key}  # noqa: SIM118 - not a mapping


def validated(archiving, **request):
    now = datetime.now(UTC) + timedelta(days=2)
    return validate_table(archiving.session(), ValidationRequest(now=now, day=now.date(), **request))


def versions(client, bucket):
    found = client.list_object_versions(Bucket=bucket)
    return [item["Key"] for kind in ("Versions", "DeleteMarkers") for item in found.get(kind, [])]


@pytest.mark.matrix
def test_archives_past_their_retention_go_and_their_receipts_stay(archiving, audit, bucket, archives, expire):
    settled = expire()
    assert {one.archive.data_key for one in settled} == {found.data_key for found in archives}
    assert outcomes(settled) == {ExpiryOutcome.expired: len(archives)}
    for found in archives:
        assert endings(bucket, found.stem) == {"receipt.json", "expiry.json", "expired.json"}
        intent, expired = (json.loads(bucket.read(f"{found.stem}.{end}.json")) for end in ("expiry", "expired"))
        assert json.loads(bucket.read(f"{found.stem}.receipt.json")) == found.receipt
        assert (intent["archive_retention_days"], intent["run_id"]) == (DAYS, "test-run")
        assert intent["requested_by"]
        assert (expired["rows"], expired["removed_versions"]) == (found.receipt["rows"], 2)
    forget(audit, archives)
    audit.account()
    assert expire() == []


def test_only_what_is_old_enough_by_its_last_row_goes(archiving, audit, bucket, archives, expire):
    archiving.database.execute("SET timezone = 'UTC'")
    limit = datetime.now(UTC) - timedelta(days=41)
    old = [found for found in archives if datetime.fromisoformat(found.receipt["last_row_time"]) < limit]
    assert 0 < len(old) < len(archives)
    plan = plan_expiry(archiving.session(archive_retention_days=41))
    assert (len(plan.ready), plan.younger) == (len(old), len(archives) - len(old))
    settled = expire(days=41)
    assert {one.archive.data_key for one in settled} == {found.data_key for found in old}
    forget(audit, old)
    audit.account()


def test_days_that_are_asked_for_only_narrow_it(archives, expire, bucket):
    newest_day = max(datetime.fromisoformat(found.receipt["last_row_time"]) for found in archives).date()
    assert expire(days=2000, before=newest_day + timedelta(days=100)) == []
    older = [found for found in archives if datetime.fromisoformat(found.receipt["last_row_time"]).date() < newest_day]
    settled = expire(before=newest_day)
    assert {one.archive.data_key for one in settled} == {found.data_key for found in older}


def test_an_expiry_that_is_interrupted_anywhere_is_finished_by_the_next(archiving, audit, bucket, expire):
    archiving.archive(batch_size=4)
    archives = audit.receipted()
    for point, where in CRASHES.items():
        with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedRunError):
            place(where, interrupt, patch.setattr)
            expire()
        left = list_stored(S3Store(archiving.store_settings()), archiving.session().name)
        begun = [batch for batch in left if batch.state is BatchState.expiring]
        assert len(begun) == (point not in ("before the intent", "after the receipt of expiry")), point
        report = validated(archiving, offline=True, sample_percent=1)
        assert {finding.kind.value for finding in report.findings} == ({"expiring"} if begun else set()), point
        assert all("archiver expire --apply" in finding.next_step for finding in report.findings)
        # What is listed as an archive can be restored.
        whole = {found.data_key for found in audit.objects() if found.receipt and found.manifest}
        assert {batch.data_key for batch in left if batch.is_archive} == whole, point
    expire()
    for found in archives:
        assert endings(bucket, found.stem) == {"receipt.json", "expiry.json", "expired.json"}
    assert validated(archiving).is_clean
    forget(audit, archives)
    audit.account()


def test_holds_at_random_moments_keep_what_is_there(archiving, holding, audit, bucket):
    """When a hold has committed, every archive that is there stays: the one being removed was waited for."""
    archiving.archive(batch_size=3)
    chance, tries, kept, expired = random.Random(SEED), 0, 0, 0

    def data_keys():
        return {key for key in bucket.keys(audit.prefix) if key.endswith(".jsonl.gz")}

    while data_keys() and tries < MOST_HOLDS:
        lawyer = _Lawyer(holding, data_keys, chance.random() * 0.3)
        session = archiving.session(archive_retention_days=DAYS, holds=FROM_TABLE)
        found = apply_expiry(session)
        first = next(found)
        lawyer.start()
        settled = [first, *found]
        session.close()
        lawyer.join()
        assert data_keys() >= lawyer.seen, "an archive was removed after a hold on its table had committed"
        assert all("case 7" in one.reason for one in settled if one.outcome is not ExpiryOutcome.expired)
        tries, kept = tries + 1, kept + len(lawyer.seen)
        expired += outcomes(settled)[ExpiryOutcome.expired]
        holding.lift_all()
    print(f"{tries} holds, {kept} times an archive was kept, {expired} expired before")
    assert kept
    assert expired


class _Lawyer(threading.Thread):
    """Places a hold after a while; `seen` is what was there when it had committed."""

    def __init__(self, holding, look, seconds):
        super().__init__()
        self._holding, self._look, self._seconds = holding, look, seconds
        self.seen = set()

    def run(self):
        time.sleep(self._seconds)
        self._holding.place("id = 1")
        self.seen = self._look()


def test_a_hold_waits_while_an_archive_is_removed(archiving, holding, archives, expire, monkeypatch):
    """After the last look nobody can place a hold until the archive is gone; every later one stays."""
    placing = threading.Thread(target=holding.place)

    def begin_to_hold():
        placing.start()
        deadline = time.monotonic() + 10
        while not archiving.database.execute(WAITING)[0][0]:
            assert time.monotonic() < deadline, "a hold could be placed while an archive was removed"
            time.sleep(0.01)

    place(Point(_STORE, "remove_expired", before=True), begin_to_hold, monkeypatch.setattr)
    settled = expire(holds=FROM_TABLE)
    placing.join()
    assert outcomes(settled) == {ExpiryOutcome.expired: 1, ExpiryOutcome.blocked: len(archives) - 1}


@pytest.mark.parametrize("moment", ["plan_expiry", "write_intent"])
def test_a_hold_after_the_plan_keeps_every_archive(archiving, holding, archives, bucket, expire, moment, monkeypatch):
    """The hold of the API or the file is not held still, so it is asked for again right before the removal."""
    asked = expiry.block_of_expiry
    is_held = []
    place(Point(_EXPIRY, moment), lambda: is_held.append(True), monkeypatch.setattr)
    monkeypatch.setattr(expiry, "block_of_expiry", lambda session: "legal hold" if is_held else asked(session))
    settled = expire()
    assert outcomes(settled) == {ExpiryOutcome.blocked: len(archives)}
    assert {found.data_key for found in archives} <= set(bucket.keys())
    assert {f"{found.stem}.manifest.json" for found in archives} <= set(bucket.keys())


def test_while_anything_is_in_the_way_nothing_goes(archiving, audit, holding, archives, bucket, expire):
    """A row hold, no retention, another run, holds or a trail that can't be read or written, a plan without apply."""
    before = contents(bucket)
    assert expire(days=None) == []
    plan = plan_expiry(archiving.session(archive_retention_days=DAYS))
    assert sum(archive.rows for archive in plan.ready) == sum(found.receipt["rows"] for found in archives)
    assert (plan.blocked, plan.younger) == ((), 0)
    lock = acquire_table_lock(archiving.source(), archiving.session().name)
    with pytest.raises(LockHeldError):
        expire()
    lock.release()
    holding.place("id = 1")
    held = expire(holds=FROM_TABLE)
    assert outcomes(held) == {ExpiryOutcome.blocked: len(archives)}
    assert all(one.reason.startswith("legal hold on some rows: case 7") for one in held)
    holding.lift_all()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ManifestError):
        patch.setattr("archiver_pipeline.engine.audit.AuditTrail.record", _refuse)
        expire()
    endpoint = f"http://127.0.0.1:{free_port()}"
    api = HoldSettings(sources=frozenset({HoldSource.API}), api_endpoint=endpoint, api_timeout_seconds=0.2)
    archiving.database.execute("DROP TABLE legal_holds")
    for holds in (api, FROM_TABLE):
        with pytest.raises((HoldsError, NetworkError, PreflightError)):
            expire(holds=holds)
        # Also when they could be read at the plan.
        with pytest.MonkeyPatch.context() as patch, pytest.raises((HoldsError, NetworkError, PreflightError)):
            patch.setattr(expiry, "plan_expiry", _plan_without_holds)
            expire(holds=holds)
    assert contents(bucket) == before
    audit.account()


def _refuse(*_arguments, **_facts):
    raise ManifestError("the trail can't be written")


def _plan_without_holds(session, *, before=None):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expiry, "block_of_expiry", lambda _session: "")
        return plan_expiry(session, before=before)


def test_only_the_clock_of_the_database_counts(archives, expire, bucket, monkeypatch):
    """A machine whose clock is years off asks the database, and a database whose clock is behind keeps archives."""

    class Wrong(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2099, 1, 1, tzinfo=UTC)

    monkeypatch.setattr("archiver_pipeline.engine.audit.datetime", Wrong)
    monkeypatch.setattr("archiver_pipeline.storage.s3.datetime", Wrong)
    monkeypatch.setattr("archiver_pipeline.engine.expiry.datetime", Wrong)
    before = contents(bucket)
    assert expire(days=2000) == []
    clock = expiry.source_clock
    monkeypatch.setattr(expiry, "source_clock", lambda connection: clock(connection) - timedelta(days=5000))
    assert expire() == []
    assert contents(bucket) == before
    monkeypatch.setattr(expiry, "source_clock", clock)
    assert outcomes(expire()) == {ExpiryOutcome.expired: len(archives)}


def _changed(bucket, key, **fields):
    put(bucket, key, json.dumps(json.loads(bucket.read(key)) | fields).encode())


def _drop(bucket, key):
    bucket.client.delete_object(Bucket=bucket.bucket, Key=key)


DOUBTS = {
    "a receipt that is no JSON": lambda bucket, one, other: put(bucket, f"{one.stem}.receipt.json", b"{"),
    "a receipt of another version": lambda bucket, one, other: _changed(
        bucket, f"{one.stem}.receipt.json", format_version=2
    ),
    "the receipt of another batch": lambda bucket, one, other: put(
        bucket, f"{one.stem}.receipt.json", bucket.read(f"{other.stem}.receipt.json")
    ),
    "a receipt made older": lambda bucket, one, other: _changed(
        bucket, f"{one.stem}.receipt.json", last_row_time="2001-01-01 00:00:00+00"
    ),
    "a receipt with another hash": lambda bucket, one, other: _changed(
        bucket, f"{one.stem}.receipt.json", object_sha256="0" * 64
    ),
    "a changed manifest": lambda bucket, one, other: _changed(bucket, f"{one.stem}.manifest.json", run_id="x"),
    "no manifest": lambda bucket, one, other: _drop(bucket, f"{one.stem}.manifest.json"),
    "no data object": lambda bucket, one, other: _drop(bucket, one.data_key),
    "a data object of another size": lambda bucket, one, other: put(bucket, one.data_key, b"other"),
    "a superseded mark": lambda bucket, one, other: put(bucket, f"{one.stem}.superseded.json", b"{}"),
    "an intent for another receipt": lambda bucket, one, other: put(
        bucket,
        f"{one.stem}.expiry.json",
        json.dumps(
            {
                "format_version": 1,
                "batch_id": one.receipt["batch_id"],
                "data_key": one.data_key,
                "receipt_sha256": "0" * 64,
                "archive_retention_days": DAYS,
                "reason": "",
                "requested_by": "",
                "run_id": "",
                "intended_at": "",
            }
        ).encode(),
    ),
    "an intent that is no JSON": lambda bucket, one, other: put(bucket, f"{one.stem}.expiry.json", b"{"),
}


def test_archives_whose_documents_are_in_doubt_stay_and_others_go(archiving, audit, bucket, expire):
    archiving.archive(batch_size=3)
    archives = audit.receipted()
    doubtful = dict(zip(DOUBTS, archives, strict=False))
    before = {}
    for doubt, found in doubtful.items():
        DOUBTS[doubt](bucket, found, archives[-1])
        before[doubt] = endings(bucket, found.stem)
    after_plan = archives[-2]
    with pytest.MonkeyPatch.context() as patch:
        place(Point(_EXPIRY, "plan_expiry"), lambda: _spoil(bucket, after_plan), patch.setattr)
        settled = expire()
    assert {one.archive.stem for one in settled if one.outcome is ExpiryOutcome.blocked} == {
        found.stem for found in [*doubtful.values(), after_plan]
    }
    assert outcomes(settled)[ExpiryOutcome.expired] == len(archives) - len(DOUBTS) - 1 > 0
    for doubt, found in doubtful.items():
        assert endings(bucket, found.stem) == before[doubt], doubt


def _spoil(bucket, found):
    _changed(bucket, f"{found.stem}.manifest.json", run_id="x")


def test_batches_without_a_receipt_are_never_touched(archiving, audit, bucket, expire):
    unsettled = pending(archiving, audit)
    before = {found.data_key for found in audit.objects() if found.receipt is None}
    gone = audit.receipted()
    forget(audit, gone)
    assert outcomes(expire()) == {ExpiryOutcome.expired: len(gone)}
    assert {unsettled.data_key} <= before <= set(bucket.keys())
    archiving.archive()
    audit.account_all_archived()


def test_restored_rows_keep_their_archives_while_they_are_protected(archiving, audit, restoring, archives, expire):
    restoring.restore()
    settled = expire()
    assert outcomes(settled) == {ExpiryOutcome.blocked: len(archives)}
    assert all("protected until" in one.reason for one in settled)


def test_restored_rows_are_archived_anew_and_stay_in_one_place(archiving, audit, restoring, archives, expire):
    """Expiry removes an archive, never a row of the table."""
    restoring.restore(protect_days=0)
    expire()
    audit.account()
    archiving.archive()
    audit.account_all_archived()
    assert len(audit.receipted()) == len(archives)
    assert not {found.stem for found in audit.receipted()} & {found.stem for found in archives}


def test_expired_archives_are_no_finding_and_are_not_restored(archiving, audit, restoring, archives, expire):
    last = max(found.receipt["last_row_time"] for found in archives)
    some = expire(before=datetime.fromisoformat(last).date())
    report = validated(archiving)
    assert (report.findings, report.batches["expired"]) == ((), len(some))
    restored = restoring.restore(protect_days=0)
    assert sum(item.rows for item in restored.objects) == sum(
        found.receipt["rows"] for found in archives if found.stem not in {one.archive.stem for one in some}
    )
    assert any(f"{len(some)} archives are expired" in warning for warning in restored.warnings)
    expire()
    report = validated(archiving)
    assert (report.findings, report.is_empty, report.rows) == ((), False, 0)
    with pytest.raises(PreflightError, match=f"{len(archives)} are expired"):
        restoring.restore(ignore_watermark=True)
    with pytest.raises(PreflightError, match="is expired"):
        restoring.restore(data_key=archives[0].data_key)
    store = S3Store(archiving.store_settings())
    listed = find_archives(store, archiving.settings(), DateRange(), BatchState.expired, datetime.now(UTC))
    assert sum(batch.receipt.rows for batch in read_receipts(store, listed, 4)) == 48


def test_what_came_back_beside_a_receipt_of_expiry_is_found(archiving, bucket, archives, expire):
    expire()
    put(bucket, archives[1].data_key, archives[1].data)
    [finding] = validated(archiving).findings
    assert (finding.kind.value, finding.subject) == ("contradictory", archives[1].data_key)
    _drop(bucket, f"{archives[2].stem}.expiry.json")
    assert len(validated(archiving).findings) == 2


def test_reconcile_leaves_expired_batches_alone(archiving, audit, archives, expire, bucket):
    expire()
    before = contents(bucket)
    archiving.database.execute("DELETE FROM audit_logs WHERE id < 100000")
    session = archiving.session()
    archive_windows(session, archiving.windows(archiving.session(retention_days=0)))
    assert before.items() <= contents(bucket).items()


def test_a_versioned_bucket_keeps_no_version(archiving, audit, bucket):
    client, name = bucket.client, bucket.bucket
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    archiving.archive()
    archives = audit.receipted()
    put(bucket, archives[0].data_key, archives[0].data)
    _drop(bucket, archives[1].data_key)
    put(bucket, archives[1].data_key, archives[1].data)
    session = archiving.session(archive_retention_days=DAYS)
    settled = list(apply_expiry(session))
    assert outcomes(settled) == {ExpiryOutcome.expired: len(archives)}
    assert sum(one.removed_versions for one in settled) == 2 * len(archives) + 3
    left = versions(client, name)
    assert not [key for key in left if key.endswith((".jsonl.gz", ".manifest.json"))]


def test_a_store_that_knows_no_versions_has_one_of_each_object(archiving, bucket, archives, expire):
    class Relay(_relay_to(urlsplit(bucket.endpoint).netloc)):
        def do_GET(self):  # noqa: N802
            if "versions" not in self.path:
                self.relay()
                return
            self.send_response(501)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Relay) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = replace(archiving.store_settings(), endpoint=f"http://127.0.0.1:{server.server_port}")
        settled = expire(store=store)
        server.shutdown()
    assert outcomes(settled) == {ExpiryOutcome.expired: len(archives)}
    assert {one.removed_versions for one in settled} == {2}
    assert endings(bucket, archives[0].stem) == {"receipt.json", "expiry.json", "expired.json"}


def test_what_the_store_locks_stays_whole_and_others_go(archiving, audit, s3_server, expire):
    """Without an intent: nothing was begun, so nothing is left to finish."""
    client = s3_server.client()
    s3_server.create_bucket("locked-for-expiry", object_lock=True)
    store = replace(archiving.store_settings(), bucket="locked-for-expiry")
    session = archiving.session(store=store)
    archive_windows(session, archiving.windows(session))
    session.close()
    keys = [item["Key"] for item in client.list_objects_v2(Bucket="locked-for-expiry")["Contents"]]
    data = [key for key in keys if key.endswith(".jsonl.gz")]
    until = datetime.now(UTC) + timedelta(days=1)
    client.put_object_legal_hold(Bucket="locked-for-expiry", Key=data[0], LegalHold={"Status": "ON"})
    client.put_object_retention(
        Bucket="locked-for-expiry",
        Key=data[1].replace("jsonl.gz", "manifest.json"),
        Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until},
    )
    settled = expire(store=store)
    assert outcomes(settled) == {ExpiryOutcome.blocked: 2, ExpiryOutcome.expired: len(data) - 2}
    blocked = [one for one in settled if one.reason]
    assert all(one.reason.startswith("blocked by the store") for one in blocked)
    assert {one.archive.data_key for one in blocked} == set(data[:2])
    left = versions(client, "locked-for-expiry")
    assert not [key for key in left if key.startswith(data[0].removesuffix("jsonl.gz") + "expiry")]
    # A lock that is placed in the last moment: the store refuses, the intent stays, and the next expiry finishes.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Store, "lock_on_batch", lambda *_: "")
        settled = expire(store=store)
    assert outcomes(settled) == {ExpiryOutcome.unfinished: 2}
    client.put_object_legal_hold(Bucket="locked-for-expiry", Key=data[0], LegalHold={"Status": "OFF"})
    settled = expire(store=store)
    assert outcomes(settled) == {ExpiryOutcome.blocked: 1, ExpiryOutcome.expired: 1}
    left = versions(client, "locked-for-expiry")
    assert data[1].replace("jsonl.gz", "manifest.json") in left
    assert data[0] not in left


@pytest.mark.parametrize("beside", ["receipt.json", "expiry.json", "receipt.json expiry.json superseded.json", ""])
def test_the_store_itself_removes_only_what_is_to_expire(archiving, bucket, beside):
    stem = f"{bucket.prefix}/appdb/t/year=2020/month=01/day=01/t_2020-01-01_{'a' * 20}"
    data_key = f"{stem}.jsonl.gz"
    for ending in ["jsonl.gz", "manifest.json", *beside.split()]:
        put(bucket, f"{stem}.{ending}", b"x")
    store = S3Store(archiving.store_settings())
    for key in (data_key, f"{stem}.manifest.json", f"{stem}.receipt.json"):
        with pytest.raises(StoreError, match="so it is not removed"):
            store.remove_expired(key, datetime.now(UTC))
    assert endings(bucket, stem) == {"jsonl.gz", "manifest.json", *beside.split()}


def test_a_policy_that_was_made_longer_stops_what_was_begun(archives, bucket, expire):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedRunError):
        place(CRASHES["after the intent"], interrupt, patch.setattr)
        expire()
    settled = expire(days=5000)
    assert [one.outcome for one in settled] == [ExpiryOutcome.blocked]
    assert "was begun" in settled[0].reason
