"""How the engine tells that work goes on, without knowing who listens."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from archiver_pipeline.domain.table import TableName
from archiver_pipeline.errors import ArchiverError

if TYPE_CHECKING:
    from archiver_pipeline.domain.batch import SettledBatch
    from archiver_pipeline.domain.fallback import KeptBatch
    from archiver_pipeline.domain.restore import RestoreReport
    from archiver_pipeline.domain.validation import ValidationReport
    from archiver_pipeline.engine.report import ArchiveReport


@dataclass(frozen=True, slots=True)
class BatchStep:
    """One batch that a step has finished, as far as the step knows it. `size_bytes` is of what the step handled.

    Never a row: numbers, and the names of things that hold rows.
    """

    rows: int
    size_bytes: int
    window_key: str | None = None
    batch_id: str | None = None
    key: str | None = None


class Progress(Protocol):
    """Receives steps and finished batches, from many threads. Inherit from SilentProgress to listen to a part."""

    def of_run(self, run_id: str) -> "Progress":
        """The listener of what one run's session tells; a listener that tells runs apart gives one of its own."""
        ...

    def step_started(self, table: TableName, step: str, batches: int, rows: int) -> None:
        """`rows` is the number of rows the step will see, as far as it is known."""
        ...

    def batch_finished(self, table: TableName, step: str, batch: BatchStep) -> None: ...

    def batch_settled(self, table: TableName, batch: "SettledBatch") -> None:
        """A batch has come to its end: deleted, absent or superseded, the last with its reason."""
        ...

    def batch_kept(self, table: TableName, batch: "KeptBatch") -> None:
        """The store did not take a batch; it is on the local disk now, and its rows stay in the table."""
        ...

    def batch_left_kept(self, table: TableName, batch: "KeptBatch") -> None:
        """A batch that an earlier run kept was not uploaded this time either."""
        ...

    def reclaim_told(self, table: TableName, text: str) -> None:
        """The table is being written anew, and this is what the program that does it says; never row content."""
        ...

    def step_finished(self, table: TableName, step: str, seconds: float) -> None: ...

    def archive_reported(self, report: "ArchiveReport") -> None: ...

    def restore_reported(self, report: "RestoreReport") -> None: ...

    def validation_reported(self, report: "ValidationReport") -> None: ...

    def archive_paused(self, table: TableName, step: str, reason: str) -> None:
        """No batch of a step begins until the database has less to do; the reason is for people."""
        ...

    def archive_resumed(self, table: TableName, step: str, seconds: float) -> None:
        """Batches begin again, after a pause of so many seconds."""
        ...

    def outside_hours(self, table: TableName, reason: str) -> None:
        """Rows are due and no run was begun, because this is outside the table's allowed hours."""
        ...

    def lock_awaited(self, table: TableName, error: ArchiverError, wait_seconds: float) -> None:
        """Another run holds the table's lock; it is asked for again after the wait."""
        ...

    def step_retrying(self, table: TableName, error: ArchiverError, wait_seconds: float) -> None: ...

    def archive_failed(self, table: TableName, error: ArchiverError) -> None: ...


class SilentProgress:
    """Listens to nothing."""

    def of_run(self, run_id: str) -> Progress:
        return self

    def step_started(self, table: TableName, step: str, batches: int, rows: int) -> None:
        pass

    def batch_finished(self, table: TableName, step: str, batch: BatchStep) -> None:
        pass

    def batch_settled(self, table: TableName, batch: "SettledBatch") -> None:
        pass

    def batch_kept(self, table: TableName, batch: "KeptBatch") -> None:
        pass

    def batch_left_kept(self, table: TableName, batch: "KeptBatch") -> None:
        pass

    def reclaim_told(self, table: TableName, text: str) -> None:
        pass

    def step_finished(self, table: TableName, step: str, seconds: float) -> None:
        pass

    def archive_reported(self, report: "ArchiveReport") -> None:
        pass

    def restore_reported(self, report: "RestoreReport") -> None:
        pass

    def validation_reported(self, report: "ValidationReport") -> None:
        pass

    def archive_paused(self, table: TableName, step: str, reason: str) -> None:
        pass

    def archive_resumed(self, table: TableName, step: str, seconds: float) -> None:
        pass

    def outside_hours(self, table: TableName, reason: str) -> None:
        pass

    def lock_awaited(self, table: TableName, error: ArchiverError, wait_seconds: float) -> None:
        pass

    def step_retrying(self, table: TableName, error: ArchiverError, wait_seconds: float) -> None:
        pass

    def archive_failed(self, table: TableName, error: ArchiverError) -> None:
        pass


class Listeners:
    """Tells several listeners the same, in order."""

    def __init__(self, *listeners: Progress) -> None:
        self._listeners = listeners

    def of_run(self, run_id: str) -> Progress:
        return Listeners(*(one.of_run(run_id) for one in self._listeners))

    def step_started(self, table: TableName, step: str, batches: int, rows: int) -> None:
        for one in self._listeners:
            one.step_started(table, step, batches, rows)

    def batch_finished(self, table: TableName, step: str, batch: BatchStep) -> None:
        for one in self._listeners:
            one.batch_finished(table, step, batch)

    def batch_settled(self, table: TableName, batch: "SettledBatch") -> None:
        for one in self._listeners:
            one.batch_settled(table, batch)

    def batch_kept(self, table: TableName, batch: "KeptBatch") -> None:
        for one in self._listeners:
            one.batch_kept(table, batch)

    def batch_left_kept(self, table: TableName, batch: "KeptBatch") -> None:
        for one in self._listeners:
            one.batch_left_kept(table, batch)

    def reclaim_told(self, table: TableName, text: str) -> None:
        for one in self._listeners:
            one.reclaim_told(table, text)

    def step_finished(self, table: TableName, step: str, seconds: float) -> None:
        for one in self._listeners:
            one.step_finished(table, step, seconds)

    def archive_reported(self, report: "ArchiveReport") -> None:
        for one in self._listeners:
            one.archive_reported(report)

    def restore_reported(self, report: "RestoreReport") -> None:
        for one in self._listeners:
            one.restore_reported(report)

    def validation_reported(self, report: "ValidationReport") -> None:
        for one in self._listeners:
            one.validation_reported(report)

    def archive_paused(self, table: TableName, step: str, reason: str) -> None:
        for one in self._listeners:
            one.archive_paused(table, step, reason)

    def archive_resumed(self, table: TableName, step: str, seconds: float) -> None:
        for one in self._listeners:
            one.archive_resumed(table, step, seconds)

    def outside_hours(self, table: TableName, reason: str) -> None:
        for one in self._listeners:
            one.outside_hours(table, reason)

    def lock_awaited(self, table: TableName, error: ArchiverError, wait_seconds: float) -> None:
        for one in self._listeners:
            one.lock_awaited(table, error, wait_seconds)

    def step_retrying(self, table: TableName, error: ArchiverError, wait_seconds: float) -> None:
        for one in self._listeners:
            one.step_retrying(table, error, wait_seconds)

    def archive_failed(self, table: TableName, error: ArchiverError) -> None:
        for one in self._listeners:
            one.archive_failed(table, error)
