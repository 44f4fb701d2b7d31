"""`archiver audit` and `archiver certificate`, as a person types them."""

import csv
import json
import shutil
import subprocess

import pytest

from archiver_pipeline_tests.docs.reading import ROOT, runnable_blocks
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS

BLOCKS = runnable_blocks(ROOT / "docs" / "audit-trail.md")


@pytest.fixture
def archived(workplace):
    """Archived through the command, with a refusal before."""
    workplace.environment["ARCHIVER_ACTOR"] = "carol"
    with workplace.hold_lock():
        assert workplace.run("run", "--direct").code == 4
    assert workplace.run("run").code == 0
    return workplace


def links(workplace) -> list[str]:
    return [key for key in workplace.bucket.keys() if "/_audit/" in key]  # noqa: SIM118 - no mapping


def test_a_trail_is_verified_anchored_exported_and_certified(archived):
    clean = archived.run("audit", "verify")
    assert (clean.code, "appdb.public.audit_logs: clean" in clean.stdout) == (0, True)
    assert "no anchor was given" in clean.stdout

    heads = archived.run("audit", "head", "--json")
    anchor = archived.folder / "heads.json"
    anchor.write_text(heads.stdout)
    [head] = heads.json["heads"]
    assert f"link {head['sequence']} {head['sha256']}" in archived.run("audit", "head").stdout

    exported = archived.run("audit", "export")
    kinds = [entry["kind"] for entry in exported.json]
    assert {"configuration", "refusal", "plan", "batch", "report"} <= set(kinds)
    [refusal] = [entry for entry in exported.json if entry["kind"] == "refusal"]
    assert (refusal["facts"]["error"], refusal["who"]["actor"]) == ("LockHeldError", "carol")
    assert all(entry["who"]["command"] == "archiver run" for entry in exported.json)
    run_ids = {entry["who"]["run_id"] for entry in exported.json if entry["kind"] == "batch"}
    assert "direct" not in run_ids
    file = archived.folder / "batches.csv"
    assert archived.run("audit", "export", "--format", "csv", "--kind", "batch", "--output", str(file)).code == 0
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == kinds.count("batch")
    assert sum(json.loads(row["facts"])["rows"] for row in rows) == OLD_ROWS
    assert archived.run("audit", "export", "--output", str(file)).code == 3
    assert archived.run("audit", "export", "--end-date", "2020-01-01").json == []

    certificate = archived.run("certificate", "--key", "17")
    assert certificate.code == 0, certificate.stdout
    assert "row         id=17, row version xmin" in certificate.stdout
    assert "for carol, database role" in certificate.stdout
    [one] = archived.run("certificate", "--key", "17", "--json").json["certificates"]
    assert (one["verifies"], one["state"], one["row"]["key"]) == (True, "archived", {"id": 17})
    nothing = archived.run("certificate", "--key", "100001")
    assert (nothing.code, "is in no archive" in nothing.stdout) == (1, True)
    assert archived.run("certificate").code == 3

    before = links(archived)
    archived.bucket.client.delete_object(Bucket=archived.bucket.bucket, Key=before[-1])
    found = archived.run("audit", "verify", "--anchor", str(anchor), "--json")
    assert found.code == 1
    assert [finding["kind"] for finding in found.json[0]["findings"]] == ["truncated"]
    assert archived.run("audit", "verify", "--anchor", str(archived.config_path)).code == 3


def test_looks_and_dry_runs_write_nothing(archived):
    before = links(archived)
    for words in (
        ["run", "--dry-run"],
        ["list"],
        ["restore", "--table", "audit_logs", "--restore-all", "--dry-run"],
        ["audit", "verify"],
        ["certificate", "--key", "17"],
    ):
        assert archived.run(*words).code == 0, words
    assert links(archived) == before


def test_the_chain_is_checked_with_the_shell_alone(archived, tmp_path_factory):
    folder = tmp_path_factory.mktemp("links")
    for key in links(archived):
        (folder / key.rpartition("/")[2]).write_bytes(archived.bucket.read(key))

    def check() -> list[str]:
        done = subprocess.run(
            ["sh", "-c", BLOCKS["check-chain"]], cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    [head] = archived.run("audit", "head", "--json").json["heads"]
    assert check() == [head["sha256"]]
    second = sorted(folder.iterdir())[1]
    second.write_text(second.read_text().replace('"pid": ', '"pid": 1'))
    assert check()[0].startswith("the link before 000000000003.json is not the one")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is no part of this program")
def test_a_head_can_be_time_stamped(tmp_path):
    """The commands of the page, with an authority made by openssl itself."""
    (tmp_path / "heads.json").write_text('{"format_version": 1, "heads": []}')
    _make_authority(tmp_path)
    query, _, *verify = BLOCKS["timestamp"].strip().splitlines()
    _shell(tmp_path, query)
    _shell(
        tmp_path, "openssl ts -reply -config tsa.cnf -queryfile heads.tsq -signer tsa.pem -inkey tsa.key -out heads.tsr"
    )
    _shell(tmp_path, "\n".join(verify))
    (tmp_path / "heads.json").write_text('{"format_version": 1, "heads": [1]}')
    with pytest.raises(subprocess.CalledProcessError):
        _shell(tmp_path, "\n".join(verify))


def _make_authority(folder) -> None:
    (folder / "serial").write_text("01\n")
    (folder / "tsa.cnf").write_text(
        "[tsa]\ndefault_tsa = own\n[own]\nserial = serial\nsigner_digest = sha256\ndefault_policy = 1.2.3.4.1\n"
        "digests = sha256\n[ext]\nextendedKeyUsage = critical,timeStamping\n"
        "[req]\ndistinguished_name = dn\n[dn]\n"
    )
    new = "openssl req -x509 -config tsa.cnf -newkey rsa:2048 -nodes -days 2"
    _shell(folder, f"{new} -subj /CN=ca -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out tsa-ca.pem")
    _shell(folder, "openssl req -config tsa.cnf -newkey rsa:2048 -nodes -subj /CN=tsa -keyout tsa.key -out tsa.csr")
    signed = "openssl x509 -req -in tsa.csr -CA tsa-ca.pem -CAkey ca.key -CAcreateserial -days 2"
    _shell(folder, f"{signed} -extfile tsa.cnf -extensions ext -out tsa.pem")


def _shell(folder, command: str) -> None:
    subprocess.run(["sh", "-ec", command], cwd=folder, check=True, capture_output=True)
