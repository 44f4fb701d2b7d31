"""What alerts remember, in the Dagster instance: it outlives processes and is one for all of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import dagster as dg
from pydantic import TypeAdapter, ValidationError

from archiver_pipeline.domain.alert_memory import AlertMemory

_PREFIX = "archiver/alerts"
_MEMORY = TypeAdapter(AlertMemory)


@dataclass(frozen=True, slots=True)
class ChannelState:
    """How sending by one channel went. Times are UTC; `failures` counts since the last success, `all_failures` ever."""

    name: str
    sent_at: datetime | None = None
    failed_at: datetime | None = None
    error: str = ""
    failures: int = 0
    all_sent: int = 0
    all_failures: int = 0

    @property
    def is_failing(self) -> bool:
        return self.failures > 0

    def after(self, error: str | None, now: datetime) -> "ChannelState":
        """After one message; `error` None when it was taken."""
        if error is None:
            return replace(self, sent_at=now, failures=0, error="", all_sent=self.all_sent + 1)
        return replace(self, failed_at=now, error=error, failures=self.failures + 1, all_failures=self.all_failures + 1)


_STATE = TypeAdapter(ChannelState)


def read_memories(instance: dg.DagsterInstance, subjects: Iterable[str]) -> dict[str, AlertMemory]:
    """What is remembered of each subject. What can't be read counts as nothing: rather too much is sent."""
    keys = {_memory_key(subject): subject for subject in subjects}
    found = _values(instance, keys)
    return {subject: _memory(found.get(key)) for key, subject in keys.items()}


def write_memory(instance: dg.DagsterInstance, subject: str, memory: AlertMemory) -> None:
    instance.daemon_cursor_storage.set_cursor_values({_memory_key(subject): _MEMORY.dump_json(memory).decode()})


def read_channels(instance: dg.DagsterInstance, names: Iterable[str]) -> tuple[ChannelState, ...]:
    """How sending went by each of these channels, in their order; for `archiver check`, health and metrics."""
    wanted = list(names)
    found = _values(instance, {_channel_key(name): name for name in wanted})
    return tuple(_channel(name, found.get(_channel_key(name))) for name in wanted)


def write_channel(instance: dg.DagsterInstance, state: ChannelState) -> None:
    instance.daemon_cursor_storage.set_cursor_values({_channel_key(state.name): _STATE.dump_json(state).decode()})


def read_moment(instance: dg.DagsterInstance, name: str) -> datetime | None:
    """A remembered time, UTC."""
    found = _values(instance, {f"{_PREFIX}/{name}": name})
    try:
        return datetime.fromisoformat(next(iter(found.values()))).astimezone(UTC) if found else None
    except ValueError:
        return None


def write_moment(instance: dg.DagsterInstance, name: str, at: datetime) -> None:
    instance.daemon_cursor_storage.set_cursor_values({f"{_PREFIX}/{name}": at.isoformat()})


def _values(instance: dg.DagsterInstance, keys: Mapping[str, str]) -> Mapping[str, str]:
    return instance.daemon_cursor_storage.get_cursor_values(set(keys)) if keys else {}


def _memory(text: str | None) -> AlertMemory:
    try:
        return _MEMORY.validate_json(text) if text else AlertMemory()
    except ValidationError:
        return AlertMemory()


def _channel(name: str, text: str | None) -> ChannelState:
    try:
        return _STATE.validate_json(text) if text else ChannelState(name)
    except ValidationError:
        return ChannelState(name)


def _memory_key(subject: str) -> str:
    return f"{_PREFIX}/memory/{subject}"


def _channel_key(name: str) -> str:
    return f"{_PREFIX}/channel/{name}"
