"""Rows of a pending batch that were written anew: pg_repack, pg_squeeze, a reload, an UPDATE that changes nothing.

They are other row versions, under another xmin, and still the very rows of the batch.
"""

from collections.abc import Callable
from typing import IO

from archiver_pipeline.codec.jsonl import decode_jsonl
from archiver_pipeline.codec.parquet import decode_parquet
from archiver_pipeline.domain.layout import DataFormat
from archiver_pipeline.domain.manifest import Manifest
from archiver_pipeline.domain.restore import SchemaStrategy
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.engine.archived import blocks_of, proved_object
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ManifestError
from archiver_pipeline.postgres.connection import Connection, source_errors
from archiver_pipeline.postgres.copy_in import count_unchanged, stage_columns, stage_lines
from archiver_pipeline.postgres.landing import Landing, plan_landing
from archiver_pipeline.postgres.target import inspect_compared


class PartlyRewrittenError(ManifestError):
    """Some rows of a pending batch are in the table as they were archived, under another xmin, and the others are not.
    A receipt would double those, a superseded mark might lose these: nothing was written."""


def are_rewritten(
    session: ArchiveSession, shape: TableShape, manifest: Manifest, count_keys: Callable[[], int]
) -> bool:
    """Whether the rows of a batch, none of which is there in the version that was read, are all in the table with equal
    values. The object is read only when `count_keys` finds any key of the batch in the table.

    Raises PartlyRewrittenError when only some are, and what `proved_object` does. Inside `DeleteSession.settle`, whose
    lock on the table keeps it from being rewritten meanwhile.
    """
    if not count_keys():
        return False
    found = _count_rewritten(session, shape, manifest)
    if 0 < found < manifest.rows:
        raise PartlyRewrittenError(
            f"{manifest.data_key}: {found} of its {manifest.rows} rows are in the table, written anew since they were"
            " read, as pg_repack does; the others were changed or are gone, and may be in this object only",
            hint="keep this object, and see docs/disk-space.md, section pg_repack by hand",
        )
    return found == manifest.rows


def _count_rewritten(session: ArchiveSession, shape: TableShape, manifest: Manifest) -> int:
    with (
        session.connections.take() as connection,
        source_errors(session.primary),
        proved_object(session.store, manifest) as file,
        connection.transaction(force_rollback=True),
    ):
        target = inspect_compared(connection, shape.name)
        landing = plan_landing(connection, target, manifest, SchemaStrategy.lenient)
        _stage(connection, landing, file)
        return count_unchanged(connection, landing)


def _stage(connection: Connection, landing: Landing, file: IO[bytes]) -> None:
    if landing.format is DataFormat.jsonl_gz:
        stage_lines(connection, decode_jsonl(blocks_of(file)))
    else:
        stage_columns(connection, landing, decode_parquet(file))
