"""Row versions on local disk: an Arrow IPC file with ctid, xmin and the key columns, in the rows' order."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

CTID = "_ctid"
XMIN = "_xmin"
TABLEOID = "_tableoid"
SYSTEM_COLUMNS = (TABLEOID, CTID, XMIN)


def read_versions(path: Path) -> pa.Table:
    """All row versions of a batch: `_tableoid`, `_ctid` ('(block,offset)'), `_xmin`, then the key columns."""
    with pa.OSFile(str(path), "rb") as source, pa.ipc.open_file(source) as reader:
        return reader.read_all()


@contextmanager
def versions_writer(path: Path, schema: pa.Schema) -> Iterator[pa.ipc.RecordBatchFileWriter]:
    """A writer for versions that arrive a record batch at a time."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        yield writer


def keys_of_versions(versions: pa.Table) -> pa.Table:
    return versions.drop_columns(list(SYSTEM_COLUMNS))


def xmin_runs(versions: pa.Table) -> list[list[int]]:
    """The rows' xmin as runs [xmin, rows], in row order."""
    encoded = pc.run_end_encode(versions[XMIN].combine_chunks(), run_end_type=pa.int64())
    array = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    ends = [0, *array.run_ends.to_pylist()]
    lengths = [after - before for before, after in pairwise(ends)]
    return [[value, length] for value, length in zip(array.values.to_pylist(), lengths, strict=True)]


def expand_xmin_runs(runs: list[list[int]]) -> pa.Array:
    """The inverse of `xmin_runs`: one xmin per row."""
    values = pa.array([run[0] for run in runs], pa.int64())
    positions = pa.array([index for index, run in enumerate(runs) for _ in range(run[1])], pa.int64())
    return values.take(positions)
