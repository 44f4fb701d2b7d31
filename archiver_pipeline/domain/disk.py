"""What a table takes on disk, how much of that is free inside its files, and what giving it back did or would do."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from archiver_pipeline.domain.table import TableName

_SHOWN_RELATIONS = 5
_GUESSED_BYTES_PER_SECOND = 50_000_000
"""How fast a table is written anew: assumed, not measured, for a guess of how long that takes."""


class RelationKind(StrEnum):
    """What a relation is for: rows, long values with their index, or an index."""

    heap = "heap"
    toast = "toast"
    index_ = "index"


@dataclass(frozen=True, slots=True)
class RelationSpace:
    """One relation. `size_bytes` is of all its files; `free_bytes` is what a rewrite would leave out, None where nobody
    knows. `method` says how that was found."""

    name: str
    kind: RelationKind
    size_bytes: int
    free_bytes: int | None
    method: str

    @property
    def is_estimate(self) -> bool:
        return self.method == ESTIMATE


ESTIMATE = "estimate"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LeafSpace:
    """A table, or a partition that has no partitions, with its indexes and long values."""

    name: TableName
    relations: tuple[RelationSpace, ...]

    @property
    def size_bytes(self) -> int:
        return sum(relation.size_bytes for relation in self.relations)

    @property
    def free_bytes(self) -> int:
        return sum(relation.free_bytes or 0 for relation in self.relations)

    @property
    def free_ratio(self) -> float:
        return self.free_bytes / self.size_bytes if self.size_bytes else 0.0


@dataclass(frozen=True, slots=True)
class TableSpace:
    """All leaves of a table; one that is not partitioned is its only leaf."""

    leaves: tuple[LeafSpace, ...]

    @property
    def size_bytes(self) -> int:
        return sum(leaf.size_bytes for leaf in self.leaves)

    @property
    def free_bytes(self) -> int:
        return sum(leaf.free_bytes for leaf in self.leaves)

    @property
    def free_ratio(self) -> float:
        """Share of the size, 0 to 1."""
        return self.free_bytes / self.size_bytes if self.size_bytes else 0.0

    @property
    def index_bytes(self) -> int:
        return sum(relation.size_bytes for relation in self._of(RelationKind.index_))

    @property
    def index_free_bytes(self) -> int:
        return sum(relation.free_bytes or 0 for relation in self._of(RelationKind.index_))

    @property
    def method(self) -> str:
        """How it was found, the ways in order; `estimate` among them means that the sum is one."""
        ways = {relation.method for leaf in self.leaves for relation in leaf.relations if relation.size_bytes}
        return ", ".join(sorted(ways)) or UNKNOWN

    @property
    def is_estimate(self) -> bool:
        return any(relation.is_estimate for leaf in self.leaves for relation in leaf.relations)

    def bloated(self, min_free_ratio: float, min_free_bytes: int) -> tuple[LeafSpace, ...]:
        """The leaves that are worth a rewrite: those with so large a share free, if all of them together have so many
        bytes free."""
        found = tuple(leaf for leaf in self.leaves if leaf.free_bytes and leaf.free_ratio >= min_free_ratio)
        return found if sum(leaf.free_bytes for leaf in found) >= min_free_bytes else ()

    def _of(self, kind: RelationKind) -> Iterable[RelationSpace]:
        return (relation for leaf in self.leaves for relation in leaf.relations if relation.kind is kind)


@dataclass(frozen=True, slots=True)
class Advice:
    """What somebody could do, and what it takes. Bytes and seconds are guesses."""

    command: str
    frees_bytes: int
    needs_bytes: int
    seconds: float
    lock: str

    def __str__(self) -> str:
        return (
            f"{self.command} would give about {_mb(self.frees_bytes)} back to the file system; it {self.lock}, for"
            f" about {self.seconds:,.0f} s, and needs about {_mb(self.needs_bytes)} free on the server's disk meanwhile"
        )


@dataclass(frozen=True, slots=True)
class Reclaim:
    """What was done to give disk back. `returned_bytes` is measured: all files of all relations of the table, before
    less after. `skipped` and `failed` say why in words, and are empty otherwise; `leaves` were written anew.
    """

    strategy: str
    returned_bytes: int = 0
    seconds: float = 0.0
    leaves: tuple[str, ...] = ()
    skipped: str = ""
    failed: str = ""

    def __str__(self) -> str:
        if self.failed:
            return f"{self.strategy}: failed: {self.failed}"
        if self.skipped:
            return f"{self.strategy}: not needed now: {self.skipped}"
        return f"{self.strategy}: {_mb(self.returned_bytes)} returned in {self.seconds:,.1f} s"


@dataclass(frozen=True, slots=True)
class DiskReport:
    """A table's files at the end of a run, before its reclaim. `most_free` are the relations with most to give back."""

    size_bytes: int
    free_bytes: int
    index_bytes: int
    index_free_bytes: int
    method: str
    is_estimate: bool
    most_free: tuple[RelationSpace, ...]
    advice: str = ""
    reclaim: Reclaim | None = None

    def __str__(self) -> str:
        about = "about " if self.is_estimate else ""
        return (
            f"{about}{_mb(self.free_bytes)} of {_mb(self.size_bytes)} are free inside its files, {about}"
            f"{_mb(self.index_free_bytes)} of {_mb(self.index_bytes)} in its indexes ({self.method})"
        )


def disk_report(space: TableSpace, advice: Advice | None, reclaim: Reclaim | None) -> DiskReport:
    """What people are told of a table's files."""
    relations = [one for leaf in space.leaves for one in leaf.relations if one.free_bytes]
    return DiskReport(
        size_bytes=space.size_bytes,
        free_bytes=space.free_bytes,
        index_bytes=space.index_bytes,
        index_free_bytes=space.index_free_bytes,
        method=space.method,
        is_estimate=space.is_estimate,
        most_free=tuple(sorted(relations, key=lambda one: -(one.free_bytes or 0))[:_SHOWN_RELATIONS]),
        advice=str(advice) if advice else "",
        reclaim=reclaim,
    )


def guessed_seconds(written_bytes: int) -> float:
    """How long a rewrite takes that leaves so many bytes."""
    return max(1.0, written_bytes / _GUESSED_BYTES_PER_SECOND)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1_000_000:,.1f} MB"
