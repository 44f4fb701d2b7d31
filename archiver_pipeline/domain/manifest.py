"""The documents that stand beside a data object: manifest (intent), receipt (proof), superseded (void); and those that
follow when its own retention is over: expiry (intent), expired (receipt).

And one that stands beside an object on the local disk, before it has any of these.
"""

from dataclasses import dataclass

from archiver_pipeline.domain.batch import Outcome

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class ManifestColumn:
    """One column as it was archived: its PostgreSQL type and how its value is written."""

    name: str
    type: str
    not_null: bool
    rendering: str


@dataclass(frozen=True, slots=True)
class ManifestLeaf:
    """The native partition that all rows of a batch were in, and what makes it anew: `bound` is PostgreSQL's text."""

    schema: str
    table: str
    oid: int
    parent_schema: str
    parent_table: str
    bound: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Intent to delete, written before any delete.

    `keys` holds one list per key column, all in the data object's row order. `xmin_runs` is the run-length form of
    the rows' xmin in the same order: [xmin, rows]. (key, xmin) names one committed row version.
    `window_start` is inclusive, `window_end` and `cutoff` are exclusive; all times are UTC, ISO 8601.
    `leaf` is left out of the document when it is None: the table is not archived leaf by leaf.
    """

    format_version: int
    batch_id: str
    attempt_id: str
    run_id: str
    software: str
    database: str
    schema: str
    table: str
    system_identifier: str
    timestamp_column: str
    primary_key: list[str]
    window: str
    window_start: str
    window_end: str
    window_open_start: bool
    cutoff: str
    extracted_at: str
    first_row_time: str
    last_row_time: str
    format: str
    data_key: str
    rows: int
    rows_bytes: int
    rows_sha256: str
    object_bytes: int
    object_sha256: str
    storage_class: str
    columns: list[ManifestColumn]
    keys: list[list[int | str]]
    xmin_runs: list[list[int]]
    leaf: ManifestLeaf | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that none of the batch's row versions is in the table, written after the delete committed."""

    format_version: int
    batch_id: str
    data_key: str
    manifest_sha256: str
    object_sha256: str
    rows: int
    rows_bytes: int
    object_bytes: int
    first_row_time: str
    last_row_time: str
    outcome: Outcome
    settled_by: str
    run_id: str
    settled_at: str


@dataclass(frozen=True, slots=True)
class Superseded:
    """Mark that a batch will never be deleted from the table: its data object proves nothing and holds no last copy."""

    format_version: int
    batch_id: str
    data_key: str
    manifest_sha256: str
    reason: str
    settled_by: str
    run_id: str
    settled_at: str


@dataclass(frozen=True, slots=True)
class ExpiryIntent:
    """Intent to remove a batch's data object and manifest, written before either is.

    `receipt_sha256` is of the receipt as it is stored; all else of the batch is in the receipt, which stays.
    `archive_retention_days` is the rule, `reason` its words for this batch. `requested_by` is an account and a machine.
    Times are UTC, ISO 8601, by the source's clock.
    """

    format_version: int
    batch_id: str
    data_key: str
    receipt_sha256: str
    archive_retention_days: int
    reason: str
    requested_by: str
    run_id: str
    intended_at: str


@dataclass(frozen=True, slots=True)
class Expired:
    """Receipt of expiry: when it was written, the store had no version of the data object and the manifest any more.

    `expiry_sha256` is of the intent as it is stored. `removed_versions` counts what the last try removed, delete
    markers included: 0 or less than there were when earlier tries were interrupted.
    """

    format_version: int
    batch_id: str
    data_key: str
    receipt_sha256: str
    expiry_sha256: str
    rows: int
    object_bytes: int
    removed_versions: int
    run_id: str
    expired_at: str


@dataclass(frozen=True, slots=True)
class KeptDocument:
    """What stands beside a kept data object: the manifest it will get, with the row versions, and why it is kept.

    `manifest_sha256` is of the manifest as it is encoded for the store; it proves that this document is whole.
    """

    format_version: int
    kept_at: str
    reason: str
    manifest_sha256: str
    manifest: Manifest
