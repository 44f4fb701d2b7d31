"""What the next run makes of a batch whose fate a crash left open, rule by rule."""

import hashlib
import json
import shutil
import threading
import time
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from archiver_pipeline.config.enums import StorageClass
from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.engine.archived import list_stored, read_receipt
from archiver_pipeline.engine.delete import delete_batches
from archiver_pipeline.engine.reconcile import PartlyArchivedError
from archiver_pipeline.engine.report import ArchiveReport
from archiver_pipeline.engine.rewritten import PartlyRewrittenError
from archiver_pipeline.errors import LockLostError, ManifestError, StoreError
from archiver_pipeline.postgres.advisory_lock import settle_key
from archiver_pipeline.postgres.catalog import table_name
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.engine.faults import POINTS, InterruptedRunError, Point, interrupt, place
from archiver_pipeline_tests.engine.running import pending, put, verified
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS
from archiver_pipeline_tests.sandbox.waiting import wait_until
from archiver_pipeline_tests.storage.cold_store import cold_store

TABLE = "public.audit_logs"


def outcomes(report: ArchiveReport) -> list[Outcome]:
    return [batch.outcome for batch in report.settled_before]


def ids_of(found):
    """The keys of a pending batch, for SQL."""
    return ", ".join(map(str, found.manifest["keys"][0]))


def reason_of(bucket, found):
    return json.loads(bucket.read(f"{found.stem}.superseded.json"))["reason"]


def outcome_of(bucket, found):
    return json.loads(bucket.read(f"{found.stem}.receipt.json"))["outcome"]


@pytest.mark.parametrize("data_format", ["jsonl.gz", "parquet"])
def test_all_rows_are_there_so_they_are_deleted(archiving, audit, bucket, data_format):
    left = pending(archiving, audit, format=data_format)
    report = archiving.archive(format=data_format)
    assert outcomes(report) == [Outcome.deleted]
    assert outcome_of(bucket, left) == "deleted"
    assert report.rows == report.settled_before[0].rows + sum(window.rows for window in report.windows)
    audit.account_all_archived()


def test_no_row_is_there_so_the_receipt_is_written(archiving, audit, bucket):
    left = pending(archiving, audit, "after a delete committed")
    assert outcomes(archiving.archive()) == [Outcome.absent]
    assert outcome_of(bucket, left) == "absent"
    audit.account_all_archived()


@pytest.mark.parametrize(
    "change",
    [
        f"UPDATE {TABLE} SET actor = 'changed' WHERE id = {{first}}",
        f"UPDATE {TABLE} SET actor = actor WHERE id = {{first}}",
        f"DELETE FROM {TABLE} WHERE id = {{first}}",
        f"UPDATE {TABLE} SET id = 7777 WHERE id = {{first}}",
    ],
)
def test_one_row_changed_so_the_batch_is_superseded(archiving, audit, bucket, change):
    left = pending(archiving, audit)
    audit.execute(change.format(first=left.manifest["keys"][0][0]))
    assert outcomes(archiving.archive()) == [Outcome.superseded]
    assert reason_of(bucket, left) == "1 of 10 rows changed since they were read"
    audit.account_all_archived()


def test_every_row_was_deleted_by_somebody_so_the_receipt_is_true(archiving, audit):
    left = pending(archiving, audit)
    archiving.database.execute(f"DELETE FROM {TABLE} WHERE id IN ({ids_of(left)})")
    assert outcomes(archiving.archive()) == [Outcome.absent]
    audit.account_all_archived()


def test_one_row_is_locked_so_the_batch_is_superseded(archiving, audit):
    left = pending(archiving, audit)
    first = left.manifest["keys"][0][0]
    with archiving.database.connect(autocommit=False) as application:
        application.execute(f"SELECT FROM {TABLE} WHERE id = {first} FOR UPDATE")
        report = archiving.archive()
        assert outcomes(report) == [Outcome.superseded]
        audit.account()
        application.rollback()
    archiving.archive()
    audit.account_all_archived()


def test_rows_rewritten_in_place_are_still_the_same_versions(archiving, audit):
    pending(archiving, audit)
    archiving.database.execute(f"VACUUM FULL {TABLE}")
    archiving.database.execute(f"VACUUM FREEZE {TABLE}")
    assert outcomes(archiving.archive()) == [Outcome.deleted]
    audit.account_all_archived()


def test_the_rows_came_back_under_the_same_keys(archiving, audit):
    """Deleted and committed, then put back by a person: other versions, so receipt and rows are both true."""
    left = pending(archiving, audit, "after a delete committed")
    audit.execute(
        f"INSERT INTO {TABLE} SELECT id, now() - interval '45 days', 'restored', NULL, '{{}}', NULL"
        f" FROM unnest(ARRAY[{ids_of(left)}]) AS id"
    )
    assert outcomes(archiving.archive()) == [Outcome.absent]
    audit.account_all_archived()


def rewrite(database, condition="true"):
    """As pg_repack does it: the same rows in other versions."""
    with database.connect() as connection, connection.transaction():
        connection.execute(f"CREATE TEMPORARY TABLE moved ON COMMIT DROP AS SELECT * FROM {TABLE} WHERE {condition}")
        connection.execute(f"DELETE FROM {TABLE} WHERE {condition}")
        connection.execute(f"INSERT INTO {TABLE} SELECT * FROM moved")


@pytest.mark.parametrize("data_format", ["jsonl.gz", "parquet"])
def test_rows_written_anew_are_in_the_table_so_the_batch_is_void(archiving, audit, bucket, data_format):
    left = pending(archiving, audit, format=data_format)
    rewrite(archiving.database)
    assert outcomes(archiving.archive(format=data_format)) == [Outcome.superseded]
    assert reason_of(bucket, left) == "its rows are in the table, written anew since they were read"
    audit.account_all_archived()


def test_rows_written_anew_with_another_column_are_the_same_rows(archiving, audit, bucket):
    left = pending(archiving, audit)
    archiving.database.execute(f"ALTER TABLE {TABLE} ADD tried timestamptz DEFAULT clock_timestamp()")
    assert outcomes(archiving.archive()) == [Outcome.superseded]
    assert reason_of(bucket, left) == "its rows are in the table, written anew since they were read"


def test_rows_written_anew_in_part_stop_the_table(archiving, audit, bucket):
    left = pending(archiving, audit)
    first = left.manifest["keys"][0][0]
    rewrite(archiving.database)
    archiving.database.execute(f"DELETE FROM {TABLE} WHERE id = {first}")
    with pytest.raises(PartlyRewrittenError, match="9 of its 10 rows are in the table"):
        archiving.archive()
    assert f"{left.stem}.receipt.json" not in bucket.keys(left.stem)


def test_a_batch_of_another_cluster_whose_rows_are_all_here_is_void(archiving, audit, bucket):
    left = pending(archiving, audit)
    foreign = left.manifest | {"system_identifier": "1"}
    put(bucket, f"{left.stem}.manifest.json", json.dumps(foreign).encode())
    assert outcomes(archiving.archive()) == [Outcome.superseded]
    assert "another cluster" in reason_of(bucket, left)
    audit.account_all_archived()


def test_a_batch_of_another_cluster_whose_rows_are_gone_is_never_receipted(archiving, audit, bucket):
    """Dump and restore renumber everything, so absent versions prove nothing; the object may be the only copy."""
    left = pending(archiving, audit, "after a delete committed")
    foreign = left.manifest | {"system_identifier": "1"}
    put(bucket, f"{left.stem}.manifest.json", json.dumps(foreign).encode())
    with pytest.raises(ManifestError, match="another cluster"):
        archiving.archive()
    stems = bucket.keys(left.stem)
    assert stems == [left.data_key, f"{left.stem}.manifest.json"]


class DeleteInFlight:
    """The server's side of a run whose client died amid its delete: rows deleted, locks held, not yet decided."""

    def __init__(self, archiving, found):
        self._key = settle_key(table_name(archiving.settings())).value
        self.connection = archiving.database.connect(autocommit=False)
        self.connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", [self._key])
        self.connection.execute(f"DELETE FROM {TABLE} WHERE id IN ({ids_of(found)})")

    def has_a_waiter(self, archiving):
        return archiving.database.execute(
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND mode = 'ExclusiveLock'"
        )


@pytest.mark.matrix
@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_delete_in_flight_is_waited_for(archiving, audit, bucket, end, isolation):
    """Also where the database's own default would read the fate from a snapshot before the wait."""
    left = pending(archiving, audit)
    in_flight = DeleteInFlight(archiving, left)
    archiving.database.execute(
        f"ALTER DATABASE {archiving.database.name} SET default_transaction_isolation = '{isolation}'"
    )
    reports = []
    run = threading.Thread(target=lambda: reports.append(archiving.archive()))
    run.start()
    wait_until(lambda: in_flight.has_a_waiter(archiving), "the run waits for the delete in flight")
    time.sleep(0.2)
    getattr(in_flight.connection, end)()
    in_flight.connection.close()
    run.join()
    assert outcomes(reports[0]) == [Outcome.absent if end == "commit" else Outcome.deleted]
    audit.account_all_archived()


def freeze_before_its_manifest(archiving, tmp_path, **overrides):
    """A run that stops for hours before its manifests: its verified batches, and its staged files put aside."""
    session = archiving.session(**overrides)
    verification = verified(archiving, session)
    archiving.database.execute(f"SELECT pg_terminate_backend({session.lock.backend_pid})")
    shutil.copytree(archiving.staging, tmp_path / "kept")
    return session, verification


def test_a_run_that_wakes_up_after_another_took_its_rows_deletes_nothing(archiving, audit, tmp_path):
    session, verification = freeze_before_its_manifest(archiving, tmp_path)
    archiving.archive()
    shutil.copytree(tmp_path / "kept", archiving.staging, dirs_exist_ok=True)
    with pytest.raises(LockLostError):
        delete_batches(session, verification)
    audit.account_all_archived()


def late_manifests(archiving, tmp_path, monkeypatch, meanwhile, *, of=slice(None), **overrides):
    """Manifests of a run that lost its lock between its last look at it and the write of the manifest."""
    session, verification = freeze_before_its_manifest(archiving, tmp_path, **overrides)
    meanwhile()
    shutil.copytree(tmp_path / "kept", archiving.staging, dirs_exist_ok=True)
    with monkeypatch.context() as patch, pytest.raises(LockLostError):
        patch.setattr(type(session.lock), "require_held", lambda lock: None)
        delete_batches(session, replace(verification, batches=verification.batches[of]))
    session.close()


def test_late_manifests_of_rows_archived_by_another_run_are_void(archiving, audit, tmp_path, monkeypatch):
    late_manifests(archiving, tmp_path, monkeypatch, archiving.archive)
    report = archiving.archive()
    assert outcomes(report)
    assert set(outcomes(report)) == {Outcome.superseded}
    audit.account_all_archived()


def test_of_two_pending_batches_of_the_same_rows_one_is_receipted(archiving, audit, tmp_path, monkeypatch):
    """A late manifest beside that of a run which crashed after its delete: both find no row in the table."""

    def crash_after_a_delete():
        pending(archiving, audit, "after a delete committed")

    late_manifests(archiving, tmp_path, monkeypatch, crash_after_a_delete)
    archiving.archive()
    audit.account_all_archived()


@pytest.mark.parametrize("stray_rows", [1, 3, 7, 30])
def test_of_pending_batches_that_share_rows_each_row_is_in_one_receipted(
    archiving, audit, tmp_path, monkeypatch, stray_rows
):
    """Late manifests that are cut otherwise than those of a run which crashed after its delete. A small one that is
    settled first must not make the large one void: it may be the only one with the other rows."""

    def crash_after_a_delete():
        pending(archiving, audit, "after a delete committed", batch_size=30)

    the_last = slice(None, None, -1)
    late_manifests(archiving, tmp_path, monkeypatch, crash_after_a_delete, of=the_last, batch_size=stray_rows)
    report = archiving.archive()
    assert len(report.settled_before) > 1
    audit.account_all_archived()


def test_a_batch_whose_rows_are_in_part_archived_elsewhere_and_in_part_nowhere_stops_the_table(
    archiving, audit, bucket, tmp_path, monkeypatch
):
    """An application removed the other part, so this object may be their only copy, and must not double the first."""

    def archive_some_and_lose_the_rest():
        archiving.archive(limit_rows=10)
        archiving.database.execute(f"DELETE FROM {TABLE} WHERE created_at < now() - interval '40 days'")

    late_manifests(archiving, tmp_path, monkeypatch, archive_some_and_lose_the_rest, batch_size=30)
    before = bucket.keys("")
    with pytest.raises(PartlyArchivedError, match="of them are in other receipted objects") as caught:
        archiving.archive()
    [open_] = [found for found in audit.objects() if found.manifest and not (found.receipt or found.superseded)]
    assert caught.value.message.startswith(open_.data_key)
    assert {key for key in set(bucket.keys("")) - set(before) if open_.stem in key} == set()


@pytest.mark.parametrize("time_of_trying", range(4))
def test_a_receipt_that_arrives_when_another_run_has_settled_a_stray_batch_contradicts_nothing(
    archiving, audit, bucket, tmp_path, monkeypatch, time_of_trying
):
    """The trail told of the batch as archived before its receipt was sent, so the stray one of the same rows is void,
    whichever is settled first."""
    late = []

    def keep(session, key, data, retention=None):
        late.append((key, data))
        raise InterruptedRunError

    def die_while_a_receipt_is_on_its_way():
        with monkeypatch.context() as patch, pytest.raises(InterruptedRunError):
            patch.setattr("archiver_pipeline.engine.settlement._create_once", keep)
            archiving.archive(workers=1)

    late_manifests(archiving, tmp_path, monkeypatch, die_while_a_receipt_is_on_its_way)
    report = archiving.archive()
    assert Outcome.superseded in outcomes(report)
    assert late
    for key, data in late:
        with pytest.raises(ClientError, match="PreconditionFailed"):
            bucket.client.put_object(Bucket=bucket.bucket, Key=key, Body=data, IfNoneMatch="*")
    audit.account_all_archived()


def test_a_receipt_whose_answer_was_lost_is_not_written_twice(archiving, audit, monkeypatch):
    """The store had written it, the run never heard: the next try finds it there."""
    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError):
        place(Point("archiver_pipeline.engine.settlement", "_create_once"), interrupt, patch.setattr)
        archiving.archive(workers=1)
    assert audit.receipted()
    archiving.archive()
    audit.account_all_archived()


def test_a_pending_batch_is_settled_although_nothing_else_is_eligible(archiving, audit):
    pending(archiving, audit, "after a delete committed")
    archiving.database.execute(f"DELETE FROM {TABLE} WHERE created_at < now() - interval '30 days'")
    report = archiving.archive()
    assert (report.windows, outcomes(report)) == ((), [Outcome.absent])


def test_a_table_whose_key_was_reconfigured_says_which_key_to_set(archiving, audit):
    archiving.database.execute(f"CREATE UNIQUE INDEX ON {TABLE} (id, created_at)")
    pending(archiving, audit)
    with pytest.raises(ManifestError, match="archived under the key id"):
        archiving.archive(primary_key=("id", "created_at"))
    archiving.archive()
    audit.account_all_archived()


@pytest.mark.parametrize(
    ("point", "outcome"),
    [("after a manifest", Outcome.superseded), ("after a delete committed", Outcome.absent)],
)
def test_an_object_in_a_cold_class_is_void_while_its_rows_are_there_and_else_taken_by_its_checksum(
    archiving, audit, point, outcome
):
    with cold_store() as cold:
        glacier = replace(cold.settings, storage_class=StorageClass.GLACIER)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedRunError):
            place(POINTS[point], interrupt, patch.setattr)
            archiving.archive(workers=1, store=glacier)
        report = archiving.archive(store=glacier)
        assert outcomes(report) == [outcome]
        assert archiving.database.execute(f"SELECT count(*) FROM {TABLE} WHERE actor <> 'young'") == [(0,)]
        assert sum(receipt.rows for receipt in receipts_of(glacier, archiving)) == OLD_ROWS


def receipts_of(settings, archiving):
    store = S3Store(settings)
    stored = list_stored(store, table_name(archiving.settings()))
    return [read_receipt(store, batch.stem) for batch in stored if batch.has_receipt]


def test_a_cold_object_without_the_verified_checksum_is_no_archive():
    with cold_store() as cold:
        store = S3Store(cold.settings)
        cold.put("archives/x.jsonl.gz", b"others", "GLACIER")
        with pytest.raises(StoreError, match="verified checksum"):
            store.require_stored_checksum("archives/x.jsonl.gz", hashlib.sha256(b"rows").hexdigest())
