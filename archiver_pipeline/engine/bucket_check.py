"""Preflight of the bucket: does it encrypt and lock as it is asked to, and does anything else in it delete, expose or
replace archives? What the store does not answer is said, and fails nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from archiver_pipeline.config.effective import StoreSettings, TableSettings
from archiver_pipeline.config.enums import Encryption, ObjectLockMode
from archiver_pipeline.domain.safekeeping import ObjectRetention
from archiver_pipeline.engine.finding import Finding, Level
from archiver_pipeline.engine.safekeeping import encryption_defect, probe_object
from archiver_pipeline.errors import NetworkError, PermissionDeniedError, StoreError
from archiver_pipeline.storage.s3 import NotConfiguredError, S3Store, UnsupportedByStoreError

_PROBE_LOCK = timedelta(seconds=60)
_UNTIL_LOCKED = "nothing will be deleted from a table until it is"


def encryption_findings(store: S3Store, tables: tuple[TableSettings, ...], subject: str) -> Iterator[Finding]:
    """What the store says it encrypted a probe with. Nothing is tried when neither store nor tables ask for it."""
    demanding = [table for table in tables if table.must_encrypt]
    if store.settings.encryption is Encryption.NONE and not demanding:
        return
    with probe_object(store, "encryption") as key:
        found = store.encryption_of(key)
    defect = encryption_defect(store.settings, found)
    if not defect:
        yield Finding(subject, Level.ok, f"the store says that it encrypted a probe: {found}")
    elif demanding:
        hint = f"nothing will be deleted from the {len(demanding)} tables that must be encrypted"
        yield Finding(subject, Level.failed, f"a probe: {defect}", hint, exit_code=3)
    else:
        hint = f"s3.encryption asks for {store.settings.encryption}; archives are written all the same"
        yield Finding(subject, Level.warning, f"a probe: {defect}", hint)


def lock_findings(store: S3Store, tables: tuple[TableSettings, ...], subject: str) -> Iterator[Finding]:
    """Whether a probe can be locked, for a minute. Its locked version stays in the bucket, behind a delete marker."""
    mode = store.settings.object_lock
    if mode is None:
        return
    until = (datetime.now(UTC) + _PROBE_LOCK).replace(microsecond=0)
    wanted = ObjectRetention(mode.value.upper(), until)
    with probe_object(store, "lock") as key:
        try:
            store.retain(key, wanted)
            found = store.retention_of(key)
        except StoreError as error:
            hint = f"create the bucket with Object Lock; {_UNTIL_LOCKED}"
            yield Finding(subject, Level.failed, f"a probe can't be locked: {error.message}", hint, exit_code=3)
            return
    if found is None or not found.covers(wanted):
        hint = f"the store answered well, and locked nothing; {_UNTIL_LOCKED}"
        yield Finding(subject, Level.failed, "a probe was not locked as it was asked to be", hint, exit_code=3)
        return
    days = sorted({table.lock_days for table in tables if table.lock_days})
    message = f"archives are locked for {' or '.join(map(str, days))} days in mode {mode}"
    yield Finding(subject, Level.ok, message)
    if mode is ObjectLockMode.COMPLIANCE:
        hint = "as s3.object_lock.acknowledge_irrevocable says; try mode governance first"
        yield Finding(subject, Level.warning, "nobody can delete archives or shorten their lock, ever", hint)


@dataclass(frozen=True, slots=True)
class _Question:
    """One thing to ask of the bucket. `action` is what a user needs to ask it; `read` makes findings of the answer,
    None when nothing of the kind is configured."""

    what: str
    operation: str
    action: str
    read: Callable[[dict[str, Any] | None, StoreSettings], Iterator[tuple[Level, str, str]]]


def bucket_findings(store: S3Store, subject: str) -> Iterator[Finding]:
    """Everything about the bucket that concerns the safety of archives in it. Raises NetworkError."""
    for question in _QUESTIONS:
        for level, message, hint in _answered(store, question):
            yield Finding(subject, level, message, hint, exit_code=3 if level is Level.failed else 0)


def _answered(store: S3Store, question: _Question) -> Iterator[tuple[Level, str, str]]:
    answer: dict[str, Any] | None
    try:
        answer = store.ask_of_bucket(question.operation)
    except NotConfiguredError:
        answer = None
    except NetworkError:
        raise
    except PermissionDeniedError:
        hint = f"allow {question.action} on the bucket, or let somebody look who may"
        yield Level.warning, f"{question.what}: this user may not see it", hint
        return
    except UnsupportedByStoreError:
        yield Level.ok, f"{question.what}: the store does not know the question", ""
        return
    except StoreError as error:
        yield Level.warning, f"{question.what}: the store does not say ({error.message})", ""
        return
    yield from question.read(answer, store.settings)


def _versioning(answer: dict[str, Any] | None, settings: StoreSettings) -> Iterator[tuple[Level, str, str]]:
    status = (answer or {}).get("Status")
    if status == "Enabled":
        yield Level.ok, "versioning: on, so an overwritten or deleted object can be brought back", ""
        return
    message = f"versioning: {'suspended' if status else 'off'}, so whoever may write can replace archives unnoticed"
    yield Level.warning, message, "turn it on; our own writes never replace an archive"


def _object_lock(answer: dict[str, Any] | None, settings: StoreSettings) -> Iterator[tuple[Level, str, str]]:
    configuration = (answer or {}).get("ObjectLockConfiguration", {})
    if configuration.get("ObjectLockEnabled") != "Enabled":
        yield Level.ok, "Object Lock: the bucket has none", ""
        return
    default = configuration.get("Rule", {}).get("DefaultRetention", {})
    if not default:
        yield Level.ok, "Object Lock: on, without a default retention", ""
        return
    length = f"{default['Days']} days" if "Days" in default else f"{default.get('Years')} years"
    yield Level.ok, f"Object Lock: on; every object is locked by default ({default.get('Mode')}, {length})", ""


def _bucket_encryption(answer: dict[str, Any] | None, settings: StoreSettings) -> Iterator[tuple[Level, str, str]]:
    rules = (answer or {}).get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
    defaults = [rule.get("ApplyServerSideEncryptionByDefault", {}) for rule in rules]
    named = [" ".join(filter(None, [one.get("SSEAlgorithm"), one.get("KMSMasterKeyID")])) for one in defaults]
    if named:
        yield Level.ok, f"default encryption of the bucket: {', '.join(named)}", ""
    elif settings.encryption is Encryption.BUCKET_DEFAULT:
        hint = "configure one, or set s3.encryption to SSE-S3 or SSE-KMS"
        yield Level.warning, "default encryption of the bucket: none is configured", hint
    else:
        yield Level.ok, "default encryption of the bucket: none is configured", ""


def _public_access(answer: dict[str, Any] | None, settings: StoreSettings) -> Iterator[tuple[Level, str, str]]:
    configuration = (answer or {}).get("PublicAccessBlockConfiguration", {})
    open_keys = [key for key in _PUBLIC_ACCESS if not configuration.get(key)]
    if not open_keys:
        yield Level.ok, "public access: blocked", ""
    else:
        yield Level.warning, f"public access: not blocked ({', '.join(open_keys)})", "block it for the whole bucket"


_PUBLIC_ACCESS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


def _policy(answer: dict[str, Any] | None, settings: StoreSettings) -> Iterator[tuple[Level, str, str]]:
    if answer is None:
        yield Level.ok, "bucket policy: none (deploy/aws/bucket-policy.json is an example)", ""
    elif answer.get("PolicyStatus", {}).get("IsPublic"):
        yield Level.failed, "bucket policy: it makes the bucket public", "remove the statement that allows everybody"
    else:
        yield Level.ok, "bucket policy: there is one, and it does not make the bucket public", ""


def _lifecycle(answer: dict[str, Any] | None, settings: StoreSettings) -> Iterator[tuple[Level, str, str]]:
    rules = [rule for rule in (answer or {}).get("Rules", []) if _concerns(rule, settings.prefix)]
    harmless = True
    for rule in rules:
        name = rule.get("ID") or "without a name"
        if "Expiration" in rule and {"Days", "Date"} & set(rule["Expiration"]):
            harmless = False
            hint = "remove or narrow the rule before anything is archived: it deletes the only copy of rows"
            yield Level.failed, f"lifecycle rule {name} deletes archives", hint
        if rule.get("Transitions"):
            harmless = False
            classes = ", ".join(one.get("StorageClass", "?") for one in rule["Transitions"])
            hint = "manifests and receipts must be readable at once: narrow the rule, and set s3.storage_class instead"
            yield Level.warning, f"lifecycle rule {name} moves archives and their documents to {classes}", hint
    if harmless:
        yield Level.ok, "lifecycle rules: none deletes or moves archives", ""


def _concerns(rule: dict[str, Any], prefix: str) -> bool:
    """Whether an active rule may take objects below our prefix. One that also asks for tags or sizes may."""
    condition = rule.get("Filter", {})
    own = rule.get("Prefix") or condition.get("Prefix") or condition.get("And", {}).get("Prefix") or ""
    below = f"{prefix}/" if prefix else ""
    return rule.get("Status") == "Enabled" and (below.startswith(own) or own.startswith(below))


_QUESTIONS = (
    _Question("versioning", "get_bucket_versioning", "s3:GetBucketVersioning", _versioning),
    _Question("Object Lock", "get_object_lock_configuration", "s3:GetBucketObjectLockConfiguration", _object_lock),
    _Question(
        "default encryption of the bucket", "get_bucket_encryption", "s3:GetEncryptionConfiguration", _bucket_encryption
    ),
    _Question("public access", "get_public_access_block", "s3:GetBucketPublicAccessBlock", _public_access),
    _Question("bucket policy", "get_bucket_policy_status", "s3:GetBucketPolicyStatus", _policy),
    _Question("lifecycle rules", "get_bucket_lifecycle_configuration", "s3:GetLifecycleConfiguration", _lifecycle),
)
