"""The policies in deploy/aws: enough for each role, with nothing to spare, and what the bucket's own policy refuses."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic import SecretStr

from archiver_pipeline.config.effective import StoreSettings
from archiver_pipeline.config.enums import Encryption, ObjectLockMode
from archiver_pipeline.domain.audit import AuditKind
from archiver_pipeline.domain.expiry import ExpiryOutcome, SettledExpiry
from archiver_pipeline.domain.restore import RetrievalTier
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.validation import ValidationRequest
from archiver_pipeline.engine.archived import list_stored
from archiver_pipeline.engine.bucket_check import bucket_findings, encryption_findings, lock_findings
from archiver_pipeline.engine.expiry import apply_expiry
from archiver_pipeline.engine.finding import Level
from archiver_pipeline.engine.preflight import probe_configured_store
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.validate import validate_table
from archiver_pipeline.errors import ArchiverError, LockHeldError, PermissionDeniedError
from archiver_pipeline.sandbox.s3_server import S3Server
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.engine.running import archive_when_free
from archiver_pipeline_tests.plugins.archiving import DATABASE_ID, YOUNG_ROWS, Archiving, create_audit_table
from archiver_pipeline_tests.plugins.restoring import Restoring
from archiver_pipeline_tests.plugins.servers import Bucket, Database
from archiver_pipeline_tests.sandbox.waiting import wait_until
from archiver_pipeline_tests.storage.enforcing_store import Enforcing, Policy, enforcing_store

FOLDER = Path(__file__).parents[2] / "deploy" / "aws"
FILES = sorted(FOLDER.glob("*.json"))
EXPIRE_ROLE = "arn:aws:iam::111122223333:role/archiver-expire"
ARCHIVE_ROLE = "arn:aws:iam::111122223333:role/archiver-archive"
IN_TLS = {"aws:SecureTransport": "true", "aws:PrincipalArn": ARCHIVE_ROLE}
DAYS = 5
OLD_ROWS = 3
TABLE = TableName(DATABASE_ID, "public", "audit_logs")
ALL_ROWS = OLD_ROWS + YOUNG_ROWS
WORKING = ("archive", "restore", "validate")
# SeaweedFS takes no policy that names them. It asks an administrator's right for some, and knows no retrieval.
UNKNOWN_TO_SEAWEEDFS = {
    "s3:GetEncryptionConfiguration",
    "s3:GetBucketPublicAccessBlock",
    "s3:GetBucketPolicyStatus",
    "s3:GetLifecycleConfiguration",
    "s3:RestoreObject",
}


def policy(name: str, bucket: str) -> Policy:
    document: Policy = json.loads((FOLDER / f"{name}.json").read_text().replace("audit-archive", bucket))
    return document


def listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def with_one_less(whole: Policy) -> Iterator[tuple[str, Policy]]:
    """The policy without one action or one resource of one statement, for each there is."""
    for number, statement in enumerate(whole["Statement"]):
        for part in ("Action", "Resource"):
            for one in listed(statement[part]):
                less = copy.deepcopy(whole)
                less["Statement"][number][part] = [other for other in listed(statement[part]) if other != one]
                yield f"{statement['Sid']}: {one}", less


@dataclass
class Roles:
    """What each role does, with a store that enforces its policy. Encrypted, locked, and with a table to archive."""

    archiving: Archiving
    store: StoreSettings

    def archive(self) -> None:
        """`archiver check` and `archiver run`."""
        self.check()
        assert archive_when_free(self.archiving, store=self.store, must_encrypt=True, lock_days=DAYS).rows > 0
        self.audit(AuditKind.report)

    def check(self) -> None:
        assert probe_configured_store(self.store).creates_conditionally
        store, tables = S3Store(self.store), (self.archiving.settings(must_encrypt=True, lock_days=DAYS),)
        found = [*encryption_findings(store, tables, ""), *lock_findings(store, tables, "")]
        found += bucket_findings(store, "")
        unseen = [one.message for one in found if one.level is Level.failed or "may not see" in one.message]
        assert not unseen

    def restore(self) -> None:
        """`archiver list` and `archiver restore`, of archives that must be retrieved, too."""
        assert list_stored(S3Store(self.store), self.archiving.session().name)
        self.audit(AuditKind.restore)
        self.retrieve()
        Restoring(self.archiving).restore(store=self.store, ignore_watermark=True)
        assert len(self.archiving.ledger().table_rows()) == ALL_ROWS

    def retrieve(self) -> None:
        """SeaweedFS has no cold classes: whoever may retrieve gets another error than whoever may not."""
        [first, *_] = list_stored(S3Store(self.store), self.archiving.session().name)
        try:
            S3Store(self.store).start_retrieval(
                first.data_key or "", storage_class="GLACIER", days=1, tier=RetrievalTier.Standard
            )
        except PermissionDeniedError:
            raise
        except ArchiverError:
            return

    def validate(self) -> None:
        """`archiver validate`, which writes down that it did."""
        now = datetime.now(UTC)
        session = self.archiving.session(store=self.store, must_encrypt=True, lock_days=DAYS)
        assert not validate_table(session, ValidationRequest(now=now, day=now.date(), offline=True)).findings
        self.audit(AuditKind.validation)

    def audit(self, kind: AuditKind) -> None:
        session = self.archiving.session(store=self.store, must_encrypt=True, lock_days=DAYS)
        session.audit.record(kind, rows=1)


@pytest.fixture
def prepared(database: Database, lock_bucket: Bucket, tmp_path: Path) -> Iterator[Archiving]:
    create_audit_table(database, old=OLD_ROWS)
    factory = Archiving(database, lock_bucket, tmp_path / "staging")
    yield factory
    for session in factory.opened:
        session.close()


def settings_of(archiving: Archiving, **overrides: Any) -> StoreSettings:
    own = {"encryption": Encryption.SSE_S3, "object_lock": ObjectLockMode.GOVERNANCE}
    return replace(archiving.store_settings(), **own | overrides)


@pytest.fixture
def enforcing(prepared: Archiving) -> Iterator[Enforcing]:
    with enforcing_store(prepared.bucket.endpoint) as store:
        store.bucket = policy("bucket-policy", prepared.bucket.bucket)
        store.context = dict(IN_TLS)
        yield store


def done_before(archiving: Archiving, role: str) -> None:
    """What the role finds: archives, unless it makes them."""
    if role != "archive":
        Roles(archiving, settings_of(archiving)).archive()


@pytest.mark.parametrize("role", WORKING)
def test_a_role_can_do_its_work_and_could_not_with_less(prepared, enforcing, role):
    done_before(prepared, role)
    own = policy(f"iam-{role}", prepared.bucket.bucket)
    roles = Roles(prepared, settings_of(prepared, endpoint=enforcing.endpoint))
    work: Callable[[], None] = getattr(roles, role)
    for missing, less in with_one_less(own):
        enforcing.identity, enforcing.refused = less, []
        with suppress(ArchiverError, AssertionError):
            work()
            pytest.fail(f"{role} did not miss {missing}")
        assert enforcing.refused, f"{missing}: it failed for another reason"
        if role == "archive":
            assert not prepared.ledger().receipted(), missing
    enforcing.identity, enforcing.refused = own, []
    work()
    assert enforcing.refused == []


def _is_free(session: ArchiveSession) -> bool:
    """Whether the server has noticed that the session before is gone."""
    with suppress(LockHeldError):
        session.lock.require_held()
        return True
    return False


def test_the_role_that_removes_archives_can_do_that_and_could_not_with_less(prepared, enforcing):
    """Of four archives the store keeps two, each by a lock of another kind."""
    prepared.database.execute("DROP TABLE audit_logs")
    create_audit_table(prepared.database, old=4)
    prepared.archive(store=settings_of(prepared, object_lock=None), batch_size=1)
    client, name = prepared.bucket.client, prepared.bucket.bucket
    first, second, *_ = [one.data_key for one in list_stored(S3Store(prepared.store_settings()), TABLE)]
    until = datetime.now(UTC) + timedelta(days=1)
    retention = {"Mode": "GOVERNANCE", "RetainUntilDate": until}
    client.put_object_retention(Bucket=name, Key=first, Retention=retention)
    client.put_object_legal_hold(Bucket=name, Key=second, LegalHold={"Status": "ON"})
    enforcing.context["aws:PrincipalArn"] = EXPIRE_ROLE
    own, store = policy("iam-expire", name), settings_of(prepared, endpoint=enforcing.endpoint)

    def work() -> list[SettledExpiry]:
        session = prepared.session(store=store, archive_retention_days=35, lock_days=35)
        try:
            wait_until(partial(_is_free, session), "the table lock")
            return list(apply_expiry(session))
        finally:
            session.close()

    for missing, less in with_one_less(own):
        enforcing.identity, enforcing.refused, enforcing.hidden = less, [], []
        with suppress(ArchiverError):
            kept = [one.reason for one in work() if one.outcome is not ExpiryOutcome.expired]
            assert kept, f"expire did not miss {missing}"
        assert enforcing.refused or enforcing.hidden, f"{missing}: it failed for another reason"
    enforcing.identity, enforcing.refused, enforcing.hidden = own, [], []
    settled = work()
    assert (enforcing.refused, enforcing.hidden) == ([], [])
    kept = {one.archive.data_key: one.reason for one in settled if one.outcome is not ExpiryOutcome.expired}
    assert set(kept) == {first, second}
    assert all("blocked by the store" in reason for reason in kept.values())
    assert ExpiryOutcome.expired in {one.outcome for one in settled}


@pytest.fixture(scope="module")
def seaweedfs() -> Iterator[S3Server]:
    """A server that takes users and policies, and enforces them itself."""

    class WithUsers(S3Server):
        def _flags(self) -> list[str]:
            return [*super()._flags(), "-s3.iam.readOnly=false"]

    with WithUsers() as server:
        server.create_bucket("policies", object_lock=True)
        yield server


def user_with(server: S3Server, name: str, document: Policy) -> dict[str, Any]:
    """The keys of a new user who has this policy, without what SeaweedFS does not know."""
    known = copy.deepcopy(document)
    for statement in known["Statement"]:
        statement["Action"] = [one for one in listed(statement["Action"]) if one not in UNKNOWN_TO_SEAWEEDFS]
    iam = boto3.client(
        "iam",
        endpoint_url=server.endpoint,
        region_name=server.region,
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=server.secret_access_key,
        config=Config(retries={"total_max_attempts": 1}),
    )
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=json.dumps(known))
    return {"access_key_id": key["AccessKeyId"], "secret_access_key": SecretStr(key["SecretAccessKey"])}


def test_a_store_that_enforces_policies_itself_lets_each_role_work(seaweedfs, database, bucket, tmp_path):
    """Not our reading of what each request needs, but SeaweedFS's, which is a program of others."""
    create_audit_table(database, old=OLD_ROWS)
    own = replace(bucket, endpoint=seaweedfs.endpoint, bucket="policies", client=seaweedfs.client())
    archiving = Archiving(database, own, tmp_path / "staging")
    try:
        keys = {role: user_with(seaweedfs, role, policy(f"iam-{role}", "policies")) for role in WORKING}
        role = {name: Roles(archiving, settings_of(archiving, **keys[name])) for name in WORKING}
        ledger = archiving.ledger()
        with pytest.raises(PermissionDeniedError):
            archiving.archive(store=role["validate"].store)
        archiving.archive(store=role["archive"].store, must_encrypt=True, lock_days=DAYS)
        ledger.account_all_archived()
        role["validate"].validate()
        Restoring(archiving).restore(store=role["restore"].store)
        assert len(archiving.ledger().table_rows()) == ALL_ROWS
        for name in WORKING:
            store = S3Store(role[name].store)
            key = own.keys("archives/appdb")[0]
            assert refusal_of(store._client, "delete_object", Bucket="policies", Key=key)
    finally:
        for session in archiving.opened:
            session.close()


def refusal_of(client: Any, operation: str, **what: Any) -> bool:
    try:
        getattr(client, operation)(**what)
    except ClientError as error:
        return str(error.response["Error"]["Code"]) in ("AccessDenied", "403")
    return False


def test_the_policy_of_the_bucket_refuses_what_it_says(prepared, enforcing):
    bucket, key = prepared.bucket.bucket, "archives/appdb/audit_logs/x"
    enforcing.identity = {"Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    client = S3Store(settings_of(prepared, endpoint=enforcing.endpoint))._client
    encrypted = {"Bucket": bucket, "Key": key, "Body": b"x", "ServerSideEncryption": "AES256"}
    assert not refusal_of(client, "put_object", **encrypted)
    assert refusal_of(client, "put_object", Bucket=bucket, Key=key, Body=b"x")
    assert refusal_of(client, "put_object", **encrypted | {"ServerSideEncryption": "aws:kms"})
    assert refusal_of(client, "delete_object", Bucket=bucket, Key=key)
    probe = "archives/_probe/x"
    assert not refusal_of(client, "put_object", **encrypted | {"Key": probe})
    assert not refusal_of(client, "delete_object", Bucket=bucket, Key=probe)
    enforcing.context["aws:PrincipalArn"] = EXPIRE_ROLE
    assert not refusal_of(client, "delete_object", Bucket=bucket, Key=key)
    enforcing.context["aws:SecureTransport"] = "false"
    assert refusal_of(client, "list_objects_v2", Bucket=bucket)


def test_seaweedfs_reads_the_policy_of_the_bucket_alike(seaweedfs):
    """Where it can: it names no roles to conditions, so the exception for one is left out."""
    client, bucket = seaweedfs.client(), "by-policy"
    seaweedfs.create_bucket(bucket)
    client.put_object(Bucket=bucket, Key="archives/x", Body=b"x", ServerSideEncryption="AES256")
    client.put_object(Bucket=bucket, Key="archives/_probe/x", Body=b"x", ServerSideEncryption="AES256")
    whole = policy("bucket-policy", bucket)
    in_tls, encrypted, deletes, _ = whole["Statement"]
    del deletes["Condition"]
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(whole | {"Statement": [encrypted, deletes]}))
    assert refusal_of(client, "put_object", Bucket=bucket, Key="archives/y", Body=b"x")
    assert not refusal_of(
        client, "put_object", Bucket=bucket, Key="archives/y", Body=b"x", ServerSideEncryption="AES256"
    )
    assert refusal_of(client, "delete_object", Bucket=bucket, Key="archives/x")
    assert not refusal_of(client, "delete_object", Bucket=bucket, Key="archives/_probe/x")
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(whole | {"Statement": [in_tls]}))
    assert refusal_of(client, "get_object", Bucket=bucket, Key="archives/x")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_policy_is_json_that_allows_no_more_than_it_names(path):
    document = json.loads(path.read_text())
    assert document["Version"] == "2012-10-17"
    for statement in document["Statement"]:
        if statement["Effect"] == "Allow":
            assert not [action for action in listed(statement["Action"]) if "*" in action]
            assert not [one for one in listed(statement["Resource"]) if one == "*" or ":::*" in one]
            assert "NotAction" not in statement
        else:
            assert path.name == "bucket-policy.json"
