"""Slack: by incoming webhook, or by a bot token and chat.postMessage."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

from slack_sdk import WebClient, WebhookClient
from slack_sdk.errors import SlackApiError, SlackClientError

from archiver_pipeline.config.notifications import SlackSettings
from archiver_pipeline.domain.alert import Alert, Severity
from archiver_pipeline.errors import AlertError
from archiver_pipeline.notify.attempts import TIMEOUT_SECONDS, PassingAlertError, require_taken, with_attempts
from archiver_pipeline.notify.network import network_reason, webhook_url

_MARKS = {
    Severity.info: ":information_source:",
    Severity.good: ":white_check_mark:",
    Severity.warning: ":warning:",
    Severity.error: ":rotating_light:",
}
# Limits of Block Kit, https://docs.slack.dev/reference/block-kit/blocks
_HEADER_CHARACTERS = 150
_TEXT_CHARACTERS = 3000
_FIELDS = 10
_CODE = re.compile(r"[a-z_]{1,60}")
_PASSING_CODES = frozenset({"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable"})


def _silent_logger() -> logging.Logger:
    """slack_sdk writes the webhook's URL into its log."""
    logger = logging.Logger("archiver_pipeline.notify.slack")
    logger.disabled = True
    return logger


class SlackWebhookChannel:
    """Posts to the channel that the webhook was made for."""

    name = "slack"
    means = "incoming webhook"

    def __init__(self, settings: SlackSettings) -> None:
        self._settings = settings

    def send(self, alert: Alert) -> None:
        with_attempts(lambda: self._post(alert))

    def _post(self, alert: Alert) -> None:
        url = webhook_url(self.name, self._settings.webhook_url)
        client = WebhookClient(url, timeout=TIMEOUT_SECONDS, logger=_silent_logger(), retry_handlers=[])
        body = slack_message(alert)
        if self._settings.username:
            body["username"] = self._settings.username
        with _slack_errors():
            response = client.send_dict(body)
        headers = {name.lower(): value for name, value in response.headers.items()}
        require_taken(self.name, response.status_code, headers.get("retry-after"), _code(response.body))


class SlackApiChannel:
    """Posts as a bot to the configured channel."""

    name = "slack"

    def __init__(self, settings: SlackSettings) -> None:
        self._settings = settings
        self.means = f"bot token to {settings.channel}"

    def send(self, alert: Alert) -> None:
        with_attempts(lambda: self._post(alert))

    def _post(self, alert: Alert) -> None:
        client = WebClient(
            self._settings.token.get_secret_value() if self._settings.token else "",
            base_url=self._settings.api_url,
            timeout=TIMEOUT_SECONDS,
            logger=_silent_logger(),
            retry_handlers=[],
        )
        with _slack_errors():
            client.chat_postMessage(
                channel=self._settings.channel or "", username=self._settings.username, **slack_message(alert)
            )


def slack_message(alert: Alert) -> dict[str, Any]:
    """The message as Block Kit; `text` is what notifications on a phone show."""
    mark = _MARKS[alert.severity]
    header = {
        "type": "header",
        "text": {"type": "plain_text", "text": _cut(f"{mark} {alert.title}", _HEADER_CHARACTERS)},
    }
    sections = [_section(text) for text in _paragraphs(alert)]
    facts = [{"type": "mrkdwn", "text": f"*{_plain(f.name)}*\n{_plain(f.value)}"} for f in alert.facts]
    fields = [{"type": "section", "fields": facts[i : i + _FIELDS]} for i in range(0, len(facts), _FIELDS)]
    return {"text": f"{mark} {_plain(alert.title)}", "blocks": [header, *sections, *fields, *_foot(alert)]}


def _paragraphs(alert: Alert) -> Iterator[str]:
    yield _plain(alert.happened)
    if alert.lines:
        yield "\n".join(f"• {_plain(line)}" for line in alert.lines)
    if alert.safety:
        yield f"*Are rows safe?* {_plain(alert.safety)}"
    if alert.next_steps:
        yield "*What to do*\n" + "\n".join(f"• {_plain(step)}" for step in alert.next_steps)


def _foot(alert: Alert) -> Iterator[dict[str, Any]]:
    notes = [_plain(note) for note in alert.notes]
    if alert.link:
        notes.insert(0, f"<{alert.link}|Open the run in Dagster>")
    if notes:
        yield {
            "type": "context",
            "elements": [{"type": "mrkdwn", "text": _cut(note, _TEXT_CHARACTERS)} for note in notes],
        }


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": _cut(text, _TEXT_CHARACTERS)}}


def _plain(text: str) -> str:
    """Text in which Slack finds no link, mention or channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _code(body: object) -> str:
    """Slack's word for what is wrong, when it is one."""
    return body if isinstance(body, str) and _CODE.fullmatch(body) else ""


@contextmanager
def _slack_errors() -> Iterator[None]:
    try:
        yield
    except SlackApiError as error:
        _raise_refusal(error)
    except SlackClientError as error:
        raise AlertError(f"slack could not be used: {type(error).__name__}") from None
    except (OSError, HTTPException) as error:
        raise PassingAlertError(f"slack could not be reached: {network_reason(error)}") from None


def _raise_refusal(error: SlackApiError) -> None:
    """Slack says what is wrong in a word, often with status 200."""
    response: Any = error.response
    headers = {name.lower(): value for name, value in dict(getattr(response, "headers", {})).items()}
    try:
        code = _code(response["error"])
    except (KeyError, TypeError, ValueError):
        code = ""
    status = int(getattr(response, "status_code", 0))
    if code in _PASSING_CODES:
        retry_after = headers.get("retry-after", "")
        seconds = float(retry_after) if retry_after.isdigit() else None
        raise PassingAlertError(f"slack refused: {code}", retry_after_seconds=seconds) from None
    if status >= 300:
        require_taken("slack", status, headers.get("retry-after"), code)
    hint = "archiver check names the channel; invite the bot to it, and look at its token and scope chat:write"
    raise AlertError(f"slack refused: {code or 'no reason given'}", hint=hint) from None
