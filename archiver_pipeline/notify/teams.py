"""Microsoft Teams: an Adaptive Card to the webhook of a Workflow."""

from collections.abc import Iterator
from typing import Any

import requests

from archiver_pipeline.config.notifications import TeamsSettings
from archiver_pipeline.domain.alert import Alert, Severity
from archiver_pipeline.notify.attempts import TIMEOUT_SECONDS, PassingAlertError, require_taken, with_attempts
from archiver_pipeline.notify.network import network_reason, webhook_url

_COLORS = {
    Severity.info: "default",
    Severity.good: "good",
    Severity.warning: "warning",
    Severity.error: "attention",
}
_MARKS = {Severity.info: "ℹ️", Severity.good: "✅", Severity.warning: "⚠️", Severity.error: "🚨"}
# A message of more than 28 KB is refused.
_LINES = 60
_TEXT_CHARACTERS = 3000


class TeamsChannel:
    """Posts to the channel or chat of the Workflow."""

    name = "teams"
    means = "webhook"

    def __init__(self, settings: TeamsSettings) -> None:
        self._settings = settings

    def send(self, alert: Alert) -> None:
        with_attempts(lambda: self._post(alert))

    def _post(self, alert: Alert) -> None:
        url = webhook_url(self.name, self._settings.webhook_url)
        timeouts = (TIMEOUT_SECONDS, TIMEOUT_SECONDS)
        try:
            # The answer's body is not read: a server that drips it could hold the run.
            with requests.post(
                url, json=teams_message(alert), timeout=timeouts, allow_redirects=False, stream=True
            ) as answer:
                status, retry_after = answer.status_code, answer.headers.get("Retry-After")
        except requests.RequestException as error:
            raise PassingAlertError(f"teams could not be reached: {network_reason(error)}") from None
        require_taken(self.name, status, retry_after)


def teams_message(alert: Alert) -> dict[str, Any]:
    """The message as an Adaptive Card in the envelope that a webhook takes."""
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": list(_body(alert)),
    }
    if alert.link:
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Open the run in Dagster", "url": alert.link}]
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _body(alert: Alert) -> Iterator[dict[str, Any]]:
    title = f"{_MARKS[alert.severity]} {alert.title}"
    yield _text(title, size="large", weight="bolder", color=_COLORS[alert.severity])
    yield _text(alert.happened)
    yield from _bullets(alert.lines[:_LINES])
    if alert.safety:
        yield _text("Are rows safe?", weight="bolder", spacing="medium")
        yield _text(alert.safety, spacing="none")
    if alert.next_steps:
        yield _text("What to do", weight="bolder", spacing="medium")
        yield from _bullets(alert.next_steps)
    if alert.facts:
        yield {"type": "FactSet", "facts": [{"title": f.name, "value": _plain(f.value)} for f in alert.facts]}
    for note in alert.notes:
        yield _text(note, isSubtle=True, size="small")


def _bullets(lines: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """One block a line: how Teams breaks lines in Markdown differs between its readers."""
    return (_text(f"• {line}", spacing="none") for line in lines)


def _text(text: str, **style: Any) -> dict[str, Any]:
    return {"type": "TextBlock", "text": _plain(text)[:_TEXT_CHARACTERS], "wrap": True, **style}


def _plain(text: str) -> str:
    """Text in which Teams finds no link. Its readers disagree about backslashes, so nothing else is escaped."""
    return text.replace("](", "] (")
