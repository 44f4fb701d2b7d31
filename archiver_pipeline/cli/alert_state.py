"""What `archiver check` says of alerts: which channels there are, and how sending went."""

from collections.abc import Iterator

from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.engine.preflight import Finding, Level
from archiver_pipeline.errors import ConfigError
from archiver_pipeline.notify.channel import Channel, UnreadyChannel
from archiver_pipeline.orchestration.alert_state import ChannelState, read_channels
from archiver_pipeline.orchestration.alerting import Alerts
from archiver_pipeline.orchestration.launch import has_instance, open_instance


def alert_findings(loaded: LoadedConfig) -> Iterator[Finding]:
    """One finding per channel. Sends nothing; `archiver alert test` does."""
    alerts = Alerts(loaded.notifications)
    if not alerts.enabled:
        yield Finding("alerts", Level.ok, "off: nobody is told of failures (notifications.enabled)")
        return
    states = _states(loaded, alerts)
    for channel in alerts.channels:
        yield _finding(channel, states.get(channel.name, ChannelState(channel.name)))


def _states(loaded: LoadedConfig, alerts: Alerts) -> dict[str, ChannelState]:
    """How sending went, as far as there is an instance that remembers; none is made."""
    if not has_instance(loaded.path.parent):
        return {}
    with open_instance(loaded.path.parent) as instance:
        return {state.name: state for state in read_channels(instance, [channel.name for channel in alerts.channels])}


def _finding(channel: Channel, state: ChannelState) -> Finding:
    subject = f"alerts {channel.name}"
    if isinstance(channel, UnreadyChannel):
        hint = "no alert goes there, and runs go on; set it for every process that runs archives"
        return Finding(subject, Level.failed, channel.means, hint, ConfigError.exit_code)
    sent = f"last sent {state.sent_at:%Y-%m-%d %H:%M} UTC" if state.sent_at else "nothing sent yet"
    if state.is_failing:
        failed = f"{state.failures} not sent, last at {state.failed_at:%Y-%m-%d %H:%M} UTC: {state.error}; {sent}"
        return Finding(subject, Level.warning, f"{channel.means}: {failed}", "try it: archiver alert test")
    return Finding(subject, Level.ok, f"{channel.means}; {sent}")
