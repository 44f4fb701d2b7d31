"""The configuration file as pydantic models, key by key, in the places and spellings users write.

Unknown keys are errors, models are frozen, and a key written without a value (`workers:`) counts as not
written. The models check single values; what concerns several keys at once is in `crosscheck`.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from archiver_pipeline.config.document import plain_scalar
from archiver_pipeline.config.enums import (
    AddressingStyle,
    Encryption,
    HoldSource,
    LockType,
    ObjectFormat,
    ObjectLockMode,
    PartitionStrategy,
    ReclaimStrategy,
    SslMode,
    StepOutputs,
    StorageClass,
    VacuumStrategy,
    WatermarkStorage,
    Weekday,
    WindowSize,
)
from archiver_pipeline.config.scalars import (
    ApiUrl,
    Bucket,
    ByteSize,
    CalendarDay,
    ColumnName,
    ColumnNames,
    Days,
    EncryptionName,
    EndpointUrl,
    EnvironmentName,
    Float,
    HourOfDay,
    Identifier,
    Int,
    MailAddress,
    MailAddresses,
    Port,
    Prefix,
    Probe,
    Reason,
    SecretFrom,
    Text,
    TimeSpans,
    TimeZone,
    Version,
    WebUrl,
)
from archiver_pipeline.config.substitution import Substituted
from archiver_pipeline.domain.retention import RETENTION_FLOOR_DAYS


class Section(BaseModel):
    """Base of every mapping in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=False)

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, data: Any) -> Any:
        """Drops known keys without a value, and reads `${PORT}` as a number where the key is not text."""
        if not isinstance(data, dict):
            return data
        keys = {field.alias or name: field.annotation for name, field in cls.model_fields.items()}
        return {
            key: _typed(value, keys.get(key)) for key, value in data.items() if value is not None or key not in keys
        }


def _typed(value: Any, annotation: Any) -> Any:
    return plain_scalar(value) if isinstance(value, Substituted) and not takes_text(annotation) else value


def takes_text(annotation: Any) -> bool:
    """Whether a value of this type is written as text, so that `${VAR}` must stay text even if it looks like
    a number."""
    if isinstance(annotation, type) and issubclass(annotation, str | SecretStr | Path):
        return True
    return any(takes_text(argument) for argument in get_args(annotation))


_Limit = Annotated[Float, Field(ge=0)]
_Count = Annotated[Int, Field(ge=0)]


class Throttle(Section):
    """Signals over whose limits no batch begins. What is not written does not count; what can't be read does."""

    replication_lag_seconds: _Limit | None = Field(
        None, description="Most seconds that a standby, or the read replica, may be behind."
    )
    replication_lag_bytes: ByteSize | None = Field(
        None,
        description="Most WAL that a standby, the read replica or a slot that nobody uses may be behind, like 64MB.",
    )
    wal_bytes_per_second: ByteSize | None = Field(
        None, description="Most WAL per second that the whole server may write, like 32MB."
    )
    pending_wal_files: _Count | None = Field(None, description="Most WAL files that may wait to be archived.")
    dead_row_percent: Annotated[Float, Field(ge=0, le=100)] | None = Field(
        None, description="Most dead rows of the table, in percent of all its rows."
    )
    blocked_sessions: _Count | None = Field(
        None, description="Most sessions that may wait for a lock of an archiver's session."
    )
    query_ms: _Limit | None = Field(
        None, description="Longest that finding the table's last key may take, in milliseconds."
    )
    longest_transaction_seconds: _Limit | None = Field(
        None, description="Longest that a transaction of anybody else in this database may have been open."
    )
    probe: Probe | None = Field(
        None, description="A query that gives one boolean, true to wait, or one number, to wait above probe_limit."
    )
    probe_limit: Float | None = Field(None, description="Most that the probe's number may be. Default 0.")
    shrink_at_percent: Annotated[Float, Field(gt=0, le=100)] = Field(
        75.0, description="From this part of any limit on, one batch at a time."
    )
    poll_seconds: Annotated[Float, Field(ge=0.1, le=600)] = Field(
        2.0, description="Least seconds between two looks at the signals."
    )
    max_pause_seconds: Annotated[Float, Field(ge=0, le=86_400)] = Field(
        600.0, description="Longest pause; after it the run ends early."
    )
    timeout_seconds: Annotated[Float, Field(ge=0.1, le=60)] = Field(
        5.0, description="Longest that reading one signal may take; one that takes longer can't be read."
    )

    @model_validator(mode="after")
    def _limit_of_probe(self) -> Throttle:
        if self.probe_limit is not None and self.probe is None:
            raise ValueError("probe_limit without probe limits nothing")
        return self


class AdaptiveBatchSize(Section):
    """Bounds between which the rows per batch are chosen before each run, instead of always batch_size."""

    min_rows: Annotated[Int, Field(ge=1, le=1_000_000)] = Field(1_000, description="Least rows per batch.")
    max_rows: Annotated[Int, Field(ge=1, le=1_000_000)] = Field(100_000, description="Most rows per batch.")
    target_seconds: Annotated[Float, Field(ge=0.01, le=60)] = Field(
        0.5, description="Seconds that the delete of one batch should take."
    )
    max_bytes: Annotated[ByteSize, Field(ge=1024)] = Field(
        64 * 1024**2, description="Most bytes of a batch's rows as JSON, like 64MiB."
    )

    @model_validator(mode="after")
    def _in_order(self) -> AdaptiveBatchSize:
        if self.min_rows > self.max_rows:
            raise ValueError("min_rows must not be above max_rows")
        return self


class AllowedHours(Section):
    """When batches may begin."""

    hours: TimeSpans = Field(description="A span like 22:00-06:00, or a list of them.")
    time_zone: TimeZone = Field("UTC", description="Whose clock, like Europe/Berlin.")
    days: Annotated[tuple[Weekday, ...], Field(min_length=1)] | None = Field(
        None, description="Days on which a span may begin: mon, tue, wed, thu, fri, sat, sun. Default: all."
    )


class InheritedSettings(Section):
    """Keys valid under `defaults`, under a database and under a table: the innermost one written wins."""

    retention_days: Days | None = Field(None, description="Rows older than this many days are eligible.")
    retention_floor_override: Reason | None = Field(
        None, description=f"Why retention_days may be below {RETENTION_FLOOR_DAYS}, in words."
    )
    archive_retention_days: Days | None = Field(
        None, description="Days from its last row after which an archive may expire. Default: it is kept for ever."
    )
    restore_protection_days: Annotated[Int, Field(ge=0, le=36_500)] | None = Field(
        None, description="Days for which restored rows are not archived again, 0 for none. Default 30."
    )
    batch_size: Annotated[Int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Rows per batch. Default 10000."
    )
    adaptive_batch_size: AdaptiveBatchSize | None = Field(
        None, description="Choose the rows per batch by what was measured, between bounds. Default: batch_size, always."
    )
    sleep_between_batches: Annotated[Float, Field(ge=0, le=3600)] | None = Field(
        None, description="Seconds of rest after each batch. Default 2."
    )
    connection_pool_size: Annotated[Int, Field(ge=1, le=1000)] | None = Field(
        None, description="Most connections to one database at once. Default 10."
    )
    compression_level: Annotated[Int, Field(ge=1, le=22)] | None = Field(
        None, description="1 to 9 for jsonl.gz, 1 to 22 for parquet. Default: the format's fast one."
    )
    format: ObjectFormat | None = Field(None, description="Encoding of data objects. Default jsonl.gz.")
    window: WindowSize | None = Field(None, description="Length of one partition. Default day.")
    first_window: CalendarDay | None = Field(
        None, description="Start of the first partition, which is open to the past. Default 2020-01-01."
    )
    workers: Annotated[Int, Field(ge=1, le=256)] | None = Field(
        None,
        description="Batches in parallel within one run. Default: twice the number of CPUs, at most 4; of a run that"
        " rests between batches, only deletes.",
    )
    max_staged_bytes: Annotated[ByteSize, Field(ge=1024**2)] | None = Field(
        None, description="Most bytes one run keeps on local disk, like 512MB or 2GiB. Default 2GiB."
    )
    staging_dir: Path | None = Field(None, description="Folder for staged files. Default: chosen by the run.")
    verify_sample_rows: Annotated[Int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="Rows per batch compared with the live table, column by column. Default 20."
    )
    vacuum_strategy: VacuumStrategy | None = Field(None, description="How disk is given back. Default standard.")
    partitions: PartitionStrategy | None = Field(
        None,
        description="rows: delete rows. drop: a native partition whose rows are all old and archived is dropped as a"
        " whole. Default rows.",
    )
    reclaim: ReclaimStrategy | None = Field(
        None,
        description="How a table is written anew to give disk back: none, full, repack or squeeze. Default none.",
    )
    reclaim_min_free_ratio: Annotated[Float, Field(gt=0, lt=1)] | None = Field(
        None, description="Share of a table and its indexes that must be free before it is written anew. Default 0.3."
    )
    reclaim_min_bytes: Annotated[ByteSize, Field(ge=1)] | None = Field(
        None, description="Free bytes, like 500MB, below which it is left alone. Default 256MiB."
    )
    reclaim_wait_seconds: Annotated[Int, Field(ge=1, le=3600)] | None = Field(
        None, description="How long pg_repack tries to get each lock before it gives up. Default 60."
    )
    pg_repack_path: Path | None = Field(
        None, description="The program of reclaim: repack. Default: that on PATH, else Debian's."
    )
    lock_type: LockType | None = Field(None, description="What keeps two runs off one table. Default postgresql.")
    lock_timeout_ms: Annotated[Int, Field(ge=1, le=60_000)] | None = Field(
        None, description="Longest wait behind an application's lock, in milliseconds. Default 100."
    )
    statement_timeout_seconds: Annotated[Int, Field(ge=0, le=86_400)] | None = Field(
        None, description="Longest statement in seconds, 0 for none. Default 0."
    )
    fail_on_schema_drift: bool | None = Field(
        None,
        description="Stop when the columns changed since the last archive. Default false: warn.",
    )
    throttle: Throttle | None = Field(
        None, description="Wait while the database has other work, see throttling.md. As a whole; `{}` for none."
    )
    allowed_hours: (
        Annotated[
            AllowedHours,
            BeforeValidator(
                lambda value: {"hours": value} if isinstance(value, str | list) else value,
                json_schema_input_type=str | list[str] | AllowedHours,
            ),
        ]
        | None
    ) = Field(None, description="When batches may begin: 22:00-06:00, a list, or a mapping. Default: always.")


INHERITED = tuple(InheritedSettings.model_fields)

BUILT_IN_DEFAULTS = MappingProxyType(
    {
        "retention_days": None,
        "retention_floor_override": None,
        "archive_retention_days": None,
        "restore_protection_days": 30,
        "batch_size": 10_000,
        "adaptive_batch_size": None,
        "sleep_between_batches": 2.0,
        "connection_pool_size": 10,
        "compression_level": None,
        "format": ObjectFormat.JSONL_GZ,
        "window": WindowSize.DAY,
        "first_window": date(2020, 1, 1),
        "workers": None,
        "max_staged_bytes": 2 * 1024**3,
        "staging_dir": None,
        "verify_sample_rows": 20,
        "vacuum_strategy": VacuumStrategy.STANDARD,
        "partitions": PartitionStrategy.ROWS,
        "reclaim": ReclaimStrategy.NONE,
        "reclaim_min_free_ratio": 0.3,
        "reclaim_min_bytes": 256 * 1024**2,
        "reclaim_wait_seconds": 60,
        "pg_repack_path": None,
        "lock_type": LockType.POSTGRESQL,
        "lock_timeout_ms": 100,
        "statement_timeout_seconds": 0,
        "fail_on_schema_drift": False,
        "throttle": None,
        "allowed_hours": None,
    }
)


class Defaults(InheritedSettings):
    """Settings of every table that does not say otherwise."""

    parallel_databases: bool = Field(False, description="Let `archiver run` work on several databases at once.")
    max_parallel_databases: Annotated[Int, Field(ge=1, le=100)] = Field(
        3, description="How many databases at once, when parallel_databases is true."
    )


class Table(InheritedSettings):
    """One table whose old rows are archived."""

    name: Identifier = Field(description="Table name, as PostgreSQL knows it.")
    schema_name: Identifier = Field("public", alias="schema", description="Schema of the table.")
    timestamp_column: ColumnName = Field(description="Column that says how old a row is.")
    primary_key: ColumnNames | None = Field(
        None, description="One column or a list. Default: the table's own primary key."
    )
    critical: bool = Field(False, description="Falls under compliance.enforce_encryption.")
    classification: Text | None = Field(None, description="Name from compliance.data_classifications.")
    legal_hold: bool = Field(False, description="The whole table is under legal hold.")
    legal_hold_reason: Text | None = Field(None, description="Why the table is under legal hold.")
    description: Text | None = Field(None, description="A note for people; has no effect.")


class Replica(Section):
    """A physical replica to read from. Keys that are not written are those of the primary."""

    host: Text = Field(description="Host name, address, or folder of the socket.")
    port: Port | None = Field(None, description="Port. Default: the primary's.")
    user: Text | None = Field(None, description="User. Default: the primary's.")
    password_env: EnvironmentName | None = Field(
        None, description="Environment variable with the password. Default: the primary's password."
    )
    password_from: SecretFrom | None = Field(None, description="Where it is kept instead: secrets.md.")
    password: SecretStr | None = Field(None, description="Plain password; prefer password_env.")
    sslmode: SslMode | None = Field(None, description="libpq's sslmode. Default: the primary's.")
    sslrootcert: Path | None = Field(
        None, description="Certificates of the authorities that sign the server's. Default: the primary's."
    )
    sslcert: Path | None = Field(None, description="Client certificate. Default: the primary's.")
    sslkey: Path | None = Field(None, description="Its key. Default: the primary's.")
    application_name: Text | None = Field(None, description="Name in pg_stat_activity.")


def _replica_address(value: Any) -> Any:
    """`host`, `host:port` or `[address]:port` as a mapping."""
    if not isinstance(value, str):
        return value
    bracketed, _, tail = value.removeprefix("[").partition("]") if value.startswith("[") else ("", "", "")
    if bracketed:
        return {"host": bracketed} | ({"port": tail.removeprefix(":")} if tail else {})
    host, colon, port = value.partition(":")
    if not colon or ":" in port:
        return {"host": value}
    return {"host": host, "port": port}


class Database(InheritedSettings):
    """One PostgreSQL database and its tables."""

    name: Text = Field(description="Name of the database in PostgreSQL, and its id unless `id` is written.")
    id: Text | None = Field(None, description="Unique name in object keys, for databases of one name on two hosts.")
    host: Text = Field(description="Host name, address, or folder of the socket.")
    port: Port = Field(5432, description="Port.")
    user: Text = Field(description="User that connects.")
    password_env: EnvironmentName | None = Field(
        None, description="Environment variable with the password (preferred)."
    )
    password_from: SecretFrom | None = Field(
        None, description="Where the password is kept: file:, aws-secretsmanager: or vault:, see secrets.md."
    )
    password: SecretStr | None = Field(None, description="Plain password; warns. Prefer password_env.")
    sslmode: SslMode | None = Field(
        None, description="libpq's sslmode. Default: libpq's own; verify-full where TLS is required."
    )
    sslrootcert: Path | None = Field(
        None,
        description="Certificates of the authorities that sign the server's, PEM; `system` means those of the machine."
        " Default: libpq's own.",
    )
    sslcert: Path | None = Field(None, description="Client certificate, PEM. Default: libpq's own.")
    sslkey: Path | None = Field(None, description="Its key, readable by its owner only. Default: libpq's own.")
    application_name: Text = Field("archiver_pipeline", description="Name in pg_stat_activity.")
    read_replica: Annotated[Replica, BeforeValidator(_replica_address, json_schema_input_type=str | Replica)] | None = (
        Field(None, description="Replica to read from: host, host:port, or a mapping.")
    )
    tables: Annotated[tuple[Table, ...], Field(min_length=1)] = Field(description="Tables to archive.")

    @property
    def key_id(self) -> str:
        """The id in object keys and on the command line."""
        return self.id or self.name


class ObjectLock(Section):
    """How long archives can't be deleted or overwritten by anybody. The bucket must have S3 Object Lock."""

    mode: ObjectLockMode = Field(
        description="governance: whoever has a special permission can lift the lock. compliance: nobody can."
    )
    retain_days: Days | None = Field(
        None,
        description="Days for which each archive is locked, from when its rows are deleted."
        " A table with archive_retention_days is locked until those are over instead.",
    )
    acknowledge_irrevocable: bool = Field(
        False,
        description="Must be true for compliance: until it ends such a lock can't be lifted by anybody, AWS included.",
    )


class S3(Section):
    """The object store."""

    bucket: Bucket = Field(description="Bucket name.")
    endpoint: EndpointUrl | None = Field(None, description="URL of an S3-compatible server. Default: AWS.")
    prefix: Prefix = Field("archives", description='First part of every key; "" is the root of the bucket.')
    region: Text = Field("us-east-1", description="Region name.")
    storage_class: StorageClass = Field(StorageClass.STANDARD_IA, description="Class of data objects.")
    encryption: EncryptionName = Field(
        Encryption.NONE,
        description="none, bucket-default, SSE-S3 or SSE-KMS. The first two leave it to the bucket; with bucket-default"
        " the store must say that it encrypted.",
    )
    kms_key_id: Text | None = Field(
        None, description="ARN or id of the key for SSE-KMS; an alias only where no table must be encrypted."
    )
    object_lock: ObjectLock | None = Field(None, description="Lock archives with S3 Object Lock. Default: no lock.")
    local_fallback_dir: Path | None = Field(
        None,
        description="Folder in which batches that the store did not take are kept until a later run uploads them."
        " Default: none are kept.",
    )
    multipart_threshold_mb: Annotated[Int, Field(ge=5, le=5120)] = Field(
        64, description="Objects of more MiB are uploaded in parts."
    )
    access_key_id: Text | None = Field(None, description="Access key. Default: the AWS credential chain.")
    access_key_id_env: EnvironmentName | None = Field(None, description="Environment variable with the access key.")
    access_key_id_from: SecretFrom | None = Field(None, description="Where the access key is kept: secrets.md.")
    secret_access_key: SecretStr | None = Field(None, description="Secret key; warns. Prefer the env variant.")
    secret_access_key_env: EnvironmentName | None = Field(None, description="Environment variable with the secret key.")
    secret_access_key_from: SecretFrom | None = Field(None, description="Where the secret key is kept: secrets.md.")
    addressing_style: AddressingStyle = Field(
        AddressingStyle.AUTO, description="auto, path or virtual. auto means path when endpoint is written."
    )


class ConfiguredHold(Section):
    """One legal hold written in the file."""

    table: Identifier = Field(description="Table under hold.")
    schema_name: Identifier = Field("public", alias="schema", description="Its schema.")
    database: Text | None = Field(None, description="Its database id. Default: every database.")
    where: Text | None = Field(None, description="SQL predicate of the rows. Default: the whole table.")
    reason: Text | None = Field(None, description="Why.")
    requestor: Text | None = Field(None, description="Who asked for it.")
    starts_on: CalendarDay | None = Field(None, description="First day of the hold, UTC. Default: it is in force.")
    expires_on: CalendarDay | None = Field(
        None, description="Day on which the hold ends: its last day, UTC. Default: never."
    )


HoldSources = Annotated[
    tuple[HoldSource, ...],
    BeforeValidator(
        lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=HoldSource | list[HoldSource]
    ),
    Field(min_length=1),
]


class LegalHolds(Section):
    """Where legal holds come from."""

    enabled: bool = Field(False, description="Consult legal holds before and during every delete.")
    source: HoldSources = Field(
        (HoldSource.DATABASE,), description="database, api or config; a list unites several. Holds written here count."
    )
    table: Text = Field("legal_holds", description="Table that lists holds, for source database; or schema.table.")
    schema_name: Identifier = Field("public", alias="schema", description="Schema of that table.")
    database: Text | None = Field(None, description="Database id that has it. Default: the archived one.")
    check_expiration: bool = Field(True, description="Ignore holds whose end has passed.")
    api_endpoint: Text | None = Field(None, description="URL, for source api; https, or http on this machine.")
    api_token_env: EnvironmentName | None = Field(None, description="Environment variable with its token.")
    api_token_from: SecretFrom | None = Field(None, description="Where its token is kept: secrets.md.")
    api_timeout_seconds: Annotated[Float, Field(gt=0, le=300)] = Field(
        10.0, description="Longest wait for an answer in seconds, retries included."
    )
    holds: tuple[ConfiguredHold, ...] = Field((), description="The holds, for source config.")
    mirror_to_object_lock: bool = Field(
        False, description="Put S3 Object Lock's legal hold on archives of tables under hold."
    )


class RetentionPolicy(Section):
    """Bounds that every table's retention_days and archive_retention_days must respect."""

    enabled: bool = Field(True, description="Refuse tables outside the bounds.")
    min_retention_days: Days | None = Field(None, description="Least retention_days allowed.")
    max_retention_days: Days | None = Field(None, description="Most retention_days allowed.")
    min_archive_retention_days: Days | None = Field(None, description="Least archive_retention_days allowed.")


class DataClassification(Section):
    """Rules of one classification; a bound written here replaces that of retention_policy."""

    min_retention_days: Days | None = Field(None, description="Least retention_days allowed.")
    max_retention_days: Days | None = Field(None, description="Most retention_days allowed.")
    min_archive_retention_days: Days | None = Field(None, description="Least archive_retention_days allowed.")
    require_encryption: bool = Field(
        False, description="Refuse s3.encryption none, and objects that the store does not say it encrypted so."
    )
    require_tls: bool = Field(False, description="As compliance.require_tls, for databases with such a table.")
    description: Text | None = Field(None, description="A note for people; has no effect.")


def _named_rules(value: Any) -> Any:
    """A list of bare names as classifications without rules; a name without a value likewise."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: {} for name in value}
    if isinstance(value, dict):
        return {name: {} if rules is None else rules for name, rules in value.items()}
    return value


class Compliance(Section):
    """Rules that a configuration must keep to be run."""

    retention_policy: RetentionPolicy = Field(
        RetentionPolicy.model_validate({}), description="Bounds of retention_days."
    )
    audit_trail: bool = Field(
        True, description="Write down who did what to a table, in a chain of objects, before it counts as done."
    )
    enforce_encryption: bool = Field(
        False,
        description="Refuse critical tables with s3.encryption none, and their objects if the store does not say that"
        " it encrypted them so.",
    )
    require_tls: bool = Field(
        False,
        description="Every connection to PostgreSQL must be in TLS to a server whose certificate was verified, and"
        " s3.endpoint must be https.",
    )
    data_classifications: Annotated[
        dict[str, DataClassification],
        BeforeValidator(_named_rules, json_schema_input_type=dict[str, DataClassification] | list[str]),
    ] = Field({}, description="Rules by classification name.")


class Lock(Section):
    """Where the locks of `lock_type` redis and file are."""

    redis_url: SecretStr | None = Field(
        None,
        description="redis://, rediss:// (TLS) or unix:// URL, for redis; warns when it holds a password."
        " Default: redis://localhost:6379/0.",
    )
    redis_url_env: EnvironmentName | None = Field(None, description="Environment variable with that URL (preferred).")
    redis_url_from: SecretFrom | None = Field(None, description="Where that URL is kept: secrets.md.")
    ttl_seconds: Annotated[Float, Field(ge=5, le=3600)] = Field(
        60.0, description="Seconds after which the lock of a killed run ends, for redis."
    )
    directory: Path | None = Field(
        None,
        description="Folder of the lock files, for file. Default: one of this user in the folder for temporary files.",
    )


class RestoreWatermark(Section):
    """What was restored is remembered, so that a second restore takes only new archives."""

    enabled: bool = Field(True, description="Keep and use a watermark.")
    storage_type: WatermarkStorage = Field(WatermarkStorage.S3, description="s3, database or both.")
    table: Identifier = Field("restore_watermarks", description="Its table, for database and both.")


class Monitoring(Section):
    """Ports and progress for people who watch."""

    metrics_enabled: bool = Field(False, description="Serve Prometheus metrics.")
    metrics_port: Port = Field(8000, description="Port of /metrics.")
    health_check_enabled: bool = Field(False, description="Serve the health endpoint.")
    health_check_port: Port = Field(8001, description="Port of /health.")
    bind_address: Text = Field(
        "127.0.0.1", description="Address that both are served at; `0.0.0.0` is every one of the machine."
    )
    check_interval_seconds: Annotated[Float, Field(gt=0, le=3600)] = Field(
        30.0, description="Seconds between looks at databases, store and Dagster."
    )
    check_timeout_seconds: Annotated[Float, Field(gt=0, le=600)] = Field(
        10.0, description="Seconds without an answer after which one of them counts as down."
    )
    table_interval_seconds: Annotated[Float, Field(gt=0, le=86_400)] = Field(
        300.0, description="Seconds between looks at each table's rows and archives."
    )
    max_success_age_hours: Annotated[Float, Field(gt=0)] = Field(
        36.0, description="Hours that a table may have rows due without a run that succeeds."
    )
    stuck_after_days: Annotated[Float, Field(gt=0, le=365)] = Field(
        2.0, description="Days that rows may be eligible before a table that does not get on counts as stuck."
    )
    progress_enabled: bool = Field(True, description="Log progress with rate and ETA.")
    progress_update_interval: Annotated[Float, Field(gt=0, le=3600)] = Field(
        5.0, description="Seconds between progress lines."
    )


class Slack(Section):
    """Messages to Slack, by webhook or by bot token."""

    enabled: bool = Field(True, description="Send to Slack.")
    webhook_url: SecretStr | None = Field(None, description="Incoming webhook; warns. Prefer webhook_url_env.")
    webhook_url_env: EnvironmentName | None = Field(None, description="Environment variable with it.")
    webhook_url_from: SecretFrom | None = Field(None, description="Where it is kept: secrets.md.")
    token_env: EnvironmentName | None = Field(
        None, description="Environment variable with a bot token (scope chat:write), instead of a webhook."
    )
    token_from: SecretFrom | None = Field(None, description="Where that token is kept: secrets.md.")
    channel: Text | None = Field(
        None, description="Channel, like '#archives', for a bot token; a webhook has its own channel."
    )
    username: Text | None = Field(None, description="Name shown as the sender, where Slack allows it.")
    api_url: ApiUrl = Field("https://slack.com/api/", description="Base URL of Slack's API, for a bot token.")


class Teams(Section):
    """Messages to Microsoft Teams."""

    enabled: bool = Field(True, description="Send to Teams.")
    webhook_url: SecretStr | None = Field(None, description="URL of a Workflow; warns. Prefer webhook_url_env.")
    webhook_url_env: EnvironmentName | None = Field(None, description="Environment variable with it.")
    webhook_url_from: SecretFrom | None = Field(None, description="Where it is kept: secrets.md.")


class Email(Section):
    """Messages by SMTP."""

    enabled: bool = Field(True, description="Send email.")
    smtp_host: Text | None = Field(None, description="SMTP server.")
    smtp_port: Port = Field(587, description="Its port. On 465 TLS begins at once, on others by STARTTLS.")
    use_tls: bool = Field(True, description="Encrypt, and verify the server's certificate.")
    implicit_tls: bool | None = Field(None, description="TLS from the first byte. Default: true on port 465.")
    ca_file: Path | None = Field(
        None, description="Certificates to trust besides the system's, PEM, for a server with a private one."
    )
    username: Text | None = Field(None, description="SMTP user.")
    password_env: EnvironmentName | None = Field(None, description="Environment variable with its password.")
    password_from: SecretFrom | None = Field(None, description="Where its password is kept: secrets.md.")
    password: SecretStr | None = Field(None, description="Plain password; warns. Prefer password_env.")
    sender: MailAddress | None = Field(None, alias="from", description="Sender address.")
    to: MailAddresses = Field((), description="One address or a list.")


class Notifications(Section):
    """Who is told what, and when."""

    enabled: bool = Field(False, description="Send notifications.")
    slack: Slack | None = Field(None, description="Slack.")
    teams: Teams | None = Field(None, description="Microsoft Teams.")
    email: Email | None = Field(None, description="Email.")
    send_on_success: bool = Field(True, description="Tell of success.")
    send_on_failure: bool = Field(True, description="Tell of failure, and of findings of a validation.")
    send_on_start: bool = Field(False, description="Tell of the start, once it is planned.")
    send_on_threshold: bool = Field(False, description="Tell of runs far from the table's usual, and of backlogs.")
    threshold_rows: Annotated[Int, Field(ge=1)] | None = Field(
        None, description="More eligible rows than this after a run are a threshold, too."
    )
    threshold_factor: Annotated[Float, Field(gt=1, le=1000)] = Field(
        5.0, description="How many times more or less than the table's median is far from usual."
    )
    threshold_min_runs: Annotated[Int, Field(ge=2, le=1000)] = Field(
        5, description="Past runs without which nothing is usual."
    )
    digest_mode: bool = Field(False, description="One summary a day instead of a message per success and start.")
    digest_hour: HourOfDay = Field(9, description="Hour of the digest, UTC.")
    rate_limit_hours: Annotated[Float, Field(ge=0, le=8760)] = Field(
        0.0, description="Hours before a message of the same table and kind is repeated; 0 repeats each."
    )
    quiet_hours_start: HourOfDay | None = Field(
        None, description="First quiet hour, UTC, 0 to 23: only failures are sent."
    )
    quiet_hours_end: HourOfDay | None = Field(
        None, description="First hour after them, 0 to 23: what was held back is then told."
    )
    dagster_url: WebUrl | None = Field(None, description="Address of Dagster's UI, for links to runs.")


class Dagster(Section):
    """How runs fit into a cluster."""

    step_outputs: StepOutputs = Field(
        StepOutputs.LOCAL,
        description="local: in DAGSTER_HOME. store: in the bucket, so that a retry on another machine goes on.",
    )


class ArchiverConfig(Section):
    """The whole file."""

    version: Version = Field("1", description='Version of this file format: "1".')
    s3: S3 = Field(description="The object store.")
    defaults: Defaults = Field(Defaults.model_validate({}), description="Settings of every table.")
    databases: Annotated[tuple[Database, ...], Field(min_length=1)] = Field(description="What to archive.")
    legal_holds: LegalHolds = Field(LegalHolds.model_validate({}), description="Legal holds.")
    compliance: Compliance = Field(Compliance.model_validate({}), description="Rules.")
    lock: Lock = Field(Lock.model_validate({}), description="Where locks are, for lock_type redis and file.")
    restore_watermark: RestoreWatermark = Field(RestoreWatermark.model_validate({}), description="Memory of restores.")
    monitoring: Monitoring = Field(Monitoring.model_validate({}), description="Metrics, health, progress.")
    notifications: Notifications = Field(Notifications.model_validate({}), description="Messages.")
    dagster: Dagster = Field(Dagster.model_validate({}), description="Runs in a cluster.")
