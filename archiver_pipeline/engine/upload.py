"""Upload: every data object under a key that no other attempt can share."""

from archiver_pipeline.domain.batch import EncodedBatch, Encoding, Plan, Upload, UploadedBatch
from archiver_pipeline.engine.compress import compress_batch
from archiver_pipeline.engine.fallback import Keeper
from archiver_pipeline.engine.safekeeping import require_encrypting_store
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.steps import step_over_batches
from archiver_pipeline.storage.s3 import ObjectExistsError


def upload_batches(session: ArchiveSession, encoding: Encoding) -> Upload:
    """Store every encoded batch, and keep those that the store does not take. Safe to repeat: an object that is there
    already is proved or refused by verify."""
    plan = encoding.extraction.plan
    keeper = Keeper(session, plan)
    batches, seconds = step_over_batches(
        session,
        plan,
        "upload",
        UploadedBatch,
        encoding.batches,
        keeper.trying(lambda batch: upload_batch(session, plan, batch)),
        otherwise=keeper.keep,
    )
    return Upload(encoding, batches, seconds, keeper.kept)


def upload_batch(session: ArchiveSession, plan: Plan, batch: EncodedBatch) -> UploadedBatch:
    """Store one batch, encoded again when its staged object is gone."""
    require_encrypting_store(session)
    staged = batch if batch.object_path.exists() else compress_batch(session, plan, batch.extracted)
    try:
        session.store.put_file(staged.key, staged.object_path, sha256_hex=staged.object_sha256)
    except ObjectExistsError:
        # The key is this attempt's own: an earlier try got through although its answer was lost. Verify reads it back.
        return UploadedBatch(staged)
    return UploadedBatch(staged)
