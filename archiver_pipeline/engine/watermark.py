"""Remembers what was restored into a target, so that the next restore takes only new archives.

Kept in the store, in the target database, or in both. In the database a batch is noted in the transaction of its rows,
so what it says is exact; with both it alone decides what was restored, because the store's copy does not go back when
the database is restored from a backup. The store's copy is written now and then: after a kill it may lack the last
batches, and never names one that did not commit.
"""

import secrets
import threading
import time
from datetime import UTC, datetime

from archiver_pipeline.codec.documents import decode_watermark, encode_watermark
from archiver_pipeline.config.effective import WatermarkSettings
from archiver_pipeline.config.enums import WatermarkStorage
from archiver_pipeline.domain.layout import watermark_key
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.watermark import (
    RememberedBatch,
    RestoredBatch,
    WatermarkDocument,
    empty_watermark,
    merge_restored,
)
from archiver_pipeline.errors import ManifestError, StoreError
from archiver_pipeline.postgres.connection import Connection
from archiver_pipeline.postgres.eligible import source_clock
from archiver_pipeline.postgres.watermark_table import ensure_watermark_table, remember_batch, remembered_batches
from archiver_pipeline.storage.s3 import ObjectChangedError, S3Store

_FLUSH_SECONDS = 10.0
_TRIES = 60
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 2.0
_SETTLE_SECONDS = 0.5


class Watermark:
    """What was restored from one source into one target. Safe for use by many threads."""

    def __init__(
        self, store: S3Store, settings: WatermarkSettings, source: TableName, target: TableName, run_id: str
    ) -> None:
        self._store = store
        self._table = settings.table
        self._in_store = settings.enabled and settings.storage is not WatermarkStorage.DATABASE
        self._in_database = settings.enabled and settings.storage is not WatermarkStorage.S3
        self._source = source
        self._target = target
        self._run_id = run_id
        self._key = watermark_key(store.settings.prefix, source)
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._times: dict[str, datetime] = {}
        self._restored: dict[str, RememberedBatch] = {}
        self._unwritten = False
        self._flushed_at = time.monotonic()

    def open(self, connection: Connection) -> None:
        """Make sure, before the first row, that the watermark can be read and written. Safe to repeat.

        Creates the table where it is missing. Raises ManifestError when the store's copy is damaged or of an unknown
        version, PermissionDeniedError or PreflightError when the table cannot be created or used.
        """
        if self._in_database:
            ensure_watermark_table(connection, self._table)
        if self._in_store:
            self._read()

    def remembered(self, connection: Connection) -> frozenset[str]:
        """The ids of the batches that were restored into the target; none when the watermark is off. Only reads."""
        if self._in_database:
            return frozenset(remembered_batches(connection, self._table, self._source, self._target))
        if self._in_store:
            document, _ = self._read()
            return frozenset(document.restored_into(self._target))
        return frozenset()

    def remember_in_transaction(self, connection: Connection, batch: RestoredBatch) -> None:
        """Note a batch in the transaction of its rows: there or not there with them. Asks the server for the time."""
        if self._in_database:
            remember_batch(connection, self._table, self._source, self._target, batch, self._run_id)
        if self._in_store:
            moment = source_clock(connection).astimezone(UTC)
            with self._lock:
                self._times[batch.batch_id] = moment

    def remember(self, batch: RestoredBatch) -> None:
        """Note a batch for the store after its transaction, in which it was noted as well, has committed."""
        if not self._in_store:
            return
        with self._lock:
            moment = self._times.pop(batch.batch_id)
            self._restored[batch.batch_id] = RememberedBatch(batch.data_key, batch.rows, moment, self._run_id)
            self._unwritten = True

    def flush(self, *, force: bool = False) -> None:
        """Write what was noted for the store: at most every 10 seconds, at once with `force`.

        Raises ManifestError, StoreError or NetworkError; what was noted stays and the next call writes it.
        """
        if not force and not self._is_due():
            return
        with self._flushing:
            with self._lock:
                restored = dict(self._restored)
                self._unwritten = False
            self._flushed_at = time.monotonic()
            try:
                self._write(restored)
            except BaseException:
                self._unwritten = True
                raise

    def _is_due(self) -> bool:
        waited_seconds = time.monotonic() - self._flushed_at
        return self._unwritten and not self._flushing.locked() and waited_seconds >= _FLUSH_SECONDS

    def _write(self, restored: dict[str, RememberedBatch]) -> None:
        """Merge into whatever is there until what is there holds all of it.

        All batches of this restore every time: a store without conditional writes may have lost some since.
        """
        if not restored:
            return
        for attempt in range(_TRIES):
            document, etag = self._read()
            merged = merge_restored(document, self._target, restored)
            if merged == document:
                return
            try:
                self._store.replace_document(self._key, encode_watermark(merged), etag=etag)
            except ObjectChangedError:
                _pause(min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempt))
            else:
                self._let_others_overwrite()
        raise StoreError(
            f"{self._key}: the restore watermark could not be written in {_TRIES} tries, others kept writing it",
            hint="the rows are restored; restore again, and what was not remembered is taken again",
        )

    def _let_others_overwrite(self) -> None:
        """Without conditional writes, wait for those who read before this write and write after it: then the next look
        shows what they lost."""
        if not self._store.replaces_conditionally:
            _pause(_SETTLE_SECONDS)

    def _read(self) -> tuple[WatermarkDocument, str | None]:
        found = self._store.read_versioned(self._key)
        if found is None:
            return empty_watermark(self._source), None
        data, etag = found
        document = decode_watermark(data, key=self._key)
        if document.source != self._source:
            raise ManifestError(
                f"{self._key} is the watermark of {document.source}, not of {self._source}",
                hint="was it copied here? remove it: then the next restore takes every archive again",
            )
        return document, etag


def _pause(seconds: float) -> None:
    """Sleep for half to the whole of this, at random, so that those who met do not meet again."""
    time.sleep(seconds * (0.5 + secrets.randbelow(501) / 1000))
