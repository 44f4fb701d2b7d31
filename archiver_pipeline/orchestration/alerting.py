"""Tells people, or holds back, and remembers which. Never raises: no alert may harm a run."""

import logging
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

import dagster as dg

from archiver_pipeline.config.notifications import NotificationSettings
from archiver_pipeline.domain.alert import Alert
from archiver_pipeline.domain.alert_memory import AlertMemory, notes_of
from archiver_pipeline.domain.alert_policy import Verdict, judge
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.notify.channel import Channel, open_channels
from archiver_pipeline.orchestration.alert_state import read_channels, read_memories, write_channel, write_memory

_LOG = logging.getLogger(__name__)


class Log(Protocol):
    """A run's log, a sensor's, or Python's."""

    def info(self, msg: str) -> None: ...

    def warning(self, msg: str) -> None: ...


class _SilentLog:
    """For who tells the outcome in another way."""

    def info(self, msg: str) -> None:
        pass

    def warning(self, msg: str) -> None:
        pass


SILENT = _SilentLog()


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a message by one channel; `error` is None when it was taken."""

    channel: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a message. It `was_lost` when it should have gone out and no channel took it."""

    verdict: Verdict
    deliveries: tuple[Delivery, ...] = ()

    @property
    def was_lost(self) -> bool:
        return self.verdict is Verdict.send and all(one.error is not None for one in self.deliveries)

    @property
    def summary(self) -> str:
        """In a few words, for a tag of the run."""
        if self.verdict is not Verdict.send:
            return f"held back: {self.verdict.value}"
        return "not sent" if self.was_lost else "sent"


class Alerts:
    """One configuration's way to tell people. Without `enabled` it does nothing."""

    def __init__(self, settings: NotificationSettings) -> None:
        self.settings = settings
        self.channels: tuple[Channel, ...] = open_channels(settings)

    @property
    def enabled(self) -> bool:
        return self.settings.enabled

    def tell(
        self,
        instance: dg.DagsterInstance | None,
        alert: Alert,
        *,
        log: Log = _LOG,
        at_most_every: timedelta = timedelta(),
    ) -> Told:
        """Send the message, or hold it back, by policy and by what was told before; never the same twice within
        `at_most_every`. Without an instance nothing is remembered, so nothing is held back as a repetition."""
        now = datetime.now(UTC)
        memory = self._memory(instance, alert, log)
        policy = self.settings.policy
        limited = replace(policy, rate_limit=max(policy.rate_limit, at_most_every))
        verdict = judge(limited, memory, alert, now)
        after = memory.seeing(alert, now)
        deliveries: tuple[Delivery, ...] = ()
        if verdict is Verdict.send:
            deliveries = self.deliver(alert.noting(*notes_of(memory, alert)), log=log)
            taken = any(one.error is None for one in deliveries)
            after = after.sending(alert, now) if taken else after.failing_to_send()
        elif verdict is Verdict.quiet:
            after = after.holding(alert, now)
        elif verdict is Verdict.repeated:
            after = after.repeating(alert)
        if verdict is not Verdict.send:
            log.info(f"alert held back ({verdict.value}): {alert.title}")
        self._remember(instance, alert, after, deliveries, now, log)
        return Told(verdict, deliveries)

    def deliver(self, alert: Alert, *, log: Log = _LOG) -> tuple[Delivery, ...]:
        """Send by every channel at once, whatever the policy says. Takes about 20 s at most."""
        if not self.channels:
            return ()
        with ThreadPoolExecutor(len(self.channels)) as pool:
            deliveries = tuple(pool.map(lambda channel: _deliver(channel, alert), self.channels))
        for one in deliveries:
            if one.error is None:
                log.info(f"alert sent by {one.channel}: {alert.title}")
            else:
                text = f"alert not sent by {one.channel}: {one.error} (message: {alert.title})"
                log.warning(text)
                # A run's log is not on the terminal of who runs a command.
                if log is not _LOG and not isinstance(log, _SilentLog):
                    _LOG.warning(text)
        return deliveries

    def record(
        self, instance: dg.DagsterInstance, deliveries: Sequence[Delivery], now: datetime, *, log: Log = _LOG
    ) -> None:
        """Remember how each channel did, where `archiver check` and the monitor look for it."""
        try:
            states = read_channels(instance, [one.channel for one in deliveries])
            for state, one in zip(states, deliveries, strict=True):
                write_channel(instance, state.after(one.error, now))
        except Exception as error:  # noqa: BLE001 - Dagster's storage may be what is broken; the run goes on.
            log.warning(f"what became of an alert could not be remembered: {type(error).__name__}")

    def _memory(self, instance: dg.DagsterInstance | None, alert: Alert, log: Log) -> AlertMemory:
        if instance is None:
            return AlertMemory()
        try:
            return read_memories(instance, [alert.subject])[alert.subject]
        except Exception as error:  # noqa: BLE001 - as above; without memory the message goes out.
            log.warning(f"what was told before could not be read: {type(error).__name__}")
            return AlertMemory()

    def _remember(
        self,
        instance: dg.DagsterInstance | None,
        alert: Alert,
        memory: AlertMemory,
        deliveries: Sequence[Delivery],
        now: datetime,
        log: Log,
    ) -> None:
        if instance is None:
            return
        self.record(instance, deliveries, now, log=log)
        try:
            write_memory(instance, alert.subject, memory)
        except Exception as error:  # noqa: BLE001 - as above.
            log.warning(f"what was told could not be remembered: {type(error).__name__}")


def _deliver(channel: Channel, alert: Alert) -> Delivery:
    try:
        channel.send(alert)
    except ArchiverError as error:
        return Delivery(channel.name, str(error))
    except Exception as error:  # noqa: BLE001 - whatever a library raises must not harm the run; its text may hold the URL.
        return Delivery(channel.name, f"{channel.name}: unexpected {type(error).__name__}")
    return Delivery(channel.name, None)


def this_host() -> str:
    return socket.gethostname()
