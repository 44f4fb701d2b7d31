"""Parts of the proof of one object: a Parquet file against the staged rows, a random sample against the live rows."""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pyarrow as pa

from archiver_pipeline.codec.hashing import Sha256Counter, sha256_hex
from archiver_pipeline.codec.jsonl import decode_jsonl, whole_lines
from archiver_pipeline.codec.parquet import verify_parquet
from archiver_pipeline.codec.rows import lines_at
from archiver_pipeline.domain.batch import EncodedBatch
from archiver_pipeline.domain.layout import DataFormat
from archiver_pipeline.domain.manifest import Manifest
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.engine.archived import blocks_of
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import VerificationError
from archiver_pipeline.postgres.sample import LiveRow, fetch_live_rows

_HINT = "nothing was deleted; look at the store, then run again: the rows are taken anew under another key"


@dataclass
class Sample:
    """Lines picked at random out of what was read back, by row position."""

    positions: Sequence[int]
    lines: dict[int, bytes] = field(default_factory=dict)
    long_lines: dict[int, str] = field(default_factory=dict)
    """Of lines that are too long to be kept the SHA-256."""

    @classmethod
    def of(cls, rows: int, count: int) -> "Sample":
        """A sample of at most `count` of so many rows, none picked yet."""
        return cls(sorted(random.sample(range(rows), min(rows, count))))

    def pick(self, rows: bytes, first_position: int, count: int) -> None:
        """Keep the sampled lines of a block that begins at row `first_position`."""
        wanted = [position for position in self.positions if first_position <= position < first_position + count]
        if not wanted:
            return
        found = lines_at(rows, [position - first_position for position in wanted])
        self.lines.update(zip(wanted, found, strict=True))

    def pick_long(self, sha256: str, position: int) -> None:
        """Keep the hash of a long line when it is in the sample."""
        if position in self.positions:
            self.long_lines[position] = sha256

    @property
    def picked(self) -> list[int]:
        """The positions that have been picked, in order."""
        return sorted([*self.lines, *self.long_lines])

    def is_same(self, position: int, live: LiveRow) -> bool:
        """Whether a picked line is the live row: byte for byte, or by their hashes where either is long."""
        line = self.lines.get(position)
        if line is not None and live.text is not None:
            return line == live.text
        mine = self.long_lines.get(position) if line is None else sha256_hex(line)
        return mine == (live.sha256 if live.text is None else sha256_hex(live.text))

    def pick_all(self, blocks: Iterable[bytes]) -> int:
        """Pick from all rows, in blocks of whole lines; returns how many rows there are."""
        rows = 0
        for block in blocks:
            count = block.count(b"\n")
            self.pick(block, rows, count)
            rows += count
        return rows


def prove_parquet(path: Path, shape: TableShape, encoded: EncodedBatch, keys: pa.Table, sample: Sample) -> None:
    """Hold a Parquet file value by value against the staged rows, and these against the extracted ones; pick a sample.

    Raises VerificationError.
    """
    extracted, rows = encoded.extracted, 0
    groups = verify_parquet(path, extracted.rows_path, shape.columns, longest_row_bytes=extracted.longest_row_bytes)
    with named(encoded.key):
        for table in groups:
            found = table.select(keys.column_names).cast(keys.schema)
            require(found.equals(keys.slice(rows, table.num_rows)), encoded.key, "its keys are not those extracted")
            rows += table.num_rows
    require(rows == extracted.rows, encoded.key, f"it holds {rows} rows instead of {extracted.rows}")
    _sample_staged_rows(extracted.rows_path, extracted.rows_sha256, encoded.key, sample)


def compare_with_live_rows(
    session: ArchiveSession, shape: TableShape, key: str, versions: pa.Table, sample: Sample
) -> int:
    """How many sampled rows are no longer live as they were; raises when a live one differs from the object.

    `versions` has xmin and key of every row of the object, in its order.
    """
    positions = sample.picked
    if not positions:
        return 0
    with session.connections.take() as connection:
        live = fetch_live_rows(connection, shape, versions.take(pa.array(positions)))
    for position, row in zip(positions, live, strict=True):
        require(row is None or sample.is_same(position, row), key, f"row {position} differs from the live row")
    return live.count(None)


def compare_stored_sample(
    session: ArchiveSession, shape: TableShape, manifest: Manifest, keys: pa.Table, file: IO[bytes]
) -> None:
    """Compare a random sample of a proved object with the live rows. JSON lines only: the values of a Parquet object
    are not the text that the database gives."""
    if manifest.format != DataFormat.jsonl_gz.value:
        return
    sample = Sample.of(manifest.rows, session.settings.verify_sample_rows)
    sample.pick_all(whole_lines(decode_jsonl(blocks_of(file))))
    compare_with_live_rows(session, shape, manifest.data_key, keys, sample)


@contextmanager
def named(key: str) -> Iterator[None]:
    """Name the object in errors that come from decoding it."""
    try:
        yield
    except VerificationError as error:
        if error.hint is not None:
            raise
        raise VerificationError(f"{key}: {error.message}", hint=_HINT) from error


def require(holds: bool, key: str, problem: str) -> None:
    if not holds:
        raise VerificationError(f"{key}: {problem}", hint=_HINT)


def _sample_staged_rows(rows_path: Path, rows_sha256: str, key: str, sample: Sample) -> None:
    """Sample the staged rows that the object was just proved equal to, and prove that they are the extracted ones."""
    staged = Sha256Counter()
    with rows_path.open("rb") as file:
        sample.pick_all(_counted(whole_lines(iter(lambda: file.read(4 << 20), b"")), staged))
    require(staged.hexdigest() == rows_sha256, key, "the staged rows changed on disk")


def _counted(blocks: Iterable[bytes], counter: Sha256Counter) -> Iterator[bytes]:
    for block in blocks:
        counter.update(block)
        yield block
