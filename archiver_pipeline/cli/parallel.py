"""Archives several databases at once: a process for each, one table after the other inside it.

Processes, not threads: Dagster takes signals in the main thread only and catches the output of a run for its whole
process. A worker hears of its end by its standard input: it holds the order first, and is closed to stop the worker,
which also happens when this process dies. So a Ctrl-C, which reaches only this process, and a SIGKILL both stop all.
"""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from archiver_pipeline.cli.archive import recorded_in
from archiver_pipeline.cli.progress import RunListener
from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.engine.inventory import DateRange
from archiver_pipeline.engine.progress import Progress
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.orchestration import pools
from archiver_pipeline.postgres.catalog import table_name

WORKER_MODULE = "archiver_pipeline.cli.worker"
_LENGTH_BYTES = 8
FINISHED, FAILED = "table_finished", "worker_failed"


@dataclass(frozen=True)
class Order:
    """What one worker does. It holds secrets: it goes through a pipe and nowhere else."""

    loaded: LoadedConfig
    tables: tuple[TableSettings, ...]
    dates: DateRange
    limit_rows: int | None
    direct: bool
    log_level: str
    ignore_hours: bool = False


@dataclass
class _Worker:
    """One running process; `unfinished` are the tables it has not told the end of, `error` why it gave up, `runs` who
    hears of each run of its."""

    process: "subprocess.Popen[bytes]"
    events: Connection
    unfinished: list[TableSettings]
    error: ArchiverError | None = None
    runs: dict[str, Progress] = field(default_factory=dict)

    def stop(self) -> None:
        """Let it end as by Ctrl-C. Safe to repeat."""
        if self.process.stdin is not None:
            self.process.stdin.close()


def databases_at_once(loaded: LoadedConfig, tables: tuple[TableSettings, ...]) -> int:
    """How many databases a run of these tables may work on at a time."""
    return min(pools.databases_at_once(loaded), len({table.database for table in tables}))


def archive_databases(
    loaded: LoadedConfig,
    tables: tuple[TableSettings, ...],
    dates: DateRange,
    listener: RunListener,
    *,
    at_once: int,
    limit_rows: int | None = None,
    direct: bool = False,
    log_level: str = "CRITICAL",
    ignore_hours: bool = False,
) -> None:
    """As `archive_tables`, with `at_once` databases at a time.

    Raises KeyboardInterrupt after every worker has ended by itself; a second interrupt kills them. Nothing is lost
    either way: the next run settles what they left open.
    """
    with recorded_in(loaded, direct=direct):
        # Opened once before the workers do: runs that were killed earlier are closed and told by one process.
        pass
    waiting = deque(
        Order(loaded, own, dates, limit_rows, direct, log_level, ignore_hours)
        for database in loaded.databases
        if (own := tuple(table for table in tables if table.database == database.id))
    )
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < at_once:
                workers.append(_start(waiting.popleft()))
            _hear(workers, listener)
    except BaseException:
        _stop(workers, listener)
        raise


def _start(order: Order) -> _Worker:
    receiving, sending = Pipe(duplex=False)
    command = [sys.executable, "-P", "-m", WORKER_MODULE, str(sending.fileno())]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, pass_fds=(sending.fileno(),), start_new_session=True, bufsize=0
    )
    sending.close()
    worker = _Worker(process, receiving, list(order.tables))
    try:
        _write_order(process, pickle.dumps(order))
    except BrokenPipeError:
        worker.error = ArchiverError("its process ended before it began")
    return worker


def _write_order(process: "subprocess.Popen[bytes]", data: bytes) -> None:
    left = memoryview(len(data).to_bytes(_LENGTH_BYTES) + data)
    while left and process.stdin is not None:
        left = left[process.stdin.write(left) or 0 :]


def read_order(descriptor: int) -> Order:
    """The worker's side of it: reads not one byte more, because the end of what follows has a meaning of its own.

    Raises EOFError when the parent is gone before it has written all.
    """
    length = int.from_bytes(_read_whole(descriptor, _LENGTH_BYTES))
    # It comes from our own parent, through a pipe that nobody else holds.
    order: Order = pickle.loads(_read_whole(descriptor, length))  # noqa: S301
    return order


def _read_whole(descriptor: int, length: int) -> bytes:
    parts, missing = [], length
    while missing:
        part = os.read(descriptor, missing)
        if not part:
            raise EOFError
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _hear(workers: list[_Worker], listener: RunListener) -> None:
    """Wait for news of any worker and pass it on; a worker that has ended is taken off the list."""
    ready = wait([worker.events for worker in workers])
    for worker in [worker for worker in workers if worker.events in ready]:
        try:
            _tell(worker, worker.events.recv(), listener)
        except EOFError:
            workers.remove(worker)
            _end(worker, listener)


def _tell(worker: _Worker, event: tuple[str, str | None, tuple[Any, ...]], listener: RunListener) -> None:
    name, run_id, arguments = event
    if name == FAILED:
        (worker.error,) = arguments
        return
    if name == FINISHED:
        worker.unfinished = [one for one in worker.unfinished if table_name(one) != arguments[0]]
    if run_id is not None and run_id not in worker.runs:
        worker.runs[run_id] = listener.of_run(run_id)
    hearing = listener if run_id is None else worker.runs[run_id]
    passed_on: Callable[..., None] = getattr(hearing, name)
    passed_on(*arguments)


def _end(worker: _Worker, listener: RunListener) -> None:
    """Every table that the worker did not come to the end of is told as failed."""
    code = worker.process.wait()
    worker.stop()
    worker.events.close()
    for settings in worker.unfinished:
        listener.fail(table_name(settings), worker.error or _unexplained(code))


def _unexplained(code: int) -> ArchiverError:
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return ArchiverError(f"its process {ended} before it was done", hint="run again: it goes on where it was")


def _stop(workers: list[_Worker], listener: RunListener) -> None:
    """Stop all and wait, passing on what they still tell, so that none waits for us."""
    try:
        for worker in workers:
            worker.stop()
        while workers:
            _hear(workers, listener)
    except BaseException:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
        raise


def sending_end(number: str) -> Connection:
    """A worker's end of the pipe, by the file descriptor it was given."""
    os.set_inheritable(int(number), False)
    return Connection(int(number), readable=False)
