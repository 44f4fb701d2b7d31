"""Whether a table's columns are still those of its newest archive."""

from collections.abc import Sequence

from archiver_pipeline.domain.drift import Drift, compare_columns
from archiver_pipeline.domain.layout import BatchState, StoredBatch
from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.engine.archived import list_stored, read_manifest
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ManifestError, PreflightError
from archiver_pipeline.storage.s3 import ObjectMissingError

_ACCEPT = "look whether it was meant; to accept it, run this table once with fail_on_schema_drift: false"


def require_known_columns(session: ArchiveSession, shape: TableShape, listed: Sequence[StoredBatch]) -> tuple[str, ...]:
    """How the columns differ from the newest archive's, as warnings; none without an archive.

    Raises PreflightError instead where `fail_on_schema_drift` asks for it, and ManifestError or StoreError when it
    can't be told there; where it does not ask, that is a warning as well.
    """
    try:
        drift = drift_since_newest(session, shape, listed)
    except (ManifestError, ObjectMissingError) as error:
        if session.settings.fail_on_schema_drift:
            raise
        return (f"whether columns changed since the newest archive is unknown: {error.message}",)
    if not drift:
        return ()
    if session.settings.fail_on_schema_drift:
        raise PreflightError(f"{shape.name}: {_told(drift)}", hint=_ACCEPT)
    return (_told(drift),)


def drift_warnings(session: ArchiveSession, shape: TableShape) -> tuple[str, ...]:
    """As `require_known_columns`, for those who only look: a refusal is a warning as well."""
    try:
        return require_known_columns(session, shape, list_stored(session.store, shape.name))
    except (PreflightError, ManifestError, ObjectMissingError) as refusal:
        return (f"a run is refused: {refusal}",)


def drift_since_newest(session: ArchiveSession, shape: TableShape, listed: Sequence[StoredBatch]) -> Drift | None:
    """The drift from the receipted batch that was written last, by the store's clock and to its second, to the table;
    one manifest is read. None without one.

    Raises ManifestError or ObjectMissingError when that manifest can't be read.
    """
    receipted = [batch for batch in listed if batch.state is BatchState.receipted]
    if not receipted:
        return None
    newest = max(receipted, key=lambda batch: (batch.modified_at, batch.stem))
    manifest = read_manifest(session.store, newest.stem)
    return compare_columns(manifest.columns, {column.name: column.type for column in shape.columns})


def _told(drift: Drift) -> str:
    return f"columns changed since the newest archive: {drift}"
