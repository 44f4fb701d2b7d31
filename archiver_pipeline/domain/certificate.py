"""Deletion certificates: what is known of archived rows, and whether it verifies now."""

from dataclasses import dataclass
from enum import StrEnum

from archiver_pipeline.domain.audit import Actor
from archiver_pipeline.domain.table import TableName


class CertifiedState(StrEnum):
    """Where the rows of a batch are."""

    archived = "archived"
    """Out of the table, in the object."""
    expired = "expired"
    """Out of the table, and out of the store: the archive's own retention was over."""
    pending = "pending"
    """Not decided: a run was interrupted, or is at work."""
    superseded = "superseded"
    """In the table, or in another batch: this one is void."""
    lost = "lost"
    """Nothing in the store says where they are."""


class CheckOutcome(StrEnum):
    """How a check ended. Only `failed` makes a certificate invalid."""

    passed = "passed"
    failed = "failed"
    not_possible = "not possible"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified for the certificate, now."""

    what: str
    outcome: CheckOutcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CertifiedRow:
    """One row version of the batch. `key` and `xmin` name it; `row_number` counts from 1 within the object.

    `row_sha256` is of the row's line without the newline, for JSON lines; None where it was not read or is Parquet.
    """

    key: dict[str, int | str]
    xmin: int
    row_number: int
    row_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """A restore of the batch since. `rows` were inserted or updated; of `filtered_rows` none."""

    at: str
    target: str
    rows: int
    filtered_rows: int
    run_id: str


@dataclass(frozen=True, slots=True)
class TrailPlace:
    """The audit trail's entry of the batch: in which link, and the SHA-256 of that link's bytes."""

    sequence: int
    link_sha256: str
    entry_id: str
    at: str
    key: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is certified of one batch, or of one row in it. Times are UTC, ISO 8601; empty where nothing tells.

    `archived_at` is when the rows were read, `deleted_at` when it was settled that they left the table, both by the
    database's clock. `stored` is what the store says of the data object.
    """

    table: TableName
    state: CertifiedState
    batch_id: str
    window: str
    window_start: str
    window_end: str
    cutoff: str
    retention_days: int | None
    rows: int
    first_row_time: str
    last_row_time: str
    archived_at: str
    deleted_at: str
    outcome: str
    settled_by: str
    archived_by_run: str
    deleted_by_run: str
    who: Actor | None
    software: str
    bucket: str
    data_key: str
    stored: dict[str, str]
    object_bytes: int
    object_sha256: str
    rows_sha256: str
    manifest_sha256: str
    receipt_sha256: str
    trail: TrailPlace | None
    row: CertifiedRow | None
    restored: tuple[Restored, ...]
    checks: tuple[Check, ...]
    remarks: tuple[str, ...] = ()

    @property
    def verifies(self) -> bool:
        """Whether every check that was possible passed, and the rows are where a deletion leaves them."""
        is_deleted = self.state in (CertifiedState.archived, CertifiedState.expired)
        return is_deleted and all(check.outcome is not CheckOutcome.failed for check in self.checks)
