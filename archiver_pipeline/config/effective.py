"""What is in force after precedence table > database > defaults > built in: one frozen object per table,
database and store, with secrets resolved and units in the names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from archiver_pipeline.config.crosscheck import inherited
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
    StorageClass,
    VacuumStrategy,
    WatermarkStorage,
    Weekday,
    WindowSize,
)
from archiver_pipeline.config.models import (
    INHERITED,
    S3,
    ArchiverConfig,
    ConfiguredHold,
    Database,
    LegalHolds,
    Lock,
    Replica,
    Section,
    Table,
    Throttle,
)
from archiver_pipeline.config.models import AllowedHours as WrittenHours
from archiver_pipeline.config.safekeeping import SYSTEM_CERTIFICATES, encryption_reason, lock_days, tls_reason
from archiver_pipeline.domain.batch_size import BatchBounds
from archiver_pipeline.domain.hours import DAY_NAMES, AllowedHours
from archiver_pipeline.domain.retention import FloorOverride, floor_override
from archiver_pipeline.domain.throttle import Signal, ThrottleSettings
from archiver_pipeline.secret_sources.reference import parse_reference
from archiver_pipeline.secret_sources.secret import ReferencedSecret

DEFAULT_REDIS_URL = "redis://localhost:6379/0"


@dataclass(frozen=True)
class TableSettings:
    """Everything the engine needs for one table. `database` is the id in keys, `dbname` PostgreSQL's name;
    None means: primary_key discover, compression_level the format's fast one, workers the number of CPUs,
    staging_dir the engine decides, archive_retention_days archives are kept for ever; statement_timeout_seconds 0 is
    none."""

    database: str
    dbname: str
    schema: str
    table: str
    timestamp_column: str
    primary_key: tuple[str, ...] | None
    retention_days: int
    restore_protection_days: int
    batch_size: int
    sleep_between_batches_seconds: float
    connection_pool_size: int
    compression_level: int | None
    format: ObjectFormat
    window: WindowSize
    first_window: date
    workers: int | None
    max_staged_bytes: int
    staging_dir: Path | None
    verify_sample_rows: int
    vacuum_strategy: VacuumStrategy
    lock_type: LockType
    lock_timeout_ms: int
    statement_timeout_seconds: int
    fail_on_schema_drift: bool
    critical: bool
    classification: str | None
    legal_hold: bool = False
    legal_hold_reason: str | None = None
    must_encrypt: bool = False
    """Whether the store must say of every object that it is encrypted as `StoreSettings.encryption` asks."""
    lock_days: int | None = None
    """Days for which an archive is locked; None is no lock."""
    lock_from_last_row: bool = False
    """Whether they count from the archive's last row, as those of its expiry do, and not from when it is made."""
    retention_floor_override: str | None = None
    archive_retention_days: int | None = None
    throttle: ThrottleSettings | None = None
    """None: nothing is measured before a batch."""
    allowed_hours: AllowedHours | None = None
    """None: at any hour."""
    partitions: PartitionStrategy = PartitionStrategy.ROWS
    adaptive_batch_size: BatchBounds | None = None
    """None: `batch_size`, always."""
    reclaim: ReclaimStrategy = ReclaimStrategy.NONE
    reclaim_min_free_ratio: float = 0.3
    reclaim_min_bytes: int = 256 * 1024**2
    reclaim_wait_seconds: int = 60
    pg_repack_path: Path | None = None

    @property
    def below_floor(self) -> FloorOverride | None:
        """The override that lets this table's rows leave before the floor; None when none is needed."""
        return floor_override(self.retention_days, self.retention_floor_override)

    @property
    def qualified_name(self) -> str:
        """`schema.table`, for people: not quoted, not for SQL."""
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True)
class SourceSettings:
    """How to connect to one PostgreSQL server. `password` None leaves it to libpq (peer, .pgpass), and so do the
    certificates. With `require_tls` a connection over a network that is not in TLS is refused."""

    id: str
    dbname: str
    host: str
    port: int
    user: str
    password: SecretStr | None
    sslmode: SslMode | None
    application_name: str
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    require_tls: bool = False


@dataclass(frozen=True)
class LockSettings:
    """What keeps two runs off one table. `redis_url` may hold a password; `directory` None is the adapter's default.
    `ttl_seconds` is how long a Redis lock outlives a run that was killed."""

    lock_type: LockType = LockType.POSTGRESQL
    redis_url: SecretStr = field(default_factory=lambda: SecretStr(DEFAULT_REDIS_URL))
    ttl_seconds: float = 60.0
    directory: Path | None = None


@dataclass(frozen=True)
class HoldSettings:
    """Where the legal holds of one database's tables come from; without `sources` only a table's own `legal_hold`
    counts. `database` None means that the hold table is in the archived database itself."""

    sources: frozenset[HoldSource] = frozenset()
    configured: tuple[ConfiguredHold, ...] = ()
    schema: str = "public"
    table: str = "legal_holds"
    database: SourceSettings | None = None
    check_expiration: bool = True
    api_endpoint: str = ""
    api_token: SecretStr | None = None
    api_timeout_seconds: float = 10.0
    mirror_to_object_lock: bool = False


@dataclass(frozen=True)
class AuditSettings:
    """Whether an audit trail is written. `rules` is the section `compliance` as JSON, for the trail to tell."""

    enabled: bool = True
    rules: str = "{}"


@dataclass(frozen=True)
class DatabaseSettings:
    """One database: where rows are deleted (primary), where they may be read (replica), its tables, and where holds on
    them come from.

    `lock` is that of a table which is not configured, as a restore may have for its target."""

    id: str
    primary: SourceSettings
    replica: SourceSettings | None
    connection_pool_size: int
    tables: tuple[TableSettings, ...]
    lock: LockSettings = LockSettings()
    holds: HoldSettings = HoldSettings()
    audit: AuditSettings = AuditSettings()

    def lock_of(self, table: TableSettings | None) -> LockSettings:
        """What locks a table; None is one that is not configured."""
        return replace(self.lock, lock_type=table.lock_type) if table else self.lock


@dataclass(frozen=True)
class StoreSettings:
    """The object store. `prefix` has no outer slashes and is "" for the root of the bucket; without keys
    the driver's own credential chain applies."""

    bucket: str
    endpoint: str | None
    prefix: str
    region: str
    storage_class: StorageClass
    encryption: Encryption
    kms_key_id: str | None
    multipart_threshold_bytes: int
    access_key_id: str | ReferencedSecret | None
    secret_access_key: SecretStr | None
    addressing_style: AddressingStyle
    local_fallback_dir: Path | None
    object_lock: ObjectLockMode | None = None


@dataclass(frozen=True)
class WatermarkSettings:
    """Whether and where it is remembered what was restored; `table` is for storage in the target database."""

    enabled: bool
    storage: WatermarkStorage
    table: str


def watermark_settings(config: ArchiverConfig) -> WatermarkSettings:
    """The restore watermark as configured."""
    written = config.restore_watermark
    return WatermarkSettings(written.enabled, written.storage_type, written.table)


def database_settings(config: ArchiverConfig, environ: Mapping[str, str], base: Path) -> tuple[DatabaseSettings, ...]:
    """All databases in the file's order. Relative folders start at `base`. The configuration must have passed
    the cross checks: a variable named by password_env that is not set raises KeyError."""
    databases = tuple(_database(database, config, environ, base) for database in config.databases)
    holding = next((one.primary for one in databases if one.id == config.legal_holds.database), None)
    return tuple(
        replace(
            one, holds=_hold_settings(config.legal_holds, environ, base, None if holding == one.primary else holding)
        )
        for one in databases
    )


def _hold_settings(
    written: LegalHolds, environ: Mapping[str, str], base: Path, holding: SourceSettings | None
) -> HoldSettings:
    """Holds that stand in the file count although `source` does not name it: nobody writes one in vain."""
    if not written.enabled:
        return HoldSettings()
    schema, dot, table = written.table.partition(".")
    return HoldSettings(
        sources=frozenset((*written.source, *([HoldSource.CONFIG] if written.holds else []))),
        configured=written.holds,
        schema=schema if dot else written.schema_name,
        table=table if dot else written.table,
        database=holding,
        check_expiration=written.check_expiration,
        api_endpoint=(written.api_endpoint or "").rstrip("/"),
        api_token=secret_of(written, "api_token", environ, base),
        api_timeout_seconds=written.api_timeout_seconds,
        mirror_to_object_lock=written.mirror_to_object_lock,
    )


def store_settings(s3: S3, environ: Mapping[str, str], base: Path) -> StoreSettings:
    """The store, with keys from the environment where the file says so; same preconditions as above."""
    style = s3.addressing_style
    if style == AddressingStyle.AUTO and s3.endpoint:
        style = AddressingStyle.PATH
    return StoreSettings(
        bucket=s3.bucket,
        endpoint=s3.endpoint,
        prefix=s3.prefix,
        region=s3.region,
        storage_class=s3.storage_class,
        encryption=s3.encryption,
        kms_key_id=s3.kms_key_id,
        multipart_threshold_bytes=s3.multipart_threshold_mb * 1024**2,
        access_key_id=_access_key_id(s3, environ, base),
        secret_access_key=secret_of(s3, "secret_access_key", environ, base),
        addressing_style=style,
        local_fallback_dir=_folder(s3.local_fallback_dir, base),
        object_lock=s3.object_lock.mode if s3.object_lock else None,
    )


def _access_key_id(s3: S3, environ: Mapping[str, str], base: Path) -> str | ReferencedSecret | None:
    """No secret by itself, but kept and rotated beside one."""
    if s3.access_key_id_from:
        return ReferencedSecret(parse_reference(s3.access_key_id_from, base))
    return environ[s3.access_key_id_env] if s3.access_key_id_env else s3.access_key_id


def _database(database: Database, config: ArchiverConfig, environ: Mapping[str, str], base: Path) -> DatabaseSettings:
    defaults = config.defaults
    tls = bool(tls_reason(config.compliance, database))
    primary = SourceSettings(
        id=database.key_id,
        dbname=database.name,
        host=database.host,
        port=database.port,
        user=database.user,
        password=secret_of(database, "password", environ, base),
        sslmode=database.sslmode or (SslMode.VERIFY_FULL if tls else None),
        application_name=database.application_name,
        sslrootcert=_certificates(database.sslrootcert, base),
        sslcert=_file(database.sslcert, base),
        sslkey=_file(database.sslkey, base),
        require_tls=tls,
    )
    return DatabaseSettings(
        id=database.key_id,
        primary=primary,
        replica=_replica(database.read_replica, primary, environ, base),
        connection_pool_size=inherited("connection_pool_size", [database, defaults]),
        tables=tuple(_table(table, database, config, base) for table in database.tables),
        lock=_lock(config.lock, inherited("lock_type", [database, defaults]), environ, base),
        audit=AuditSettings(config.compliance.audit_trail, config.compliance.model_dump_json()),
    )


def _lock(lock: Lock, lock_type: LockType, environ: Mapping[str, str], base: Path) -> LockSettings:
    return LockSettings(
        lock_type=lock_type,
        redis_url=secret_of(lock, "redis_url", environ, base) or SecretStr(DEFAULT_REDIS_URL),
        ttl_seconds=lock.ttl_seconds,
        directory=_folder(lock.directory, base),
    )


def _replica(
    replica: Replica | None, primary: SourceSettings, environ: Mapping[str, str], base: Path
) -> SourceSettings | None:
    if replica is None:
        return None
    return SourceSettings(
        id=primary.id,
        dbname=primary.dbname,
        host=replica.host,
        port=replica.port or primary.port,
        user=replica.user or primary.user,
        password=secret_of(replica, "password", environ, base) or primary.password,
        sslmode=replica.sslmode or primary.sslmode,
        application_name=replica.application_name or primary.application_name,
        sslrootcert=_certificates(replica.sslrootcert, base) or primary.sslrootcert,
        sslcert=_file(replica.sslcert, base) or primary.sslcert,
        sslkey=_file(replica.sslkey, base) or primary.sslkey,
        require_tls=primary.require_tls,
    )


def _table(table: Table, database: Database, config: ArchiverConfig, base: Path) -> TableSettings:
    levels = [table, database, config.defaults]
    settings: dict[str, Any] = {name: inherited(name, levels) for name in INHERITED}
    archive_days = settings["archive_retention_days"]
    settings["sleep_between_batches_seconds"] = settings.pop("sleep_between_batches")
    settings["staging_dir"] = _folder(settings["staging_dir"], base)
    settings["throttle"] = _throttle(settings["throttle"])
    settings["allowed_hours"] = _allowed_hours(settings["allowed_hours"])
    if (adaptive := settings["adaptive_batch_size"]) is not None:
        settings["adaptive_batch_size"] = BatchBounds(**dict(adaptive))
    settings["pg_repack_path"] = _folder(settings["pg_repack_path"], base)
    return TableSettings(
        database=database.key_id,
        dbname=database.name,
        schema=table.schema_name,
        table=table.name,
        timestamp_column=table.timestamp_column,
        primary_key=table.primary_key,
        critical=table.critical,
        classification=table.classification,
        legal_hold=table.legal_hold,
        legal_hold_reason=table.legal_hold_reason,
        must_encrypt=bool(encryption_reason(config.compliance, table)),
        lock_days=lock_days(config.s3, archive_days),
        lock_from_last_row=archive_days is not None,
        **settings,
    )


def _throttle(written: Throttle | None) -> ThrottleSettings | None:
    """None also when no signal is limited."""
    if written is None:
        return None
    limits: dict[Signal, float | None] = {
        signal: getattr(written, signal.value) for signal in Signal if signal is not Signal.probe
    }
    if written.probe is not None:
        limits[Signal.probe] = written.probe_limit or 0.0
    known = tuple((signal, float(limit)) for signal, limit in limits.items() if limit is not None)
    if not known:
        return None
    return ThrottleSettings(
        limits=known,
        probe=written.probe or "",
        shrink_at_percent=written.shrink_at_percent,
        poll_seconds=written.poll_seconds,
        max_pause_seconds=written.max_pause_seconds,
        timeout_seconds=written.timeout_seconds,
    )


def _allowed_hours(written: WrittenHours | None) -> AllowedHours | None:
    if written is None:
        return None
    spans = tuple((_minutes(first), _minutes(end)) for first, end in (span.split("-") for span in written.hours))
    days = frozenset(DAY_NAMES.index(day.value) for day in written.days or tuple(Weekday))
    return AllowedHours(spans, written.time_zone, days)


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


def secret_of(section: Section, key: str, environ: Mapping[str, str], base: Path) -> SecretStr | None:
    """The secret `key` of a section: by reference and unread, else of its variable, else plain, else None.

    A variable that is not set raises KeyError."""
    reference, variable = getattr(section, f"{key}_from"), getattr(section, f"{key}_env")
    if reference:
        return ReferencedSecret(parse_reference(reference, base))
    plain: SecretStr | None = getattr(section, key, None)
    return SecretStr(environ[variable]) if variable else plain


def _file(path: Path | None, base: Path) -> str | None:
    return str(base / path.expanduser()) if path else None


def _certificates(path: Path | None, base: Path) -> str | None:
    """`system` is libpq's own word for the certificates of the machine."""
    return SYSTEM_CERTIFICATES if path == Path(SYSTEM_CERTIFICATES) else _file(path, base)


def _folder(folder: Path | None, base: Path) -> Path | None:
    return base / folder.expanduser() if folder else None
