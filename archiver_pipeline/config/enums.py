"""The closed sets of words a configuration may use. Each is a `str`, so comparing with plain text works."""

from __future__ import annotations

from enum import StrEnum


class ObjectFormat(StrEnum):
    """How the rows of a batch are encoded."""

    JSONL_GZ = "jsonl.gz"
    PARQUET = "parquet"


class WindowSize(StrEnum):
    """Length of one partition of the timestamp column."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class VacuumStrategy(StrEnum):
    """What is done to give the disk back after a run."""

    NONE = "none"
    ANALYZE = "analyze"
    STANDARD = "standard"
    FULL = "full"


class Weekday(StrEnum):
    """A day of the week."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


class PartitionStrategy(StrEnum):
    """What becomes of a native partition whose rows are all archived: its rows are deleted, or it is dropped."""

    ROWS = "rows"
    DROP = "drop"


class ReclaimStrategy(StrEnum):
    """How a table is written anew, so that its free space goes back to the file system."""

    NONE = "none"
    FULL = "full"
    REPACK = "repack"
    SQUEEZE = "squeeze"


class LockType(StrEnum):
    """What keeps two runs off the same table."""

    POSTGRESQL = "postgresql"
    REDIS = "redis"
    FILE = "file"


class StorageClass(StrEnum):
    """Storage class of data objects."""

    STANDARD = "STANDARD"
    STANDARD_IA = "STANDARD_IA"
    INTELLIGENT_TIERING = "INTELLIGENT_TIERING"
    GLACIER_IR = "GLACIER_IR"
    GLACIER = "GLACIER"
    DEEP_ARCHIVE = "DEEP_ARCHIVE"


class Encryption(StrEnum):
    """Server-side encryption asked of the store. `none` and `bucket-default` send no header, so that the bucket's own
    default applies; with `bucket-default` the store must say that it encrypted."""

    NONE = "none"
    BUCKET_DEFAULT = "bucket-default"
    SSE_S3 = "SSE-S3"
    SSE_KMS = "SSE-KMS"


class ObjectLockMode(StrEnum):
    """How strong S3 Object Lock keeps an object: whoever has a special permission can lift `governance`, nobody can
    lift `compliance`."""

    GOVERNANCE = "governance"
    COMPLIANCE = "compliance"


class AddressingStyle(StrEnum):
    """Where the bucket goes in a request: host name (virtual), path, or as the driver decides (auto)."""

    AUTO = "auto"
    PATH = "path"
    VIRTUAL = "virtual"


class SslMode(StrEnum):
    """libpq's sslmode."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class HoldSource(StrEnum):
    """Where legal holds are read from."""

    DATABASE = "database"
    API = "api"
    CONFIG = "config"


class WatermarkStorage(StrEnum):
    """Where the restore watermark is kept."""

    S3 = "s3"
    DATABASE = "database"
    BOTH = "both"


class StepOutputs(StrEnum):
    """Where the steps of a Dagster run hand on what they did: files of DAGSTER_HOME, or documents in the store."""

    LOCAL = "local"
    STORE = "store"
