"""Extract: rows and row versions of each batch, out of one snapshot each, onto local disk."""

import secrets
import threading
from contextlib import closing
from datetime import datetime
from pathlib import Path
from time import monotonic

import pyarrow.ipc  # noqa: F401 - writers of row versions need the submodule loaded

from archiver_pipeline.codec.hashing import Sha256Counter
from archiver_pipeline.codec.versions import versions_writer
from archiver_pipeline.domain.batch import ExtractedBatch, Extraction, Plan, PlannedBatch
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.steps import batch_step, resume, timed_step
from archiver_pipeline.errors import SourceError
from archiver_pipeline.postgres.copy_out import RowStream, versions_schema


class _StagedBytes:
    """How much the workers have staged together."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._staged_bytes = 0

    def is_full(self) -> bool:
        return self._staged_bytes >= self._limit_bytes

    def add(self, size_bytes: int) -> None:
        with self._lock:
            self._staged_bytes += size_bytes


def extract_batches(session: ArchiveSession, plan: Plan) -> Extraction:
    """Stage the plan's batches in order until `max_staged_bytes` is reached. Safe to repeat."""
    staged = _StagedBytes(session.settings.max_staged_bytes)
    refusals = {plan.stopped} - {""}

    def work(batch: PlannedBatch) -> ExtractedBatch | None:
        if staged.is_full():
            return None
        with session.throttle.batch(plan, "extract") as refusal:
            if refusal:
                refusals.add(refusal)
                return None
            began = monotonic()
            extracted = stage(batch)
            session.rest_as_long_as(monotonic() - began)
            return extracted

    def stage(batch: PlannedBatch) -> ExtractedBatch:
        # Compress removes staged rows: a batch that got further goes on with what it has, and one that did not is
        # extracted again there.
        extracted = resume(
            session,
            plan,
            "extract",
            batch.index,
            ExtractedBatch,
            lambda: extract_batch(session, plan, batch),
            needs_files=False,
        )
        staged.add(extracted.rows_bytes)
        session.progress.batch_finished(session.name, "extract", batch_step(extracted))
        return extracted

    with timed_step(session, "extract", len(plan.batches), plan.eligible_rows) as watch:
        found = session.for_each(plan.batches, work, quietly=True)
    batches = tuple(batch for batch in found if batch is not None and batch.rows)
    return Extraction(
        plan,
        # Outside the allowed hours nothing would be deleted: then nothing is uploaded either.
        () if session.throttle.is_closed else batches,
        truncated=(None in found or not plan.planned_all) and not refusals,
        seconds=watch.seconds,
        stopped="; ".join(refusals),
        pauses=session.throttle.take_pauses(),
    )


def extract_batch(session: ArchiveSession, plan: Plan, batch: PlannedBatch) -> ExtractedBatch:
    """Stage one batch. Counts it a second time in the same snapshot.

    Every extraction has files of its own: an object made from one snapshot must never be held against, and its rows
    never deleted by, the row versions of a later one. Raises SourceError when the two counts differ.
    """
    base = session.staging_folder(plan.attempt_id) / f"{batch.index:06d}-{secrets.token_hex(4)}"
    with session.row_streams.take() as stream:
        return _stage(stream, plan.shape, batch, plan.cutoff, base)


def _stage(stream: RowStream, shape: TableShape, batch: PlannedBatch, cutoff: datetime, base: Path) -> ExtractedBatch:
    facts, stretches = stream.read_batch(shape, batch, cutoff)
    rows_path, versions_path = base.with_suffix(".rows"), base.with_suffix(".versions")
    written, rows, longest = Sha256Counter(), 0, 0
    with (
        closing(stretches) as rows_read,
        rows_path.open("wb") as file,
        versions_writer(versions_path, versions_schema(shape)) as versions,
    ):
        for stretch in rows_read:
            written.update(stretch.text)
            file.write(stretch.text)
            # Arrow writes what is no row at all into a CSV of batches that are empty.
            if stretch.versions.num_rows:
                versions.write_batch(stretch.versions)
            rows += stretch.versions.num_rows
            longest = max(longest, stretch.longest_row_bytes)
    if rows != facts.rows:
        raise SourceError(f"{shape.name}: the snapshot counts {facts.rows} rows but {rows} were read")
    return ExtractedBatch(
        planned=batch,
        rows_path=rows_path,
        versions_path=versions_path,
        rows=rows,
        rows_bytes=written.size_bytes,
        rows_sha256=written.hexdigest(),
        longest_row_bytes=longest,
        first_row_time=facts.first_row_time,
        last_row_time=facts.last_row_time,
        extracted_at=facts.taken_at,
    )
