"""The audit trail: per table a chain of links, each of which carries the hash of the one before it.

A link is one object in the store and holds one entry or several. What a link says can be changed only together with
every link after it; whoever keeps a hash of the last link somewhere else (an anchor) sees even that.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from archiver_pipeline.domain.table import TableName

AUDIT_FORMAT_VERSION = 1
FIRST_PREVIOUS = "none"
"""What the first link of a chain has instead of its predecessor's SHA-256."""
NO_CONFIGURATION = "unknown"
"""`configuration_sha256` until somebody who knows the table's configuration has written."""

Fact: TypeAlias = "str | int | float | bool | list[Fact] | dict[str, Fact] | None"
"""A value that JSON can hold."""


class AuditKind(StrEnum):
    """What an entry tells of."""

    plan = "plan"
    """What a run is about to archive or to settle; written before any row is deleted."""
    batch = "batch"
    """How a batch ended; written after its delete has committed, before its receipt or mark."""
    report = "report"
    """What a run did, in totals."""
    restore = "restore"
    """A restore that begins, one object of it, or its totals."""
    validation = "validation"
    """What a validation looked at, and how much it found."""
    repair = "repair"
    """What a validation was told to remove."""
    hold = "hold"
    """Legal holds in force when something was decided, and what stayed because of them."""
    hold_mirrored = "hold_mirrored"
    """A hold on the whole table was put on its archives by the store's own means."""
    refusal = "refusal"
    """An error that stopped a table."""
    override = "override"
    """Somebody set a rule aside, and said why."""
    configuration = "configuration"
    """The table's effective settings, without secrets, because they are not those of the link before."""
    leaf = "leaf"
    """A native partition whose rows are all archived: about to be dropped, dropped, or not dropped after all."""
    expiry = "expiry"
    """Archives whose own retention is over: planned to be removed, or removed."""


class BatchFate(StrEnum):
    """How a batch ended, as an entry of kind batch tells it."""

    deleted = "deleted"
    """Its delete committed."""
    absent = "absent"
    """A crash was settled: none of its row versions was in the table any more."""
    superseded = "superseded"
    """It is void: its rows are taken by a later batch."""
    abandoned = "abandoned"
    """It never had a manifest, and nothing refers to its object."""
    kept = "kept"
    """The store did not take it; it is kept on the local disk, and its rows are in the table."""

    @property
    def is_archived(self) -> bool:
        """Whether a receipt follows."""
        return self in (BatchFate.deleted, BatchFate.absent)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who: the account on the machine, at the database and at the store, and the process.

    `actor` is what ARCHIVER_ACTOR says, for a person behind a shared account. `store_identity` names an access key by
    its id, never its secret. `run_id` is Dagster's, or a word for what needs none.
    """

    os_user: str
    host: str
    pid: int
    database_role: str
    store_identity: str
    run_id: str
    command: str
    job: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing that happened. `at` is UTC by the writer's clock, ISO 8601 with microseconds; `entry_id` is random.

    `facts` depend on the kind (docs/audit-trail.md). They hold no row, no secret, and of keys only the store's.
    """

    entry_id: str
    kind: AuditKind
    at: str
    who: Actor
    software: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AuditLink:
    """One object of the chain. `previous_sha256` is of the bytes of the object before, as they are stored.

    `configuration_sha256` is of the table's settings in force (canonical JSON); `configuration_sequence` is the link
    whose entry of kind configuration holds them, 0 for none.
    """

    format_version: int
    sequence: int
    previous_sha256: str
    database: str
    schema: str
    table: str
    configuration_sha256: str
    configuration_sequence: int
    entries: list[AuditEntry]

    @property
    def name(self) -> TableName:
        return TableName(self.database, self.schema, self.table)


@dataclass(frozen=True, slots=True)
class AuditHead:
    """Where a chain ends: sequence and SHA-256 of the last link's bytes. Sequence 0 is an empty chain."""

    sequence: int
    sha256: str
    configuration_sha256: str = NO_CONFIGURATION
    configuration_sequence: int = 0


EMPTY_TRAIL = AuditHead(0, FIRST_PREVIOUS)


def changes_between(before: dict[str, Fact], after: dict[str, Fact], path: str = "") -> dict[str, list[Fact]]:
    """What differs between two configurations: the dotted path of each value, with [before, after]; None is absent."""
    changes: dict[str, list[Fact]] = {}
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changes |= changes_between(old, new, f"{path}{key}.")
        elif old != new:
            changes[f"{path}{key}"] = [old, new]
    return changes


class TrailFindingKind(StrEnum):
    """What can be wrong with a trail, or between it and the archives."""

    changed = "changed"
    """A link is not the one that the next was chained to."""
    missing = "missing"
    """A link before the last is not there."""
    reordered = "reordered"
    """A link lies under another's key."""
    inserted = "inserted"
    """An object that is no link of this table."""
    unreadable = "unreadable"
    """A link that is none, or of an unknown version."""
    truncated = "truncated"
    """The chain ends before a link that an anchor names."""
    rewritten = "rewritten"
    """A link is another than the one that an anchor names."""
    untold = "untold"
    """A receipt or mark that no entry tells of, or tells otherwise."""
    unproven = "unproven"
    """An entry says that rows left the table, and the receipt is not there."""
    gone = "gone"
    """The data object of archived rows is not there, and no entry tells of its expiry."""


@dataclass(frozen=True, slots=True)
class TrailFinding:
    """One thing found. `subject` is the key of the object that it is about."""

    kind: TrailFindingKind
    subject: str
    sequence: int | None
    message: str


@dataclass(frozen=True, slots=True)
class TrailAnchor:
    """A head of a chain as it was noted elsewhere: what the link of this sequence must still be."""

    name: TableName
    sequence: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TrailReport:
    """What the verification of one table's trail saw. `anchors` were held against it; `notes` are for people."""

    table: TableName
    links: int
    entries: int
    head: AuditHead
    receipts: int
    anchors: int
    findings: tuple[TrailFinding, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def is_clean(self) -> bool:
        return not self.findings
