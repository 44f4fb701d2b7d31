"""Compress: staged rows into the data object that will be stored, with its own hash and its key."""

import hashlib
from pathlib import Path

from archiver_pipeline.codec.hashing import Sha256Counter
from archiver_pipeline.codec.jsonl import encode_jsonl
from archiver_pipeline.codec.parquet import encode_parquet
from archiver_pipeline.domain.batch import EncodedBatch, Encoding, ExtractedBatch, Extraction, Plan
from archiver_pipeline.domain.layout import DataFormat, batch_stem, data_key
from archiver_pipeline.engine.extract import extract_batch
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.steps import step_over_batches
from archiver_pipeline.errors import SourceError

_BATCH_ID_HEX_DIGITS = 20


class RowsGoneError(SourceError):
    """A batch had to be extracted again and none of its rows is in the table any more."""


def compress_batches(session: ArchiveSession, extraction: Extraction) -> Encoding:
    """Encode every extracted batch; one whose staged files are gone is extracted again. Safe to repeat."""
    plan = extraction.plan
    batches, seconds = step_over_batches(
        session,
        plan,
        "compress",
        EncodedBatch,
        extraction.batches,
        lambda batch: compress_batch(session, plan, batch),
    )
    return Encoding(extraction, batches, seconds)


def compress_batch(session: ArchiveSession, plan: Plan, batch: ExtractedBatch) -> EncodedBatch:
    """Encode one batch. The staged rows stay until the batch is verified only where the format needs them."""
    staged = _staged(session, plan, batch)
    target = staged.rows_path.with_suffix(f".{session.format.value}")
    written = _encode(session, plan, staged, target)
    if session.format is DataFormat.jsonl_gz:
        staged.rows_path.unlink()
    batch_id = _batch_id(plan, staged)
    stem = batch_stem(session.store_settings.prefix, session.name, staged.planned.window, batch_id)
    return EncodedBatch(
        extracted=staged,
        batch_id=batch_id,
        key=data_key(stem, session.format),
        object_path=target,
        object_bytes=written.size_bytes,
        object_sha256=written.hexdigest(),
    )


def _staged(session: ArchiveSession, plan: Plan, batch: ExtractedBatch) -> ExtractedBatch:
    """The batch as staged here, or staged again when it was staged on another machine or cleaned away."""
    if batch.rows_path.exists() and batch.versions_path.exists():
        return batch
    again = extract_batch(session, plan, batch.planned)
    if not again.rows:
        raise RowsGoneError(
            f"{plan.shape.name}: rows of batch {batch.planned.index} left the table while this run was interrupted",
            hint="start a new run: it plans what is there now",
        )
    return again


def _encode(session: ArchiveSession, plan: Plan, batch: ExtractedBatch, target: Path) -> Sha256Counter:
    level = session.settings.compression_level
    if session.format is DataFormat.jsonl_gz:
        return encode_jsonl(batch.rows_path, target, level=level)
    return encode_parquet(
        batch.rows_path, target, plan.shape.columns, level=level, longest_row_bytes=batch.longest_row_bytes
    )


def _batch_id(plan: Plan, batch: ExtractedBatch) -> str:
    """From content and attempt, so that it never repeats; the exclusions tell a second pass from the first."""
    second_pass = len(batch.planned.excluded_keys)
    text = f"{plan.attempt_id}/{batch.planned.index}/{second_pass}/{batch.rows_sha256}"
    return hashlib.sha256(text.encode()).hexdigest()[:_BATCH_ID_HEX_DIGITS]
