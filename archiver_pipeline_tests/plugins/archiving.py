"""Tables to archive and engine sessions to archive them with, on the real servers of `servers`."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from archiver_pipeline.config.effective import (
    DatabaseSettings,
    HoldSettings,
    LockSettings,
    SourceSettings,
    StoreSettings,
    TableSettings,
)
from archiver_pipeline.config.enums import (
    AddressingStyle,
    Encryption,
    LockType,
    ObjectFormat,
    StorageClass,
    VacuumStrategy,
    WindowSize,
)
from archiver_pipeline.domain.windows import Window
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.inventory import DateRange, eligible_windows
from archiver_pipeline.engine.report import ArchiveReport
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline_tests.ledger import Ledger
from archiver_pipeline_tests.plugins.servers import Bucket, Database

RETENTION_DAYS = 30
OLD_ROWS = 48
YOUNG_ROWS = 30
DATABASE_ID = "appdb"

CREATE_AUDIT_TABLE = """
CREATE TABLE {table} (
    id bigint PRIMARY KEY,
    created_at timestamptz NOT NULL,
    actor text NOT NULL,
    changes jsonb,
    tags text[] NOT NULL DEFAULT '{{}}',
    amount numeric
);
CREATE INDEX ON {table} (created_at);
"""
FILL_AUDIT_TABLE = """
INSERT INTO {table}
SELECT n, date_trunc('day', now()) - interval '40 days' - n * interval '1 hour', 'actor "' || n % 7 || '"',
    jsonb_build_object('n', n, 'note', E'line\\nbreak'), ARRAY['a', 'b,c'], n / 7.0
FROM generate_series(1, {old}) AS n;
INSERT INTO {table}
SELECT 100000 + n, now() - n * interval '1 hour', 'young', NULL, '{{}}', NULL FROM generate_series(1, {young}) AS n;
"""


def create_audit_table(database: Database, table: str = "audit_logs", *, old: int = OLD_ROWS) -> None:
    """An audit table with `old` rows over about two days before the retention, one an hour, and young rows."""
    with database.connect() as connection:
        connection.execute(CREATE_AUDIT_TABLE.format(table=table).encode())
        connection.execute(FILL_AUDIT_TABLE.format(table=table, old=old, young=YOUNG_ROWS).encode())


@dataclass
class Archiving:
    """Makes sessions for tables of one test's database and bucket; closes them at the end of the test."""

    database: Database
    bucket: Bucket
    staging: Path
    opened: list[ArchiveSession] = field(default_factory=list)

    def source(self, **overrides: Any) -> SourceSettings:
        settings = SourceSettings(
            id=DATABASE_ID,
            dbname=self.database.name,
            host=self.database.host,
            port=self.database.port,
            user=self.database.user,
            password=SecretStr(self.database.password),
            sslmode=None,
            application_name="archiver test",
        )
        return replace(settings, **overrides)

    def store_settings(self) -> StoreSettings:
        return StoreSettings(
            bucket=self.bucket.bucket,
            endpoint=self.bucket.endpoint,
            prefix=self.bucket.prefix,
            region=self.bucket.region,
            storage_class=StorageClass.STANDARD,
            encryption=Encryption.NONE,
            kms_key_id=None,
            multipart_threshold_bytes=64 << 20,
            access_key_id=self.bucket.access_key_id,
            secret_access_key=SecretStr(self.bucket.secret_access_key),
            addressing_style=AddressingStyle.PATH,
            local_fallback_dir=None,
        )

    def settings(self, **overrides: Any) -> TableSettings:
        """Small batches over daily windows, two workers, no pauses, no VACUUM."""
        settings = TableSettings(
            database=DATABASE_ID,
            dbname=self.database.name,
            schema="public",
            table="audit_logs",
            timestamp_column="created_at",
            primary_key=None,
            retention_days=RETENTION_DAYS,
            restore_protection_days=30,
            batch_size=10,
            sleep_between_batches_seconds=0,
            connection_pool_size=6,
            compression_level=None,
            format=ObjectFormat.JSONL_GZ,
            window=WindowSize.DAY,
            first_window=date(2020, 1, 1),
            workers=2,
            max_staged_bytes=1 << 30,
            staging_dir=self.staging,
            verify_sample_rows=5,
            vacuum_strategy=VacuumStrategy.NONE,
            lock_type=LockType.POSTGRESQL,
            lock_timeout_ms=100,
            statement_timeout_seconds=0,
            fail_on_schema_drift=False,
            critical=False,
            classification=None,
        )
        return replace(settings, **overrides)

    def session(
        self,
        *,
        user: str | None = None,
        replica: SourceSettings | None = None,
        store: StoreSettings | None = None,
        lock: LockSettings | None = None,
        holds: HoldSettings | None = None,
        **overrides: Any,
    ) -> ArchiveSession:
        """A new session; `overrides` are of TableSettings."""
        lock = lock or LockSettings()
        settings = self.settings(**{"lock_type": lock.lock_type} | overrides)
        primary = self.source(user=user) if user else self.source()
        database = DatabaseSettings(
            DATABASE_ID, primary, replica, settings.connection_pool_size, (settings,), lock, holds or HoldSettings()
        )
        session = ArchiveSession(settings, database, store or self.store_settings(), run_id="test-run")
        self.opened.append(session)
        return session

    def windows(self, session: ArchiveSession) -> list[Window]:
        """Every window with something eligible."""
        return list(eligible_windows(session, inspect_table(session.connection, session.settings), DateRange()))

    def archive(self, *, limit_rows: int | None = None, **overrides: Any) -> ArchiveReport:
        """Archive everything eligible in a session of its own."""
        session = self.session(**overrides)
        try:
            return archive_windows(session, self.windows(session), limit_rows=limit_rows)
        finally:
            session.close()

    def ledger(
        self, table: str = "audit_logs", *, schema: str = "public", timestamp_column: str = "created_at"
    ) -> Ledger:
        """What the table should hold from now on, table and archive together."""
        return Ledger(self.database, self.bucket, DATABASE_ID, schema, table, timestamp_column, RETENTION_DAYS)


@pytest.fixture
def archiving(database: Database, bucket: Bucket, tmp_path: Path) -> Iterator[Archiving]:
    """Engine sessions for this test's database and bucket."""
    factory = Archiving(database, bucket, tmp_path / "staging")
    yield factory
    for session in factory.opened:
        session.close()


@pytest.fixture
def audit(archiving: Archiving) -> Ledger:
    """The table `audit_logs`, filled, and its ledger."""
    create_audit_table(archiving.database)
    return archiving.ledger()
