"""Looking at something again and again in a thread of its own, so that nobody who asks ever waits for it.

A look that hangs keeps its thread and nothing else: what was seen before it goes stale, and that is told.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from archiver_pipeline.errors import ArchiverError

Seen = TypeVar("Seen")
Touch = Callable[[], None]
"""Tells that a look goes on."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Observation(Generic[Seen]):
    """The end of one look. `value` is what was seen; None, with a `problem` in words, when the look failed."""

    value: Seen | None
    problem: str | None
    at: datetime


class Watch(Generic[Seen]):
    """Calls `look` again `interval_seconds` after it has ended, or `retry_seconds` after it has failed.

    A look that has not ended after `timeout_seconds` counts as hanging; one that may take long calls the `touch` that
    it is given.
    """

    def __init__(
        self,
        subject: str,
        look: Callable[[Touch], Seen],
        *,
        interval_seconds: float,
        retry_seconds: float,
        timeout_seconds: float,
    ) -> None:
        self.subject = subject
        self._look = look
        self._interval_seconds = interval_seconds
        self._retry_seconds = retry_seconds
        self._timeout_seconds = timeout_seconds
        self._stopping = threading.Event()
        self._latest: Observation[Seen] | None = None
        self._alive_at = time.monotonic()
        self._is_looking = False

    def start(self) -> None:
        """Begin to look, in a thread that does not keep the process from ending."""
        self.touch()
        threading.Thread(target=self._watch, name=f"watch {self.subject}", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def touch(self) -> None:
        """Tell that the look goes on."""
        self._alive_at = time.monotonic()

    @property
    def latest(self) -> Observation[Seen] | None:
        """What was seen last, however long ago; None before the first look ended."""
        return self._latest

    @property
    def value(self) -> Seen | None:
        """What was seen last, if that look succeeded."""
        return self._latest.value if self._latest else None

    @property
    def problem(self) -> str | None:
        """Why what was seen cannot be relied on now; None when it can."""
        quiet_seconds = time.monotonic() - self._alive_at
        allowed_seconds = self._timeout_seconds if self._is_looking else self._interval_seconds + self._timeout_seconds
        if quiet_seconds > allowed_seconds:
            return f"no answer for {quiet_seconds:.0f} s"
        if self._latest is None:
            return "not looked at yet"
        return self._latest.problem

    def _watch(self) -> None:
        while not self._stopping.is_set():
            seen = self.look_once()
            self._stopping.wait(self._retry_seconds if seen.problem else self._interval_seconds)

    def look_once(self) -> Observation[Seen]:
        """Look now, and keep what was seen; a problem that is new is logged."""
        self.touch()
        self._is_looking = True
        seen = self._observe()
        if seen.problem and seen.problem != (self._latest.problem if self._latest else None):
            _log.warning("%s: %s", self.subject, seen.problem)
        self._latest = seen
        self._is_looking = False
        self.touch()
        return seen

    def _observe(self) -> Observation[Seen]:
        try:
            value, problem = self._look(self.touch), None
        except Exception as error:  # noqa: BLE001 - however a look fails, it is a problem to tell, not the end of looking
            value, problem = None, words_of(error)
        return Observation(value, problem, datetime.now(UTC))


def words_of(error: Exception) -> str:
    """An error for people. The message of a foreign one may hold anything, so only its class is told."""
    return str(error) if isinstance(error, ArchiverError) else f"failed with {type(error).__name__}"
