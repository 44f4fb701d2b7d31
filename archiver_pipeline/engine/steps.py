"""What all steps share: walking over a plan's batches with checkpoints, progress and time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol, TypeVar

from archiver_pipeline.codec.checkpoints import read_checkpoint, write_checkpoint
from archiver_pipeline.domain.batch import EncodedBatch, ExtractedBatch, Plan
from archiver_pipeline.engine.progress import BatchStep
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.errors import ArchiverError, ResourcesError
from archiver_pipeline.postgres.connection import source_errors


class Staged(Protocol):
    """A batch in any form after extraction."""

    @property
    def extracted(self) -> ExtractedBatch: ...


Before = TypeVar("Before", bound=Staged)
After = TypeVar("After", bound=Staged)
Result = TypeVar("Result")


@dataclass
class Stopwatch:
    """Seconds of a step, by a monotonic counter."""

    seconds: float = 0.0


@contextmanager
def timed_step(session: ArchiveSession, step: str, batches: int, rows: int) -> Iterator[Stopwatch]:
    """Tell progress of the step and measure it."""
    watch = Stopwatch()
    session.progress.step_started(session.name, step, batches, rows)
    started = perf_counter()
    with _staging_errors(), source_errors(session.primary):
        yield watch
    session.close_workers()
    watch.seconds = perf_counter() - started
    session.progress.step_finished(session.name, step, watch.seconds)


@contextmanager
def _staging_errors() -> Iterator[None]:
    """Errors of the local disk are a lack of resources; drivers' errors never get here as OSError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourcesError(
            f"staging on the local disk failed: {reason}",
            hint="free space, lower max_staged_bytes, or set staging_dir to a larger disk",
        ) from error


def step_over_batches(
    session: ArchiveSession,
    plan: Plan,
    step: str,
    kind: type[After],
    batches: tuple[Before, ...],
    work: Callable[[Before], After],
    *,
    otherwise: Callable[[Before, ArchiverError], None] | None = None,
) -> tuple[tuple[After, ...], float]:
    """Take every batch one step further with all workers; returns the batches in order and the seconds it took.

    A batch whose work failed is left out when `otherwise`, called with the error, does not raise.
    """

    def once(batch: Before) -> After | None:
        index = batch.extracted.planned.index
        try:
            after = resume(session, plan, step, index, kind, lambda: work(batch))
        except ArchiverError as error:
            if otherwise is None:
                raise
            otherwise(batch, error)
            return None
        session.progress.batch_finished(session.name, step, batch_step(after))
        return after

    rows = sum(batch.extracted.rows for batch in batches)
    with timed_step(session, step, len(batches), rows) as watch:
        done = session.for_each(batches, once, quietly=True)
    return tuple(after for after in done if after is not None), watch.seconds


def batch_step(batch: Staged) -> BatchStep:
    """What progress is told of a batch: its rows, its object once there is one."""
    extracted = batch.extracted
    encoded = batch if isinstance(batch, EncodedBatch) else getattr(batch, "encoded", None)
    return BatchStep(
        rows=extracted.rows,
        size_bytes=encoded.object_bytes if encoded else extracted.rows_bytes,
        window_key=extracted.planned.window.key,
        batch_id=encoded.batch_id if encoded else None,
        key=encoded.key if encoded else None,
    )


def resume(
    session: ArchiveSession,
    plan: Plan,
    step: str,
    index: int,
    kind: type[Result],
    work: Callable[[], Result],
    *,
    needs_files: bool = True,
) -> Result:
    """The result of `work`, done once per batch: a finished batch's result is read from its checkpoint instead.

    With `needs_files` a checkpoint counts only while the files that its value names itself are there.
    """
    path = session.staging_folder(plan.attempt_id) / f"{index:06d}.{step}.json"
    found = read_checkpoint(path, kind)
    if found is not None and (not needs_files or all(file.exists() for file in _files_of(found))):
        return found
    result = work()
    write_checkpoint(path, result)
    return result


def _files_of(result: object) -> list[Path]:
    names = getattr(result, "__dataclass_fields__", {})
    return [value for name in names if isinstance(value := getattr(result, name), Path)]
