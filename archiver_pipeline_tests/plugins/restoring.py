"""Engine sessions that restore what `archiving` archived."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from archiver_pipeline.config.effective import DatabaseSettings, LockSettings, StoreSettings, WatermarkSettings
from archiver_pipeline.config.enums import WatermarkStorage
from archiver_pipeline.domain.restore import RestoreReport, RestoreRequest
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.restore import restore_archives
from archiver_pipeline.engine.restore_session import RestoreSession
from archiver_pipeline_tests.plugins.archiving import DATABASE_ID, Archiving
from archiver_pipeline_tests.plugins.servers import Database


@dataclass
class Restoring:
    """Makes restore sessions for one test's database and bucket; closes them at the end of the test."""

    archiving: Archiving
    opened: list[RestoreSession] = field(default_factory=list)

    @staticmethod
    def name(table: str = "audit_logs", *, schema: str = "public") -> TableName:
        return TableName(DATABASE_ID, schema, table)

    def session(
        self,
        source: TableName | None = None,
        target: TableName | None = None,
        *,
        database: Database | None = None,
        user: str | None = None,
        store: StoreSettings | None = None,
        watermark: WatermarkStorage | None = WatermarkStorage.S3,
        configured: bool = True,
        workers: int = 2,
        lock: LockSettings | None = None,
        **request: Any,
    ) -> RestoreSession:
        """A new session from `source` (default audit_logs) into `target` (default the same table).

        `database` is another one to restore into; `configured` tells whether the target is a table of the config;
        `watermark` None disables it; everything else is of RestoreRequest.
        """
        source = source or self.name()
        target = target or source
        lock = lock or LockSettings()
        settings = self.archiving.settings(
            table=target.table, schema=target.schema, workers=workers, lock_type=lock.lock_type
        )
        overrides = {"dbname": database.name} if database else {}
        overrides |= {"user": user} if user else {}
        primary = self.archiving.source(**overrides)
        session = RestoreSession(
            request=RestoreRequest(source, target, **request),
            database=DatabaseSettings(DATABASE_ID, primary, None, settings.connection_pool_size, (settings,), lock),
            settings=settings if configured else None,
            store_settings=store or self.archiving.store_settings(),
            watermark_settings=WatermarkSettings(
                watermark is not None, watermark or WatermarkStorage.S3, "restore_watermarks"
            ),
            run_id="test-restore",
        )
        self.opened.append(session)
        return session

    def restore(self, source: TableName | None = None, target: TableName | None = None, **how: Any) -> RestoreReport:
        """Restore in a session of its own; arguments are those of `session`."""
        session = self.session(source, target, **how)
        try:
            return restore_archives(session)
        finally:
            session.close()


@pytest.fixture
def restoring(archiving: Archiving) -> Iterator[Restoring]:
    """Restore sessions for this test's database and bucket."""
    factory = Restoring(archiving)
    yield factory
    for session in factory.opened:
        session.close()
