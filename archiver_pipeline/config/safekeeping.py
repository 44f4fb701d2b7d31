"""What rules of the file demand of one table's or database's objects and connections."""

from __future__ import annotations

from archiver_pipeline.config.enums import SslMode
from archiver_pipeline.config.models import S3, Compliance, Database, DataClassification, Table

SYSTEM_CERTIFICATES = "system"
_AUTHENTICATES = (SslMode.VERIFY_CA, SslMode.VERIFY_FULL)


def rules_of(compliance: Compliance, table: Table) -> DataClassification:
    """The rules of the table's classification; none where it has none, or one that is not configured."""
    return compliance.data_classifications.get(table.classification or "", DataClassification.model_validate({}))


def encryption_reason(compliance: Compliance, table: Table) -> str:
    """Why the table's objects must be encrypted, for people; empty when nothing demands it."""
    if table.critical and compliance.enforce_encryption:
        return "critical tables must be encrypted (compliance.enforce_encryption)"
    if rules_of(compliance, table).require_encryption:
        return f"classification {table.classification} requires encryption"
    return ""


def tls_reason(compliance: Compliance, database: Database) -> str:
    """Why connections to the database must be in TLS, for people; empty when nothing demands it. One table of a
    classification that does is enough: its rows go over the same connections as those of the others."""
    if compliance.require_tls:
        return "compliance.require_tls"
    demanding = (table.classification for table in database.tables if rules_of(compliance, table).require_tls)
    return next((f"classification {name} requires TLS" for name in demanding), "")


def tls_defect(sslmode: SslMode | None, *, has_authorities: bool) -> str:
    """What is wrong with an sslmode where TLS is required; empty when nothing is. None stands for verify-full.

    `require` encrypts to whoever answers. `verify-ca` proves no more than that some authority signed, which is worth
    something only where the file says which authority.
    """
    if sslmode is not None and sslmode not in _AUTHENTICATES:
        return f"{sslmode} does not verify the server's certificate"
    if sslmode is SslMode.VERIFY_CA and not has_authorities:
        return "verify-ca without sslrootcert accepts any server of any authority that the user trusts"
    return ""


def lock_days(s3: S3, archive_retention_days: int | None) -> int | None:
    """Days for which the table's archives are locked; None without a lock, or where the file does not say how long."""
    return (archive_retention_days or s3.object_lock.retain_days) if s3.object_lock else None


def is_alias(kms_key_id: str) -> bool:
    """Whether it is another name of a key: the store answers with the key's own, so the two can't be compared."""
    return kms_key_id.startswith("alias/") or ":alias/" in kms_key_id
