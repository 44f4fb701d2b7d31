"""`archiver run` and `archiver upload-pending` with a real store that dies amid a run and comes back."""

import pytest

from archiver_pipeline.sandbox.s3_server import S3Server
from archiver_pipeline_tests.cli.faulty_store import holding_store
from archiver_pipeline_tests.cli.workplace import wait_until
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, YOUNG_ROWS
from archiver_pipeline_tests.plugins.servers import Bucket


@pytest.fixture
def server():
    with S3Server() as server:
        yield server


@pytest.fixture
def bucket(server):
    """A bucket on a server of this test's own, which it may kill."""
    return Bucket(
        endpoint=server.endpoint,
        bucket=server.bucket,
        prefix="archives",
        region=server.region,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
        client=server.client(),
    )


@pytest.fixture
def folder(workplace):
    """The workplace's fallback folder; its runs take one batch after the other."""
    workplace.document["s3"]["local_fallback_dir"] = "fallback"
    workplace.write(batch_size=1, workers=1)
    return workplace.folder / "fallback"


def point_to(workplace, endpoint):
    workplace.document["s3"]["endpoint"] = endpoint
    workplace.write()


def kept_in(folder):
    return sorted(path for path in folder.rglob("*.kept.json"))


def test_a_store_that_dies_amid_the_uploads(workplace, folder, server):
    """The whole story of an outage, as an operator meets it."""
    ledger = workplace.ledger()
    with holding_store(server.endpoint) as store:
        point_to(workplace, store.endpoint)
        hold = store.hold(r"\.jsonl\.gz", let_pass=3)
        run = workplace.start("run", "--direct")
        wait_until(lambda: hold.held, what="the fourth upload", seconds=60)
        server._halt(immediate=True)
        store.drop(hold)
        died = workplace.end(run)
    server.restart()
    point_to(workplace, server.endpoint)

    assert died.code == 1, died.stderr
    assert "batches kept on the local disk" in died.stdout
    assert f"{OLD_ROWS} batches with {OLD_ROWS} rows wait on the local disk since" in died.error
    assert died.error.count("the store at") == 1
    assert len(kept_in(folder)) == OLD_ROWS
    assert len(ledger.table_rows()) == OLD_ROWS + YOUNG_ROWS
    ledger.account()

    shown = workplace.run("upload-pending", "--dry-run")
    assert (shown.code, shown.stdout.count(" waiting ")) == (0, OLD_ROWS)
    assert "0 h 0 min" in shown.stdout
    assert len(kept_in(folder)) == OLD_ROWS
    checked = workplace.run("check")
    assert f"{OLD_ROWS} waiting batches on the local disk" in checked.stdout

    changed = workplace.database.execute("SELECT min(id) FROM audit_logs WHERE id < 100000")[0][0]
    ledger.execute(f"UPDATE public.audit_logs SET actor = 'changed' WHERE id = {changed}")
    uploaded = workplace.run("upload-pending", "--json")
    assert uploaded.code == 1
    [table] = uploaded.json["tables"]
    assert sum(batch["rows"] for batch in table["settled"]) == OLD_ROWS - 1
    assert [kept["state"] for kept in table["left"]] == ["stale"]
    ledger.account()

    rest = workplace.run("run", "--direct")
    assert rest.code == 0
    assert "stale since" in rest.stderr
    ledger.account_all_archived()
    validated = workplace.run("validate", "--direct")
    assert validated.code == 1
    assert "stale local fallbacks (1)" in validated.stdout


def test_nothing_is_kept(workplace):
    workplace.document["s3"]["local_fallback_dir"] = "fallback"
    workplace.write()
    found = workplace.run("upload-pending")
    assert (found.code, found.stdout) == (0, "Nothing is kept on the local disk.\n")
    assert not (workplace.folder / "fallback").exists()


def test_a_folder_that_others_read_or_nobody_writes_is_told_by_check(workplace):
    folder = workplace.folder / "fallback"
    folder.mkdir(mode=0o755)
    workplace.document["s3"]["local_fallback_dir"] = str(folder)
    workplace.write()
    assert "others can read it" in workplace.run("check").stdout
    folder.rmdir()
    folder.write_text("a file")
    found = workplace.run("check")
    assert found.code == 5
    assert "can't be written to" in found.stdout
    folder.unlink()
