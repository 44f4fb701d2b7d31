"""Batches that the store did not take: kept on the local disk, uploaded by the next run, never doubled, never lost."""

import errno
import json
import os
import shutil
import stat
import time
from dataclasses import replace

import pytest

from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.domain.fallback import KeptState
from archiver_pipeline.domain.validation import FindingKind, ValidationRequest
from archiver_pipeline.engine import fallback, kept_files
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.fallback import upload_kept
from archiver_pipeline.engine.kept_files import list_kept
from archiver_pipeline.engine.validate import validate_table
from archiver_pipeline.errors import NetworkError, PermissionDeniedError, ResourcesError, VerificationError
from archiver_pipeline.storage import s3
from archiver_pipeline_tests.engine.faults import KEEPING_POINTS, POINTS, UPLOADING_POINTS, place
from archiver_pipeline_tests.engine.gate import gate_to
from archiver_pipeline_tests.engine.running import archive_when_free, killed, run_plan
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, YOUNG_ROWS, Archiving

TABLE = "public.audit_logs"
FORMATS = pytest.mark.parametrize("data_format", ["jsonl.gz", "parquet"])


class Outages(Archiving):
    """Sessions whose store is behind a gate, with a local fallback folder."""

    def store_settings(self):
        return replace(super().store_settings(), endpoint=self.gate.endpoint, local_fallback_dir=self.folder)

    def kept(self, state=KeptState.waiting):
        name = self.session().name
        return [kept for kept in list_kept(self.store_settings(), name) if kept.state is state]

    def files(self):
        return {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}

    def upload(self):
        session = self.session()
        try:
            return upload_kept(session)
        finally:
            session.close()


@pytest.fixture
def archiving(database, bucket, tmp_path, monkeypatch):
    # One try is enough to find a gate shut; five take half a minute.
    monkeypatch.setattr(s3, "_ATTEMPTS", 1)
    with gate_to(bucket.endpoint, tmp_path / "shut") as gate:
        factory = Outages(database, bucket, tmp_path / "staging")
        factory.gate, factory.folder = gate, tmp_path / "fallback"
        yield factory
        for session in factory.opened:
            session.close()


def outage(archiving, point="compress", **overrides):
    """A run whose store goes away at the point and comes back after it."""
    with pytest.MonkeyPatch.context() as patch:
        place(POINTS[point], archiving.gate.shut, patch.setattr)
        try:
            return archiving.archive(**overrides)
        finally:
            archiving.gate.open()


@FORMATS
def test_what_the_store_does_not_take_is_kept_and_the_next_run_uploads_it(archiving, audit, data_format):
    report = outage(archiving, format=data_format)
    kept = archiving.kept()
    assert report.kept == tuple(kept)
    assert (report.rows, sum(one.rows for one in kept)) == (0, OLD_ROWS)
    assert report.left_behind_rows == OLD_ROWS
    assert report.left_behind_reason == f"upload failed, {len(kept)} batches kept on the local disk"
    assert len(audit.table_rows()) == OLD_ROWS + YOUNG_ROWS
    assert not audit.objects()
    audit.account()

    report = archiving.archive(format=data_format)
    assert {batch.batch_id for batch in report.settled_before} == {one.batch_id for one in kept}
    assert {batch.outcome for batch in report.settled_before} == {Outcome.deleted}
    assert (report.rows, report.kept_before) == (OLD_ROWS, ())
    assert not archiving.files()
    audit.account_all_archived()
    assert {found.data_key for found in audit.receipted()} == {one.key for one in kept}


def test_nobody_else_can_read_what_is_kept(archiving, audit):
    outage(archiving)
    for path in [archiving.folder, *archiving.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in archiving.files()} == {"jsonl", "kept"}


@FORMATS
@pytest.mark.parametrize("point", ["amid upload", "upload"])
def test_a_store_that_goes_away_amid_the_run(archiving, audit, point, data_format):
    """Objects that are in the store, but cannot be read back, are kept as well."""
    report = outage(archiving, point, format=data_format, workers=1)
    assert report.kept
    audit.account()
    archiving.archive(format=data_format)
    assert not archiving.files()
    audit.account_all_archived()


def test_a_store_that_goes_away_when_some_batches_are_proved(archiving, audit):
    """Their manifests can't be written, so the run fails; what was not proved is kept."""
    with pytest.raises(NetworkError):
        outage(archiving, "amid verify", workers=1)
    assert archiving.kept()
    audit.account()
    archiving.archive()
    assert not archiving.files()
    audit.account_all_archived()


def test_without_a_folder_the_run_fails_as_ever(archiving, audit):
    session = archiving.session(store=replace(archiving.store_settings(), local_fallback_dir=None))
    windows = archiving.windows(session)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(NetworkError):
        place(POINTS["compress"], archiving.gate.shut, patch.setattr)
        archive_windows(session, windows)
    assert not archiving.folder.exists()


def test_refused_credentials_are_no_outage(archiving, audit, monkeypatch):
    def refuse(*_, **__):
        raise PermissionDeniedError("no")

    monkeypatch.setattr(s3.S3Store, "put_file", refuse)
    with pytest.raises(PermissionDeniedError):
        archiving.archive()
    assert not archiving.folder.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (f"UPDATE {TABLE} SET actor = 'changed' WHERE id = 48", "1 of 10 rows changed or left the table"),
        (f"UPDATE {TABLE} SET actor = actor WHERE id = 48", "1 of 10 rows changed or left the table"),
        (f"DELETE FROM {TABLE} WHERE id = 48", "1 of 10 rows changed or left the table"),
        (f"UPDATE {TABLE} SET actor = 'all' WHERE id > 38 AND id < 1000", "none of its rows is in the table"),
        (f"ALTER TABLE {TABLE} ADD COLUMN late int", "columns or key changed"),
    ],
)
def test_a_kept_batch_whose_rows_changed_is_stale_and_its_rows_are_taken_anew(archiving, audit, change, reason):
    outage(archiving)
    if change.startswith("ALTER"):
        archiving.database.execute(change)
        audit.expected = archiving.ledger().expected
    else:
        audit.execute(change)
    report = archiving.archive()
    stale = [kept for kept in report.kept_before if kept.state is KeptState.stale]
    assert stale
    assert all(reason in kept.reason for kept in stale)
    audit.account_all_archived()

    before = {name: path.read_bytes() for name, path in archiving.files().items()}
    again = archiving.archive()
    assert [kept.state for kept in archiving.kept(KeptState.stale)] == [KeptState.stale] * len(stale)
    assert (again.rows, {name: path.read_bytes() for name, path in archiving.files().items()}) == (0, before)
    report = validate_table(archiving.session(), ValidationRequest(now=stale[0].since, day=stale[0].since.date()))
    assert [f.subject for f in report.findings] == [str(kept.path) for kept in stale]
    assert {f.kind for f in report.findings} == {FindingKind.fallback}


def test_a_locked_row_leaves_its_kept_batch_superseded(archiving, audit):
    outage(archiving)
    with archiving.database.connect(autocommit=False) as application:
        application.execute(f"SELECT FROM {TABLE} WHERE id = 48 FOR UPDATE")
        report = archiving.archive()
        application.rollback()
    [void] = [batch for batch in report.settled_before if batch.outcome is Outcome.superseded]
    [stale] = archiving.kept(KeptState.stale)
    assert (stale.batch_id, stale.reason) == (void.batch_id, void.reason)
    audit.account()
    archiving.archive()
    audit.account_all_archived()


def test_an_outage_that_goes_on_plans_nothing(archiving, audit):
    outage(archiving)
    kept = archiving.kept()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(NetworkError):
        place(UPLOADING_POINTS["after a kept upload"], archiving.gate.shut, patch.setattr)
        archiving.archive()
    archiving.gate.open()
    assert len(archiving.kept()) == len(kept) - 1
    audit.account()
    archiving.archive()
    audit.account_all_archived()


def test_another_machine_takes_the_rows_anew_and_the_kept_batches_are_stale(archiving, audit):
    outage(archiving)
    elsewhere = archiving.session(store=replace(archiving.store_settings(), local_fallback_dir=None))
    archive_windows(elsewhere, archiving.windows(elsewhere))
    elsewhere.close()
    audit.account_all_archived()
    settled, left = archiving.upload()
    assert settled == ()
    assert {kept.state for kept in left} == {KeptState.stale}
    assert all("this is their only copy" in kept.reason for kept in left)
    audit.account_all_archived()


def test_upload_alone_archives_nothing_new(archiving, audit):
    outage(archiving)
    audit.execute(f"INSERT INTO {TABLE} VALUES (777, now() - interval '45 days', 'late')")
    settled, left = archiving.upload()
    assert (sum(batch.archived_rows for batch in settled), left) == (OLD_ROWS, ())
    audit.account()
    assert audit.old_rows_in_table() == 1


def damage(path):
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])


@pytest.mark.parametrize(
    ("suffix", "harm", "state"),
    [
        (".jsonl.gz", damage, KeptState.stale),
        (".kept.json", damage, KeptState.damaged),
        (".jsonl.gz", os.unlink, KeptState.damaged),
        (".kept.json", os.unlink, KeptState.unfinished),
    ],
)
def test_damaged_files_are_told_and_never_uploaded(archiving, audit, suffix, harm, state):
    outage(archiving)
    harm(archiving.folder / (archiving.kept()[0].key.removesuffix(".jsonl.gz") + suffix))
    report = archiving.archive()
    assert [kept.state for kept in report.kept_before] == [state]
    audit.account_all_archived()
    assert report.kept_before[0].key not in {found.data_key for found in audit.objects()}


def test_other_bytes_under_its_key_stop_the_run_once(archiving, audit, bucket):
    outage(archiving)
    first = archiving.kept()[0]
    bucket.client.put_object(Bucket=bucket.bucket, Key=first.key, Body=b"something else")
    with pytest.raises(VerificationError):
        archiving.archive()
    audit.account()
    report = archiving.archive()
    assert [kept.key for kept in report.kept_before] == [first.key]
    audit.account_all_archived()


def test_a_full_disk_is_said_and_leaves_no_piece(archiving, audit, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(ResourcesError, match=r"fallback folder .*: No space left"):
        patch.setattr(kept_files.os, "fsync", fail)
        outage(archiving)
    assert not archiving.files()
    audit.account()
    archiving.archive()
    audit.account_all_archived()


def test_protected_rows_stay_and_so_does_their_kept_batch(archiving, audit, monkeypatch):
    """A restore protects what it brought back for a while: the kept batch waits with it."""
    outage(archiving)
    with monkeypatch.context() as patch:
        patch.setattr(fallback, "longest_protection", lambda *_: "protected until some day")
        settled, left = archiving.upload()
    assert (settled, {kept.state for kept in left}) == ((), {KeptState.waiting})
    archiving.archive()
    audit.account_all_archived()


@pytest.mark.parametrize("point", KEEPING_POINTS)
def test_a_kill_while_batches_are_kept(archiving, audit, tmp_path, point):
    killed(archiving, point, tmp_path / "plan", outage=archiving.gate.sign)
    archiving.gate.open()
    audit.account()
    report = archive_when_free(archiving)
    assert {kept.state for kept in report.kept_before} <= {KeptState.unfinished}
    assert bool(report.kept_before) == (point == "with its object and no description")
    audit.account_all_archived()


@pytest.mark.parametrize("point", UPLOADING_POINTS)
def test_a_kill_while_kept_batches_are_uploaded(archiving, audit, tmp_path, point):
    outage(archiving)
    killed(archiving, point, tmp_path / "plan")
    if point != "after a kept delete":
        # There a batch is in between, as in any other run: out of the table, and its receipt is not written.
        audit.account()
    archive_when_free(archiving)
    assert not archiving.files()
    audit.account_all_archived()


def test_a_re_execution_of_a_run_that_kept_its_batches(archiving, audit, tmp_path):
    """Killed after some were kept: the same plan goes on and uploads them itself. Their files are found done later."""
    plan = killed(archiving, "after the second batch is kept", tmp_path / "plan", outage=archiving.gate.sign)
    archiving.gate.open()
    kept = archiving.kept()
    session = archiving.session()
    run_plan(session, plan)
    session.close()
    audit.account_all_archived()
    assert archiving.upload() == ((), ())
    assert kept
    assert not archiving.files()
    audit.account_all_archived()


def test_a_re_execution_whose_rows_changed_makes_the_kept_batch_stale(archiving, audit, tmp_path):
    plan = killed(archiving, "after the second batch is kept", tmp_path / "plan", outage=archiving.gate.sign)
    archiving.gate.open()
    shutil.rmtree(archiving.staging)
    audit.execute(f"UPDATE {TABLE} SET actor = actor WHERE id < 1000")
    session = archiving.session()
    run_plan(session, plan)
    session.close()
    audit.account_all_archived()
    archiving.upload()
    assert not archiving.kept()
    audit.account_all_archived()


def test_what_is_kept_says_what_it_is(archiving, audit):
    outage(archiving)
    kept = archiving.kept()[0]
    document = json.loads((kept.path.with_name(kept.path.name.replace(".jsonl.gz", ".kept.json"))).read_text())
    assert document["format_version"] == 1
    assert document["manifest"]["data_key"] == kept.key
    assert len(document["manifest"]["keys"][0]) == kept.rows
    assert "store" in document["reason"]
    assert abs(kept.since.timestamp() - time.time()) < 60
