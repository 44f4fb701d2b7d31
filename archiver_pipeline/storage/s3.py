"""An S3-compatible object store.

Writes are create-only and carry the SHA-256 of their bytes, so that a store that can checks both. A store that knows
neither is still safe: keys are never shared by two attempts, and every data object is read back before any delete.
"""

import base64
import hashlib
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from urllib3.exceptions import HTTPError

from archiver_pipeline.config.effective import StoreSettings
from archiver_pipeline.config.enums import AddressingStyle, Encryption, StorageClass
from archiver_pipeline.domain.layout import (
    COLD_CLASSES,
    EXPIRY_SUFFIX,
    MANIFEST_SUFFIX,
    RECEIPT_SUFFIX,
    SUPERSEDED_SUFFIX,
    StoredObject,
    stem_of,
)
from archiver_pipeline.domain.prices import RETRIEVAL_TERMS
from archiver_pipeline.domain.restore import RetrievalTier
from archiver_pipeline.domain.retrieval import RetrievalState, retrieval_state_of
from archiver_pipeline.domain.safekeeping import ObjectRetention, StoredEncryption
from archiver_pipeline.errors import (
    ArchiverError,
    NetworkError,
    PermissionDeniedError,
    PreflightError,
    ResourcesError,
    StoreError,
)
from archiver_pipeline.secret_sources.secret import ReferencedSecret, forget

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

READ_BLOCK_BYTES = 1 << 20
_WHOLE_BODY_BYTES = 16 << 20
_CONNECT_TIMEOUT_SECONDS = 10
_READ_TIMEOUT_SECONDS = 60
_ATTEMPTS = 5
_PERMISSION_CODES = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "ExpiredToken"})
_MISSING_CODES = frozenset({"NoSuchKey", "404", "NotFound"})
_TRANSIENT_CODES = frozenset({"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "503", "500"})
_ETAG_OF_NOTHING = f'"{"0" * 32}"'
_UNSUPPORTED_CODES = frozenset({"NotImplemented", "501", "MethodNotAllowed", "405"})
_UNCONFIGURED_CODES = frozenset(
    {
        "NoSuchBucketPolicy",
        "NoSuchLifecycleConfiguration",
        "NoSuchObjectLockConfiguration",
        "NoSuchPublicAccessBlockConfiguration",
        "ObjectLockConfigurationNotFoundError",
        "ServerSideEncryptionConfigurationNotFoundError",
    }
)


class StoreNetworkError(NetworkError):
    """The store could not be reached, or was too busy, after all tries."""


class StoreFullError(ResourcesError):
    """The store has no room for what it was sent."""


class ObjectExistsError(StoreError):
    """Create-only write of a key that is already there."""


class ObjectMissingError(StoreError):
    """No object under that key."""


class ObjectChangedError(StoreError):
    """Somebody wrote, created or removed the object since it was read."""


class ObjectLockedError(StoreError):
    """The store itself keeps the object: its retention is not over, or a legal hold is on it."""


class ObjectColdError(StoreError):
    """The object is in a class that must be retrieved before it can be read."""


class RetrievalUnderWayError(StoreError):
    """The object is being retrieved already."""


class S3Store:
    """One bucket. Safe for use by many threads."""

    def __init__(self, settings: StoreSettings, *, connections: int = 10) -> None:
        self.settings = settings
        self.creates_conditionally = True
        self.replaces_conditionally: bool | None = None
        """Whether the store refuses to replace an object that changed; None until the first replacement."""
        self._connections = connections
        self._opening = threading.Lock()
        self._opened: S3Client | None = None

    @property
    def _client(self) -> "S3Client":
        """Opened on first use, and anew after keys that are kept elsewhere were refused: they may have been rotated."""
        with self._opening:
            if self._opened is None:
                self._opened = _client(self.settings, self._connections)
            return self._opened

    def _drop_refused_keys(self) -> None:
        """As far as their source has others by now; what was refused is not tried again."""
        keys = (self.settings.access_key_id, self.settings.secret_access_key)
        for key in keys:
            if isinstance(key, ReferencedSecret):
                forget(key)
                self._opened = None

    def put_file(self, key: str, path: Path, *, sha256_hex: str) -> None:
        """Create an object from a file.

        Cold classes are not set here: what is in them cannot be read back, so the object moves after it was verified.
        Raises ObjectExistsError, NetworkError, PermissionDeniedError or StoreError. Safe to repeat.
        """
        extra = self._write_options(cold_allowed=False)
        size_bytes = path.stat().st_size
        if size_bytes >= self.settings.multipart_threshold_bytes:
            self._put_parts(key, path, extra)
        elif size_bytes <= _WHOLE_BODY_BYTES:
            # A file body is sent in pieces of 16 KiB, which costs more than the memory it saves.
            self._put(key, path.read_bytes(), _base64_of_hex(sha256_hex), extra)
        else:
            with path.open("rb") as body:
                self._put(key, body, _base64_of_hex(sha256_hex), extra)

    def put_document(self, key: str, data: bytes, *, retention: ObjectRetention | None = None) -> None:
        """Create a small document, always in STANDARD so that it can be read at once; locked from its first instant
        when a retention is given.

        Raises ObjectExistsError when it is there already.
        """
        options = self._document_options()
        if retention is not None:
            options |= {"ObjectLockMode": retention.mode, "ObjectLockRetainUntilDate": retention.until}
        self._put(key, data, _sha256_base64(data), options)

    def read_versioned(self, key: str) -> tuple[bytes, str] | None:
        """All bytes of a small object and the tag that names this version of it; None when there is no object."""
        try:
            with self._errors(key):
                answer = self._client.get_object(Bucket=self.settings.bucket, Key=key)
                with closing(answer["Body"]) as body:
                    return body.read(), answer["ETag"]
        except ObjectMissingError:
            return None

    def replace_document(self, key: str, data: bytes, *, etag: str | None) -> None:
        """Write a small document over the version that was read, or create it when there was none (`etag` None).

        Raises ObjectChangedError when somebody was faster, or when an earlier try of this very write was: read again.
        Only stores that `replaces_conditionally` hold to that; after a write to any other, read back what is there.
        """
        try:
            if etag is None:
                self.put_document(key, data)
            else:
                self._put_over(key, data, etag)
        except (ObjectExistsError, ObjectMissingError) as error:
            raise ObjectChangedError(f"{key}: somebody wrote or removed it in between") from error

    def read_document(self, key: str) -> bytes:
        """All bytes of a small object. Raises ObjectMissingError when there is none."""
        return b"".join(self.read_blocks(key))

    def read_blocks(self, key: str) -> Iterator[bytes]:
        """The bytes of an object, in order, streamed. Raises ObjectMissingError when there is none."""
        with self._errors(key):
            body = self._client.get_object(Bucket=self.settings.bucket, Key=key)["Body"]
            try:
                yield from body.iter_chunks(READ_BLOCK_BYTES)
            finally:
                body.close()

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[StoredObject]:
        """Every object whose key begins with `prefix` and comes after the key `after`, in key order.

        Raises when the listing does not come to its end: a part of a listing is never taken for the whole.
        """
        where: Any = {"Bucket": self.settings.bucket, "Prefix": prefix} | ({"StartAfter": after} if after else {})
        with self._errors(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(**where):
                for item in page.get("Contents", []):
                    storage_class = item.get("StorageClass") or StorageClass.STANDARD.value
                    yield StoredObject(
                        item["Key"], item["Size"], item["LastModified"], storage_class, item.get("ETag", "")
                    )

    def move_to_class(self, key: str, sha256_hex: str) -> None:
        """Put a verified object into its cold class by a copy onto itself; no-op for classes that can be read at once.

        Raises StoreError when the copy's checksum is not that of the verified bytes.
        """
        if self.settings.storage_class not in COLD_CLASSES:
            return
        with self._errors(key):
            answer = self._client.copy_object(
                Bucket=self.settings.bucket,
                Key=key,
                CopySource={"Bucket": self.settings.bucket, "Key": key},
                ChecksumAlgorithm="SHA256",
                MetadataDirective="COPY",
                **self._write_options(cold_allowed=True),
            )
        stored = answer.get("CopyObjectResult", {}).get("ChecksumSHA256")
        if stored != _base64_of_hex(sha256_hex):
            raise StoreError(f"{key}: the copy in {self.settings.storage_class} does not have the verified checksum")

    def require_stored_checksum(self, key: str, sha256_hex: str) -> None:
        """Raises StoreError unless the store says that the object has this SHA-256, ObjectMissingError without one.

        No more than the store's word: only for objects that were read back before and cannot be read now.
        """
        with self._errors(key):
            head = self._client.head_object(Bucket=self.settings.bucket, Key=key, ChecksumMode="ENABLED")
        if head.get("ChecksumSHA256") != _base64_of_hex(sha256_hex):
            raise StoreError(
                f"{key} is in a cold class, and the store does not say that it has the verified checksum",
                hint="retrieve it (a restore of the object starts that), then run again",
            )

    def describe(self, key: str) -> dict[str, str]:
        """What the store says of an object, by one HEAD: etag, version_id, storage_class, modified_at, encryption,
        lock_mode, retain_until, legal_hold; empty where it says nothing. Raises ObjectMissingError."""
        with self._errors(key):
            head = self._client.head_object(Bucket=self.settings.bucket, Key=key)
        retain_until, modified_at = head.get("ObjectLockRetainUntilDate"), head.get("LastModified")
        return {
            "etag": head.get("ETag", "").strip('"'),
            "version_id": head.get("VersionId", ""),
            "storage_class": head.get("StorageClass") or StorageClass.STANDARD.value,
            "modified_at": modified_at.isoformat() if modified_at else "",
            "encryption": head.get("ServerSideEncryption", ""),
            "lock_mode": head.get("ObjectLockMode", ""),
            "retain_until": retain_until.isoformat() if retain_until else "",
            "legal_hold": head.get("ObjectLockLegalHoldStatus", ""),
        }

    def retrieval_state(self, key: str) -> RetrievalState:
        """Whether an object can be read as the store says, by one HEAD.

        Raises ObjectMissingError when there is none, StoreError when the answer is not understood.
        """
        with self._errors(key):
            head = self._client.head_object(Bucket=self.settings.bucket, Key=key)
        try:
            return retrieval_state_of(head.get("StorageClass") or StorageClass.STANDARD.value, head.get("Restore"))
        except ValueError as error:
            raise StoreError(f"{key}: what the store says of its retrieval is not understood: {error}") from error

    def start_retrieval(self, key: str, *, storage_class: str, days: int, tier: RetrievalTier) -> bool:
        """Ask for a copy of a cold object that can be read for `days`, at least 1. False when one was under way.

        Raises PreflightError before anything is asked when the class does not know the tier, ResourcesError when AWS
        has no capacity for Expedited. Safe to repeat: a retrieval goes on as it was begun, a copy that is there
        already is kept for `days` from now.
        """
        require_terms(storage_class, days=days, tier=tier)
        try:
            with self._errors(key):
                self._client.restore_object(
                    Bucket=self.settings.bucket,
                    Key=key,
                    RestoreRequest={"Days": days, "GlacierJobParameters": {"Tier": tier.value}},
                )
        except RetrievalUnderWayError:
            return False
        return True

    @property
    def identity(self) -> str:
        """Whose credentials these are: the access key id, and where it comes from. Never a secret."""
        if self.settings.access_key_id:
            return f"access key {self.settings.access_key_id}"
        session = boto3.DEFAULT_SESSION
        try:
            found = session.get_credentials() if session else None
            return f"access key {found.access_key} ({found.method})" if found else "no credentials"
        except BotoCoreError as error:
            return f"credentials not readable ({type(error).__name__})"

    def require_bucket(self) -> None:
        """Raises StoreError when the bucket is missing, PermissionDeniedError when it may not be listed."""
        with self._errors(self.settings.bucket):
            # Below the prefix: who may list no more than that needs no more.
            below = f"{self.settings.prefix}/" if self.settings.prefix else ""
            self._client.list_objects_v2(Bucket=self.settings.bucket, MaxKeys=1, Prefix=below)

    def place_legal_hold(self, key: str) -> None:
        """Put the store's own legal hold on an object: nobody can delete this version until it is taken off. Safe to
        repeat. Raises StoreError when the bucket has no Object Lock, PermissionDeniedError when this user may not."""
        with self._errors(key):
            self._client.put_object_legal_hold(Bucket=self.settings.bucket, Key=key, LegalHold={"Status": "ON"})

    def encryption_of(self, key: str) -> StoredEncryption:
        """What the store says it encrypted an object with, by one HEAD. Raises ObjectMissingError without one."""
        with self._errors(key):
            head = self._client.head_object(Bucket=self.settings.bucket, Key=key)
        return StoredEncryption(head.get("ServerSideEncryption"), head.get("SSEKMSKeyId"))

    def retention_of(self, key: str) -> ObjectRetention | None:
        """The lock on the newest version of an object; None when it has none, or the bucket has no Object Lock.

        Asked for by itself: in a HEAD the lock is left out for users who may not see it.
        """
        try:
            with self._errors(key):
                found = self._client.get_object_retention(Bucket=self.settings.bucket, Key=key)["Retention"]
        except NotConfiguredError:
            return None
        return ObjectRetention(found["Mode"], found["RetainUntilDate"].astimezone(UTC))

    def retain(self, key: str, retention: ObjectRetention) -> None:
        """Lock the newest version of an object. A lock can be made longer and stronger, never the other way round.

        Raises StoreError when the bucket has no Object Lock, PermissionDeniedError when this user may not. Some stores
        answer well and lock nothing: read back.
        """
        wanted: Any = {"Mode": retention.mode, "RetainUntilDate": retention.until}
        with self._errors(key):
            self._client.put_object_retention(Bucket=self.settings.bucket, Key=key, Retention=wanted)

    def ask_of_bucket(self, operation: str) -> dict[str, Any]:
        """The answer to a question about the bucket, by the driver's name of the question. Raises NotConfiguredError
        when nothing of the kind is configured, UnsupportedByStoreError when the store does not know the question."""
        with self._errors(self.settings.bucket):
            answer: dict[str, Any] = getattr(self._client, operation)(Bucket=self.settings.bucket)
        return answer

    def put_unchecked(self, key: str, data: bytes, **options: Any) -> None:
        """A write with the given options, for probing what the store supports; encrypted like any other, because a
        bucket's policy may refuse what is not."""
        with self._errors(key):
            self._client.put_object(
                Bucket=self.settings.bucket, Key=key, Body=data, **self._document_options(), **options
            )

    def delete_probe(self, key: str) -> None:
        """Delete an object that a probe made. The archive path never deletes an object."""
        if "/_probe/" not in f"/{key}":
            raise StoreError(f"{key} is not a probe's object")
        with self._errors(key):
            self._client.delete_object(Bucket=self.settings.bucket, Key=key)

    def delete_superseded(self, data_key: str) -> None:
        """Delete the data object of a void batch; its documents stay. No-op when it is gone already.

        Looks itself, right before: raises StoreError unless the superseded mark lies beside the object and no receipt
        does. A receipt would say that the object may be the only copy of its rows.
        """
        try:
            stem = stem_of(data_key)
        except ValueError as error:
            raise StoreError(f"{data_key} is not a data object, so it is not deleted") from error
        beside = {found.key for found in self.list_objects(f"{stem}.")}
        if f"{stem}{SUPERSEDED_SUFFIX}" not in beside or f"{stem}{RECEIPT_SUFFIX}" in beside:
            raise StoreError(f"{data_key} is not the object of a superseded batch, so it is not deleted")
        with self._errors(data_key):
            self._client.delete_object(Bucket=self.settings.bucket, Key=data_key)

    def lock_on_batch(self, data_key: str, now: datetime) -> str:
        """Why the store would not give up the data object or the manifest of a batch, in words; empty when no S3 Object
        Lock is seen on any version of them. Never lifted, never bypassed.

        Raises StoreError when a version can't be asked. Whoever may not see locks sees none: then the store refuses.
        """
        for version in self._versions_of_batch(data_key):
            if not version.is_marker and (lock := self._lock_on(version, now)):
                return lock
        return ""

    def remove_expired(self, data_key: str, now: datetime) -> int:
        """Remove the data object and the manifest of a batch that is to expire: every version of them, and their delete
        markers. How many that were; 0 when all are gone already. Safe to repeat.

        Looks itself, right before: raises StoreError unless the intent to expire and the receipt lie beside the object,
        and no superseded mark. Raises ObjectLockedError when the store keeps a version, PermissionDeniedError, and
        StoreError when after all one is still there.
        """
        self._require_expiring(data_key)
        removed = 0
        for version in self._versions_of_batch(data_key):
            self._remove_version(version, now)
            removed += 1
        left = {version.key for version in self._versions_of_batch(data_key)}
        listed = {found.key for found in self.list_objects(f"{stem_of(data_key)}.")}
        if still_there := left | (listed & set(_keys_that_expire(data_key))):
            raise StoreError(f"{min(still_there)} is still there after it was removed", hint="run again")
        return removed

    def _require_expiring(self, data_key: str) -> None:
        try:
            stem = stem_of(data_key)
        except ValueError as error:
            raise StoreError(f"{data_key} is not a data object, so it is not removed") from error
        beside = {found.key for found in self.list_objects(f"{stem}.")}
        has_both = {f"{stem}{EXPIRY_SUFFIX}", f"{stem}{RECEIPT_SUFFIX}"} <= beside
        if not has_both or f"{stem}{SUPERSEDED_SUFFIX}" in beside:
            raise StoreError(f"{data_key} is not the object of a batch that is to expire, so it is not removed")

    def _versions_of_batch(self, data_key: str) -> list["_Version"]:
        """Every version and delete marker, of the data object first: the manifest is what names its rows until then.
        A store that knows no versions has one of each object that it lists."""
        keys = _keys_that_expire(data_key)
        stem = stem_of(data_key)
        where: Any = {"Bucket": self.settings.bucket, "Prefix": f"{stem}."}
        found: list[_Version] = []
        try:
            with self._errors(f"the versions of {stem}"):
                for page in self._client.get_paginator("list_object_versions").paginate(**where):
                    found += [_Version(item["Key"], item["VersionId"]) for item in page.get("Versions", [])]
                    markers = page.get("DeleteMarkers", [])
                    found += [_Version(item["Key"], item["VersionId"], is_marker=True) for item in markers]
        except UnsupportedByStoreError:
            found = [_Version(listed.key, None) for listed in self.list_objects(f"{stem}.")]
        except PermissionDeniedError as error:
            hint = "grant s3:ListBucketVersions: without it, older versions of an archive would stay unseen"
            raise PermissionDeniedError(error.message, hint=hint) from None
        return sorted((one for one in found if one.key in keys), key=lambda one: keys.index(one.key))

    def _lock_on(self, version: "_Version", now: datetime) -> str:
        with self._errors(version.key):
            head = self._client.head_object(**self._named(version))
        if head.get("ObjectLockLegalHoldStatus") == "ON":
            return "blocked by the store: a legal hold of S3 Object Lock is on it"
        until = head.get("ObjectLockRetainUntilDate")
        if until is not None and until > now:
            mode = str(head.get("ObjectLockMode", "")).lower()
            return (
                f"blocked by the store: S3 Object Lock ({mode}) keeps it until {until.astimezone(UTC):%Y-%m-%d %H:%M}"
            )
        return ""

    def _remove_version(self, version: "_Version", now: datetime) -> None:
        try:
            with self._errors(version.key):
                self._client.delete_object(**self._named(version))
        except PermissionDeniedError as error:
            if not version.is_marker and (lock := self._lock_on(version, now)):
                raise ObjectLockedError(f"{version.key}: {lock}") from None
            hint = "grant s3:DeleteObject and s3:DeleteObjectVersion, or look whether S3 Object Lock keeps it"
            raise PermissionDeniedError(error.message, hint=hint) from None

    def _named(self, version: "_Version") -> Any:
        named = {"Bucket": self.settings.bucket, "Key": version.key}
        return named | ({"VersionId": version.version_id} if version.version_id else {})

    def _put(self, key: str, body: Any, sha256_base64: str, extra: dict[str, Any]) -> None:
        condition: dict[str, Any] = {"IfNoneMatch": "*"}
        if not self.creates_conditionally:
            condition = {}
            self._refuse_existing(key)
        try:
            with self._errors(key):
                self._client.put_object(
                    Bucket=self.settings.bucket,
                    Key=key,
                    Body=body,
                    ChecksumSHA256=sha256_base64,
                    **condition,
                    **extra,
                )
        except UnsupportedByStoreError:
            if not condition:
                raise
            self.creates_conditionally = False
            if hasattr(body, "seek"):
                body.seek(0)
            self._put(key, body, sha256_base64, extra)

    def _put_over(self, key: str, data: bytes, etag: str) -> None:
        if self.replaces_conditionally is None and self._wrote_against_condition(key, data):
            return
        self._put_document_if(key, data, {"IfMatch": etag} if self.replaces_conditionally else {})

    def _wrote_against_condition(self, key: str, data: bytes) -> bool:
        """Find out whether the store heeds a condition, by a write whose condition no version meets; True when the
        store did it all the same, which is no worse than the write that would have followed."""
        try:
            self._put_document_if(key, data, {"IfMatch": _ETAG_OF_NOTHING})
        except (ObjectExistsError, ObjectMissingError):
            self.replaces_conditionally = True
            return False
        except UnsupportedByStoreError:
            self.replaces_conditionally = False
            return False
        self.replaces_conditionally = False
        return True

    def _put_document_if(self, key: str, data: bytes, condition: dict[str, Any]) -> None:
        with self._errors(key):
            self._client.put_object(
                Bucket=self.settings.bucket,
                Key=key,
                Body=data,
                ChecksumSHA256=_sha256_base64(data),
                **condition,
                **self._document_options(),
            )

    def _put_parts(self, key: str, path: Path, extra: dict[str, Any]) -> None:
        """A multipart upload; each part carries its SHA-256. The key is unique, so looking first is enough."""
        self._refuse_existing(key)
        threshold = self.settings.multipart_threshold_bytes
        transfer = TransferConfig(multipart_threshold=threshold, multipart_chunksize=threshold, max_concurrency=2)
        with self._errors(key):
            self._client.upload_file(
                str(path),
                self.settings.bucket,
                key,
                ExtraArgs=extra | {"ChecksumAlgorithm": "SHA256"},
                Config=transfer,
            )

    def _refuse_existing(self, key: str) -> None:
        if any(found.key == key for found in self.list_objects(key)):
            raise ObjectExistsError(f"{key} is there already")

    def _document_options(self) -> dict[str, Any]:
        """Documents are always in STANDARD, so that they can be read at once."""
        extra = self._write_options(cold_allowed=False) | {"ContentType": "application/json"}
        extra.pop("StorageClass", None)
        return extra

    def _write_options(self, *, cold_allowed: bool) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if cold_allowed or self.settings.storage_class not in COLD_CLASSES:
            options["StorageClass"] = self.settings.storage_class.value
        if self.settings.encryption is Encryption.SSE_S3:
            options["ServerSideEncryption"] = "AES256"
        if self.settings.encryption is Encryption.SSE_KMS:
            options |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.settings.kms_key_id}
        return options

    @contextmanager
    def _errors(self, subject: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            found = _translated_answer(error, subject, self.settings.bucket)
            if isinstance(found, PermissionDeniedError):
                self._drop_refused_keys()
            raise found from None
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise PermissionDeniedError(
                f"{subject}: {error}",
                hint="set s3.access_key_id and s3.secret_access_key, or an AWS profile or role",
            ) from None
        except (
            BotoConnectionError,
            HTTPClientError,
            ResponseStreamingError,
            IncompleteReadError,
            HTTPError,
            ConnectionError,
        ) as error:
            place = self.settings.endpoint or "AWS"
            raise StoreNetworkError(
                f"{subject}: the store at {place} did not answer as it should ({type(error).__name__})",
                hint="check s3.endpoint and that the store is running",
            ) from None
        except BotoCoreError as error:
            raise StoreError(f"{subject}: {error}") from None


class UnsupportedByStoreError(StoreError):
    """The store does not know what was asked."""


class NotConfiguredError(StoreError):
    """The bucket or the object has no such setting."""


@dataclass(frozen=True, slots=True)
class _Version:
    """One version of an object, or a delete marker. Without an id the store knows no versions."""

    key: str
    version_id: str | None
    is_marker: bool = False


def _keys_that_expire(data_key: str) -> list[str]:
    """What is removed of an expired batch, in this order. Its receipt and the documents of the expiry stay."""
    return [data_key, stem_of(data_key) + MANIFEST_SUFFIX]


def require_terms(storage_class: str, *, days: int, tier: RetrievalTier) -> None:
    """Raises PreflightError when objects of this class cannot be retrieved so."""
    tiers = RETRIEVAL_TERMS.get(storage_class, {})
    if tier not in tiers:
        raise PreflightError(
            f"objects in {storage_class} cannot be retrieved with tier {tier}",
            hint=f"its tiers are {' and '.join(tiers)}" if tiers else "they are read without a retrieval",
        )
    if days < 1:
        raise PreflightError(f"retrieved copies cannot stay for {days} days", hint="ask for 1 day or more")


def _client(settings: StoreSettings, connections: int) -> "S3Client":
    style = AddressingStyle.PATH if settings.endpoint else AddressingStyle.AUTO
    chosen = settings.addressing_style if settings.addressing_style is not AddressingStyle.AUTO else style
    key_id = settings.access_key_id
    secret = settings.secret_access_key.get_secret_value() if settings.secret_access_key else None
    client = boto3.client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=key_id.get_secret_value() if isinstance(key_id, ReferencedSecret) else key_id,
        aws_secret_access_key=secret,
        config=Config(
            signature_version="s3v4",
            connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            read_timeout=_READ_TIMEOUT_SECONDS,
            retries={"mode": "standard", "max_attempts": _ATTEMPTS},
            max_pool_connections=connections,
            s3={"addressing_style": chosen.value},
        ),
    )
    client.meta.events.register("before-call.s3", _without_expectation)
    return client


def _without_expectation(params: dict[str, Any], **_: Any) -> None:
    """Send a body at once. botocore asks first (`Expect: 100-continue`), which costs a round trip for each object, and
    it reads for ever, at full speed, when a store hangs up amid that answer."""
    params["headers"].pop("Expect", None)


_ANSWERS: tuple[tuple[frozenset[str], type[ArchiverError], str | None], ...] = (
    (
        frozenset({"RequestTimeTooSkewed"}),
        PreflightError,
        "set the clock of this machine (NTP): it and the store's differ by more than a signature allows",
    ),
    (_PERMISSION_CODES, PermissionDeniedError, "check the store's credentials and bucket policy"),
    (
        frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"}),
        ObjectExistsError,
        "somebody wrote it in between",
    ),
    (_MISSING_CODES, ObjectMissingError, None),
    (frozenset({"RestoreAlreadyInProgress"}), RetrievalUnderWayError, None),
    (
        frozenset({"GlacierExpeditedRetrievalNotAvailable"}),
        ResourcesError,
        "take the retrieval tier Standard, or try again later",
    ),
    (frozenset({"InvalidObjectState"}), ObjectColdError, "it must be retrieved before it can be read"),
    (_TRANSIENT_CODES, StoreNetworkError, None),
    (_UNSUPPORTED_CODES, UnsupportedByStoreError, None),
    (_UNCONFIGURED_CODES, NotConfiguredError, None),
    (frozenset({"QuotaExceeded", "EntityTooLarge", "InsufficientStorage"}), StoreFullError, None),
)


def _translated_answer(error: ClientError, subject: str, bucket: str) -> ArchiverError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    message = f"{subject}: {error.response.get('Error', {}).get('Message') or code}"
    if code == "NoSuchBucket":
        return PreflightError(f"there is no bucket {bucket!r}", hint="create it, or correct s3.bucket")
    for codes, kind, hint in _ANSWERS:
        if code in codes:
            return kind(message, hint=hint)
    return StoreError(f"{message} ({code})")


def _sha256_base64(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _base64_of_hex(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode()
