"""`archiver alert`: try the channels, or send the digest by hand or from cron."""

import os
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from archiver_pipeline.cli.console import output, print_json, warn
from archiver_pipeline.cli.options import ConfigOption, JsonOption, open_config
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.domain.alert import Alert
from archiver_pipeline.errors import AlertError, ConfigError
from archiver_pipeline.notify.email import alert_text
from archiver_pipeline.orchestration import alert_messages as messages
from archiver_pipeline.orchestration.alerting import SILENT, Alerts, Delivery, this_host
from archiver_pipeline.orchestration.digest import make_digest, send_digest
from archiver_pipeline.orchestration.launch import open_instance


class Action(StrEnum):
    """What to send."""

    test = "test"
    digest = "digest"


def alert(
    action: Annotated[
        Action,
        typer.Argument(help="`test`: a test message to every channel. `digest`: the summary of all tables, now."),
    ],
    config: ConfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the message and send nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Send a message to every channel of `notifications`, and say for each whether it took it.

    Quiet hours and rate limits do not apply: you asked for it. The digest covers the time since the last one, a day
    when there was none, and what quiet hours held back.

    Exit codes: 0 every channel took it, 3 notifications are not enabled or configuration, 7 a channel did not.

    Examples:

        archiver alert test

        archiver alert digest --dry-run

        archiver alert digest --config audit.yaml --json
    """
    loaded = open_config(config)
    alerts = Alerts(loaded.notifications)
    if not alerts.channels:
        raise ConfigError("notifications.enabled is false", hint="see docs/alerts.md for what to write")
    message, deliveries = _test(loaded, alerts, dry_run) if action is Action.test else _digest(loaded, alerts, dry_run)
    _print(alerts, message, deliveries, dry_run=dry_run, as_json=as_json)
    failed = any(one.error is not None for one in deliveries)
    raise typer.Exit(AlertError.exit_code if failed else os.EX_OK)


def _test(loaded: LoadedConfig, alerts: Alerts, dry_run: bool) -> tuple[Alert, tuple[Delivery, ...]]:
    message = messages.trial(this_host())
    if dry_run:
        return message, ()
    deliveries = alerts.deliver(message, log=SILENT)
    _remember(loaded, alerts, deliveries)
    return message, deliveries


def _remember(loaded: LoadedConfig, alerts: Alerts, deliveries: tuple[Delivery, ...]) -> None:
    """So that a channel that was mended is no longer reported as failing. Works without Dagster's storage, too."""
    try:
        with open_instance(loaded.path.parent) as instance:
            alerts.record(instance, deliveries, datetime.now(UTC), log=SILENT)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the storage, the test of the channels is done.
        warn(f"the outcome could not be remembered in Dagster's storage: {type(error).__name__}")


def _digest(loaded: LoadedConfig, alerts: Alerts, dry_run: bool) -> tuple[Alert, tuple[Delivery, ...]]:
    now = datetime.now(UTC)
    with open_instance(loaded.path.parent) as instance:
        if dry_run:
            return make_digest(loaded, instance, now), ()
        return send_digest(loaded, alerts, instance, now, log=SILENT)


def _print(alerts: Alerts, message: Alert, deliveries: tuple[Delivery, ...], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"message": asdict(message), "deliveries": [asdict(one) for one in deliveries]})
        return
    if dry_run:
        output.print(f"{message.title}\n", style="bold", markup=False, highlight=False, soft_wrap=True)
        output.print(alert_text(message), markup=False, highlight=False, soft_wrap=True)
    means = {channel.name: channel.means for channel in alerts.channels}
    for name in means if dry_run else ():
        output.print(f"would go to {name}: {means[name]}", markup=False, highlight=False, soft_wrap=True)
    for one in deliveries:
        output.print("[green]sent    [/]" if one.error is None else "[red]NOT SENT[/]", end=" ")
        text = f"{one.channel}: {one.error or means[one.channel]}"
        output.print(text, markup=False, highlight=False, soft_wrap=True)
