"""One worker of a run over several databases: takes an order from standard input, tells what it does through a pipe."""

import copy
import os
import select
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from archiver_pipeline.cli.archive import archive_tables
from archiver_pipeline.cli.parallel import FAILED, Order, read_order, sending_end
from archiver_pipeline.cli.progress import RunListener
from archiver_pipeline.domain.batch import SettledBatch
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.progress import BatchStep
from archiver_pipeline.engine.report import ArchiveReport
from archiver_pipeline.errors import ArchiverError

INTERRUPTED_EXIT_CODE = 130
_SIGNAL_SECONDS = 0.2


class Teller(RunListener):
    """Passes on all that a command's own listener would hear, and keeps what the drain of a table looks back at."""

    def __init__(self, events: Connection) -> None:
        super().__init__()
        self._events = events
        self._sending = threading.Lock()
        self._run_id: str | None = None

    def of_run(self, run_id: str) -> "Teller":
        """The same, with the run named in all it tells, so that the parent's log can tell runs apart."""
        one = copy.copy(self)
        one._run_id = run_id
        return one

    def tell(self, name: str, *arguments: Any) -> None:
        """A parent that is gone hears nothing; this process is being stopped then."""
        with self._sending, suppress(OSError):
            self._events.send((name, self._run_id, arguments))

    def fail(self, table: TableName, error: ArchiverError) -> None:
        super().archive_failed(table, error)
        self.tell("fail", table, error)

    def step_started(self, table: TableName, step: str, batches: int, rows: int) -> None:
        self.tell("step_started", table, step, batches, rows)

    def batch_finished(self, table: TableName, step: str, batch: BatchStep) -> None:
        self.tell("batch_finished", table, step, batch)

    def batch_settled(self, table: TableName, batch: SettledBatch) -> None:
        self.tell("batch_settled", table, batch)

    def reclaim_told(self, table: TableName, text: str) -> None:
        self.tell("reclaim_told", table, text)

    def step_finished(self, table: TableName, step: str, seconds: float) -> None:
        self.tell("step_finished", table, step, seconds)

    def archive_reported(self, report: ArchiveReport) -> None:
        super().archive_reported(report)
        self.tell("archive_reported", report)

    def archive_paused(self, table: TableName, step: str, reason: str) -> None:
        self.tell("archive_paused", table, step, reason)

    def archive_resumed(self, table: TableName, step: str, seconds: float) -> None:
        self.tell("archive_resumed", table, step, seconds)

    def close_hours(self, table: TableName, reason: str) -> None:
        super().outside_hours(table, reason)
        self.tell("close_hours", table, reason)

    def lock_awaited(self, table: TableName, error: ArchiverError, wait_seconds: float) -> None:
        self.tell("lock_awaited", table, error, wait_seconds)

    def step_retrying(self, table: TableName, error: ArchiverError, wait_seconds: float) -> None:
        self.tell("step_retrying", table, error, wait_seconds)

    def archive_failed(self, table: TableName, error: ArchiverError) -> None:
        super().archive_failed(table, error)
        self.tell("archive_failed", table, error)

    def table_finished(self, table: TableName) -> None:
        self.tell("table_finished", table)


def work(order: Order, teller: Teller) -> None:
    """Archive the order's tables. What keeps all of them from being archived is told once."""
    try:
        archive_tables(
            order.loaded,
            order.tables,
            order.dates,
            teller,
            limit_rows=order.limit_rows,
            direct=order.direct,
            log_level=order.log_level,
            ignore_hours=order.ignore_hours,
        )
    except ArchiverError as error:
        teller.tell(FAILED, error)


def main() -> int:
    """Work until the order is done, a signal comes, or the parent closes standard input."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    teller = Teller(sending_end(sys.argv[1]))
    try:
        order = read_order(sys.stdin.fileno())
        threading.Thread(target=_interrupt_at_end_of_input, args=(_signals(),), daemon=True).start()
        work(order, teller)
    except (KeyboardInterrupt, EOFError):
        return INTERRUPTED_EXIT_CODE
    return os.EX_OK


def _signals() -> int:
    """A file descriptor that can be read from when a signal has come, whatever handles it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def _interrupt_at_end_of_input(signals: int) -> None:
    """As Ctrl-C does, unless a signal has interrupted this process already: whoever stops a service sends one to all
    its processes, and a second interrupt would break into the clean-up after the first."""
    select.select([sys.stdin.fileno(), signals], [], [])
    if not select.select([signals], [], [], _SIGNAL_SECONDS)[0]:
        os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
