"""What an expiry of archives would do and did: the words of a plan and its outcomes."""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from archiver_pipeline.domain.table import TableName


@dataclass(frozen=True, slots=True)
class ExpiringArchive:
    """An archive whose own retention is over, or whose removal was begun.

    `blocked` says why it stays all the same; empty when it may go. `is_unfinished` when an earlier try left an intent.
    `rows` and times are the receipt's, 0 and empty when that can't be read.
    """

    stem: str
    window_key: str
    batch_id: str
    data_key: str
    rows: int
    object_bytes: int
    first_row_time: str
    last_row_time: str
    blocked: str = ""
    is_unfinished: bool = False


@dataclass(frozen=True, slots=True)
class ExpiryPlan:
    """What of one table's archives may go at `now`, the time of the source's clock.

    `archive_retention_days` None keeps every archive for ever. `before` is the day (UTC) before which the last row of
    an archive must be, None for any. `younger` archives are not old enough, or not of these days.
    """

    table: TableName
    now: datetime
    archive_retention_days: int | None
    before: date | None
    archives: tuple[ExpiringArchive, ...]
    younger: int

    @property
    def ready(self) -> tuple[ExpiringArchive, ...]:
        """Those that nothing is in the way of."""
        return tuple(archive for archive in self.archives if not archive.blocked)

    @property
    def blocked(self) -> tuple[ExpiringArchive, ...]:
        return tuple(archive for archive in self.archives if archive.blocked)


class ExpiryOutcome(StrEnum):
    """What became of one archive."""

    expired = "expired"
    """No version of its data object and manifest is in the store any more."""
    blocked = "blocked"
    """It is whole; the reason says what is in the way."""
    unfinished = "unfinished"
    """Its removal was begun, and the store refused the rest."""


@dataclass(frozen=True, slots=True)
class SettledExpiry:
    """One archive after an expiry was applied. `removed_versions` counts delete markers too."""

    archive: ExpiringArchive
    outcome: ExpiryOutcome
    reason: str = ""
    removed_versions: int = 0
