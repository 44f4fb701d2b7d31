"""Verify: read every object back and hold it against what was extracted. One difference stops the whole window."""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from archiver_pipeline.codec.hashing import Sha256Counter
from archiver_pipeline.codec.jsonl import decode_jsonl, whole_lines
from archiver_pipeline.codec.parquet import verify_parquet
from archiver_pipeline.codec.rows import KeyReader, lines_at
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
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.steps import step_over_batches
from archiver_pipeline.engine.upload import upload_batch
from archiver_pipeline.errors import VerificationError
from archiver_pipeline.postgres.sample import fetch_live_rows


@dataclass
class _Sample:
    """Lines picked at random out of what was read back, by row position."""

    positions: Sequence[int]
    lines: dict[int, bytes] = field(default_factory=dict)

    def pick(self, rows: bytes, first_position: int, count: int) -> None:
        """Keep the sampled lines of a block that begins at row `first_position`."""
        wanted = [position for position in self.positions if first_position <= position < first_position + count]
        if not wanted:
            return
        found = lines_at(rows, [position - first_position for position in wanted])
        self.lines.update(zip(wanted, found, strict=True))


def verify_batches(session: ArchiveSession, upload: Upload) -> Verification:
    """Prove every uploaded batch. Raises VerificationError at the first that is not proved. Safe to repeat."""
    plan = upload.encoding.extraction.plan
    batches, seconds = step_over_batches(
        session,
        plan,
        "verify",
        VerifiedBatch,
        upload.batches,
        lambda batch: verify_batch(session, plan, batch),
    )
    return Verification(upload, batches, seconds)


def verify_batch(session: ArchiveSession, plan: Plan, batch: UploadedBatch) -> VerifiedBatch:
    """Prove one batch: object bytes, decoded rows, row count, keys, and a random sample against the live rows.

    Raises VerificationError. A sampled row that changed since is counted, not an error: its delete will not match.
    """
    encoded = _with_versions(session, plan, batch)
    versions = read_versions(encoded.extracted.versions_path)
    _require(versions.num_rows == encoded.extracted.rows, encoded, "the staged row versions are incomplete")
    sample = _Sample(_random_positions(versions.num_rows, session.settings.verify_sample_rows))
    if session.format is DataFormat.jsonl_gz:
        _verify_jsonl(session, plan.shape, encoded, keys_of_versions(versions), sample)
    else:
        _verify_parquet(session, plan.shape, encoded, keys_of_versions(versions), sample)
    changed = _compare_with_live_rows(session, plan.shape, encoded, versions, sample)
    session.store.move_to_class(encoded.key, encoded.object_sha256)
    return VerifiedBatch(encoded, len(sample.lines), changed)


def _with_versions(session: ArchiveSession, plan: Plan, batch: UploadedBatch) -> EncodedBatch:
    """The batch with its staged row versions; one staged elsewhere goes through extract to upload again."""
    encoded = batch.encoded
    needs_rows = session.format is DataFormat.parquet and not encoded.extracted.rows_path.exists()
    if encoded.extracted.versions_path.exists() and not needs_rows:
        return encoded
    encoded.object_path.unlink(missing_ok=True)
    return upload_batch(session, plan, encoded).encoded


def _verify_jsonl(
    session: ArchiveSession, shape: TableShape, encoded: EncodedBatch, keys: pa.Table, sample: _Sample
) -> None:
    stored, decoded, rows = Sha256Counter(), Sha256Counter(), 0
    pieces = _counted(session.store.read_blocks(encoded.key), stored)
    reader = KeyReader(shape.key, [column.name for column in shape.columns])
    with _named(encoded):
        for block in whole_lines(decode_jsonl(pieces)):
            decoded.update(block)
            found = reader.read(block)
            count = found.num_rows
            _require(found.equals(keys.slice(rows, count)), encoded, "its keys are not those that were extracted")
            sample.pick(block, rows, count)
            rows += count
    _require(stored.hexdigest() == encoded.object_sha256, encoded, "its bytes are not those that were sent")
    _require(
        decoded.hexdigest() == encoded.extracted.rows_sha256,
        encoded,
        "its rows are not those that were extracted",
    )
    _require(rows == encoded.extracted.rows, encoded, f"it holds {rows} rows instead of {encoded.extracted.rows}")


def _verify_parquet(
    session: ArchiveSession, shape: TableShape, encoded: EncodedBatch, keys: pa.Table, sample: _Sample
) -> None:
    extracted = encoded.extracted
    read_back = encoded.object_path.with_suffix(".readback")
    stored, rows = Sha256Counter(), 0
    with read_back.open("wb") as file:
        for piece in _counted(session.store.read_blocks(encoded.key), stored):
            file.write(piece)
    _require(stored.hexdigest() == encoded.object_sha256, encoded, "its bytes are not those that were sent")
    groups = verify_parquet(
        read_back, extracted.rows_path, shape.columns, longest_row_bytes=extracted.longest_row_bytes
    )
    with _named(encoded):
        for table in groups:
            found = table.select(keys.column_names).cast(keys.schema)
            _require(found.equals(keys.slice(rows, table.num_rows)), encoded, "its keys are not those extracted")
            rows += table.num_rows
    _require(rows == extracted.rows, encoded, f"it holds {rows} rows instead of {extracted.rows}")
    _sample_staged_rows(extracted.rows_path, extracted.rows_sha256, encoded, sample)
    read_back.unlink()
    extracted.rows_path.unlink()


def _sample_staged_rows(rows_path: Path, rows_sha256: str, encoded: EncodedBatch, sample: _Sample) -> None:
    """Sample the staged rows that the object was just proved equal to, and prove that they are the extracted ones."""
    staged, rows = Sha256Counter(), 0
    with rows_path.open("rb") as file:
        for block in whole_lines(iter(lambda: file.read(4 << 20), b"")):
            staged.update(block)
            count = block.count(b"\n")
            sample.pick(block, rows, count)
            rows += count
    _require(staged.hexdigest() == rows_sha256, encoded, "the staged rows changed on disk")


def _compare_with_live_rows(
    session: ArchiveSession, shape: TableShape, encoded: EncodedBatch, versions: pa.Table, sample: _Sample
) -> int:
    """How many sampled rows are no longer live as they were; raises when a live one differs from the object."""
    if not sample.lines:
        return 0
    positions = sorted(sample.lines)
    with session.connections.take() as connection:
        live = fetch_live_rows(connection, shape, versions.take(pa.array(positions)))
    for position, text in zip(positions, live, strict=True):
        same = text is None or text.encode() == sample.lines[position]
        _require(same, encoded, f"row {position} differs from the live row")
    return live.count(None)


def _random_positions(rows: int, count: int) -> list[int]:
    return sorted(random.sample(range(rows), min(rows, count)))


def _counted(pieces: Iterable[bytes], counter: Sha256Counter) -> Iterator[bytes]:
    for piece in pieces:
        counter.update(piece)
        yield piece


@contextmanager
def _named(encoded: EncodedBatch) -> Iterator[None]:
    """Name the object in errors that come from decoding it."""
    try:
        yield
    except VerificationError as error:
        if error.hint is not None:
            raise
        raise VerificationError(f"{encoded.key}: {error.message}", hint=_HINT) from error


_HINT = "nothing was deleted; look at the store, then run again: the rows are taken anew under another key"


def _require(holds: bool, encoded: EncodedBatch, problem: str) -> None:
    if not holds:
        raise VerificationError(f"{encoded.key}: {problem}", hint=_HINT)
