"""Verify: read every object back and hold it against what was extracted. One difference stops the whole window."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from archiver_pipeline.codec.hashing import Sha256Counter
from archiver_pipeline.codec.jsonl import decode_jsonl
from archiver_pipeline.codec.long_lines import LongLine, lines_in_bounds
from archiver_pipeline.codec.rows import KeyReader
from archiver_pipeline.codec.versions import keys_of_versions, read_versions
from archiver_pipeline.domain.batch import (
    EncodedBatch,
    Plan,
    Upload,
    UploadedBatch,
    Verification,
    VerifiedBatch,
)
from archiver_pipeline.domain.layout import DataFormat
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.engine.fallback import Keeper
from archiver_pipeline.engine.proof import Sample, compare_with_live_rows, named, prove_parquet, require
from archiver_pipeline.engine.safekeeping import require_encrypted
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.steps import step_over_batches
from archiver_pipeline.engine.upload import upload_batch


def verify_batches(session: ArchiveSession, upload: Upload) -> Verification:
    """Prove every uploaded batch, and keep those that the store does not give back. Safe to repeat.

    Raises VerificationError at the first that is not proved.
    """
    plan = upload.encoding.extraction.plan
    keeper = Keeper(session, plan)
    batches, seconds = step_over_batches(
        session,
        plan,
        "verify",
        VerifiedBatch,
        upload.batches,
        keeper.trying(lambda batch: verify_batch(session, plan, batch)),
        otherwise=lambda batch, error: keeper.keep(batch.encoded, error),
    )
    return Verification(upload, batches, seconds, keeper.kept)


def verify_batch(session: ArchiveSession, plan: Plan, batch: UploadedBatch) -> VerifiedBatch:
    """Prove one batch: object bytes, decoded rows, row count, keys, a random sample against the live rows, and that
    the store encrypted it where the table demands that. After the copy to a cold class, which is another object.

    Raises VerificationError. A sampled row that changed since is counted, not an error: its delete will not match.
    """
    encoded = _with_versions(session, plan, batch)
    versions = read_versions(encoded.extracted.versions_path)
    require(versions.num_rows == encoded.extracted.rows, encoded.key, "the staged row versions are incomplete")
    sample = Sample.of(versions.num_rows, session.settings.verify_sample_rows)
    if session.format is DataFormat.jsonl_gz:
        _verify_jsonl(session, plan.shape, encoded, keys_of_versions(versions), sample)
    else:
        _verify_parquet(session, plan.shape, encoded, keys_of_versions(versions), sample)
    changed = compare_with_live_rows(session, plan.shape, encoded.key, versions, sample)
    session.store.move_to_class(encoded.key, encoded.object_sha256)
    require_encrypted(session, encoded.key)
    return VerifiedBatch(encoded, len(sample.picked), changed)


def _with_versions(session: ArchiveSession, plan: Plan, batch: UploadedBatch) -> EncodedBatch:
    """The batch with its staged row versions; one staged elsewhere goes through extract to upload again."""
    encoded = batch.encoded
    needs_rows = session.format is DataFormat.parquet and not encoded.extracted.rows_path.exists()
    if encoded.extracted.versions_path.exists() and not needs_rows:
        return encoded
    encoded.object_path.unlink(missing_ok=True)
    return upload_batch(session, plan, encoded).encoded


def _verify_jsonl(
    session: ArchiveSession, shape: TableShape, encoded: EncodedBatch, keys: pa.Table, sample: Sample
) -> None:
    stored, decoded, rows = Sha256Counter(), Sha256Counter(), 0
    pieces = _counted(session.store.read_blocks(encoded.key), stored)
    reader = KeyReader(shape.key, [column.name for column in shape.columns])
    with named(encoded.key):
        for block in lines_in_bounds(_counted(decode_jsonl(pieces), decoded), shape.key):
            found = block.keys if isinstance(block, LongLine) else reader.read(block)
            count = found.num_rows
            require(found.equals(keys.slice(rows, count)), encoded.key, "its keys are not those that were extracted")
            if isinstance(block, LongLine):
                sample.pick_long(block.sha256, rows)
            else:
                sample.pick(block, rows, count)
            rows += count
    require(stored.hexdigest() == encoded.object_sha256, encoded.key, "its bytes are not those that were sent")
    require(
        decoded.hexdigest() == encoded.extracted.rows_sha256,
        encoded.key,
        "its rows are not those that were extracted",
    )
    require(rows == encoded.extracted.rows, encoded.key, f"it holds {rows} rows instead of {encoded.extracted.rows}")


def _verify_parquet(
    session: ArchiveSession, shape: TableShape, encoded: EncodedBatch, keys: pa.Table, sample: Sample
) -> None:
    read_back = encoded.object_path.with_suffix(".readback")
    stored = Sha256Counter()
    with read_back.open("wb") as file:
        for piece in _counted(session.store.read_blocks(encoded.key), stored):
            file.write(piece)
    require(stored.hexdigest() == encoded.object_sha256, encoded.key, "its bytes are not those that were sent")
    prove_parquet(read_back, shape, encoded, keys, sample)
    read_back.unlink()
    encoded.extracted.rows_path.unlink()


def _counted(pieces: Iterable[bytes], counter: Sha256Counter) -> Iterator[bytes]:
    for piece in pieces:
        counter.update(piece)
        yield piece
