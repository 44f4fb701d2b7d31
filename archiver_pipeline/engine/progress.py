"""How the engine tells that work goes on, without knowing who listens."""

from typing import TYPE_CHECKING, Protocol

from archiver_pipeline.domain.table import TableName
from archiver_pipeline.errors import ArchiverError

if TYPE_CHECKING:
    from archiver_pipeline.domain.restore import RestoreReport
    from archiver_pipeline.domain.validation import ValidationReport
    from archiver_pipeline.engine.report import ArchiveReport


class Progress(Protocol):
    """Receives steps and finished batches. Called from many threads."""

    def step_started(self, table: TableName, step: str, batches: int, rows: int) -> None:
        """`rows` is the number of rows the step will see, as far as it is known."""
        ...

    def batch_finished(self, table: TableName, step: str, rows: int, size_bytes: int) -> None: ...

    def step_finished(self, table: TableName, step: str, seconds: float) -> None: ...

    def archive_reported(self, report: "ArchiveReport") -> None: ...

    def restore_reported(self, report: "RestoreReport") -> None: ...

    def validation_reported(self, report: "ValidationReport") -> None: ...

    def step_retrying(self, table: TableName, error: ArchiverError, wait_seconds: float) -> None: ...

    def archive_failed(self, table: TableName, error: ArchiverError) -> None: ...


class SilentProgress:
    """Listens to nothing."""

    def step_started(self, table: TableName, step: str, batches: int, rows: int) -> None:
        pass

    def batch_finished(self, table: TableName, step: str, rows: int, size_bytes: int) -> None:
        pass

    def step_finished(self, table: TableName, step: str, seconds: float) -> None:
        pass

    def archive_reported(self, report: "ArchiveReport") -> None:
        pass

    def restore_reported(self, report: "RestoreReport") -> None:
        pass

    def validation_reported(self, report: "ValidationReport") -> None:
        pass

    def step_retrying(self, table: TableName, error: ArchiverError, wait_seconds: float) -> None:
        pass

    def archive_failed(self, table: TableName, error: ArchiverError) -> None:
        pass
