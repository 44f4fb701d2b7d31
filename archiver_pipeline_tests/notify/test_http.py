"""Slack and Teams on a real HTTP server: what is posted, what is tried again, and that no secret gets into an error."""

import logging
import re
import time
from dataclasses import replace

import pytest
from pydantic import SecretStr

from archiver_pipeline.config.notifications import SlackSettings, TeamsSettings
from archiver_pipeline.errors import AlertError
from archiver_pipeline.notify import attempts
from archiver_pipeline.notify.slack import SlackApiChannel, SlackWebhookChannel
from archiver_pipeline.notify.teams import TeamsChannel
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.notify.alerts import FAILED
from archiver_pipeline_tests.plugins.listening import HOOK, TOKEN, Answer

OK_OF_API = Answer(body=b'{"ok": true, "ts": "1"}', headers={"Content-Type": "application/json"})


def slack_by_webhook(url: str) -> SlackWebhookChannel:
    return SlackWebhookChannel(SlackSettings(SecretStr(f"{url}{HOOK}"), None, None, "archiver", "", ""))


def slack_by_token(url: str) -> SlackApiChannel:
    return SlackApiChannel(SlackSettings(None, SecretStr(TOKEN), "#archives", None, f"{url}/api/", ""))


def teams(url: str) -> TeamsChannel:
    return TeamsChannel(TeamsSettings(SecretStr(f"{url}{HOOK}"), ""))


every_channel = pytest.mark.parametrize("channel", [slack_by_webhook, slack_by_token, teams])


def answers(channel, *before):
    """These answers, then one that the channel takes for success."""
    return [*before, OK_OF_API if channel is slack_by_token else Answer(202)]


def test_what_a_slack_webhook_gets(listener):
    slack_by_webhook(listener.url).send(FAILED)
    [posted] = listener.posted
    assert posted.path == HOOK
    assert posted.body == {
        "text": f":rotating_light: {FAILED.title}",
        "username": "archiver",
        "blocks": [
            {"type": "header", "text": {"type": "plain_text", "text": f":rotating_light: {FAILED.title}"}},
            section("The run failed in its step upload: s3.example.com: &lt;timeout&gt; &amp; more"),
            section("• first &lt;line&gt;\n• second"),
            section("*Are rows safe?* Yes. Every row that it read is still in the table."),
            section("*What to do*\n• archiver check --database shop\n• Run it again: archiver run"),
            {
                "type": "section",
                "fields": [
                    {"type": "mrkdwn", "text": "*Error*\nNetworkError"},
                    {"type": "mrkdwn", "text": "*Windows*\n2026-05-04 to 2026-05-11"},
                ],
            },
            {
                "type": "context",
                "elements": [
                    {"type": "mrkdwn", "text": "<https://dagster.example.com/runs/0123|Open the run in Dagster>"},
                    {"type": "mrkdwn", "text": "3 more like this were held back."},
                ],
            },
        ],
    }


def section(text):
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def test_what_the_slack_api_gets(listener):
    listener.answers = [OK_OF_API]
    slack_by_token(listener.url).send(FAILED)
    [posted] = listener.posted
    assert posted.path == "/api/chat.postMessage"
    assert posted.headers["Authorization"] == f"Bearer {TOKEN}"
    assert posted.body["channel"] == "#archives"
    assert posted.body["blocks"][0]["type"] == "header"


def test_what_teams_gets(listener):
    listener.answers = [Answer(202)]
    teams(listener.url).send(FAILED)
    [posted] = listener.posted
    [attachment] = posted.body["attachments"]
    card = attachment["content"]
    assert (posted.path, posted.body["type"]) == (HOOK, "message")
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert card["body"][0]["text"] == f"🚨 {FAILED.title}"
    assert card["body"][0]["color"] == "attention"
    assert [block["text"] for block in card["body"] if block["type"] == "TextBlock"][1:] == [
        FAILED.happened,
        "• first <line>",
        "• second",
        "Are rows safe?",
        FAILED.safety,
        "What to do",
        "• archiver check --database shop",
        "• Run it again: archiver run",
        *FAILED.notes,
    ]
    assert card["body"][-2] == {
        "type": "FactSet",
        "facts": [{"title": fact.name, "value": fact.value} for fact in FAILED.facts],
    }
    assert card["actions"] == [{"type": "Action.OpenUrl", "title": "Open the run in Dagster", "url": FAILED.link}]


@every_channel
@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_may_pass_is_tried_again(listener, channel, status):
    listener.answers = answers(channel, Answer(status))
    channel(listener.url).send(FAILED)
    assert len(listener.posted) == 2


@every_channel
def test_retry_after_is_honoured(listener, channel):
    listener.answers = answers(channel, Answer(429, headers={"Retry-After": "1"}))
    before = time.monotonic()
    channel(listener.url).send(FAILED)
    assert 1 <= time.monotonic() - before < 3
    assert len(listener.posted) == 2


@every_channel
def test_who_asks_for_more_patience_than_there_is_is_given_up_at_once(listener, channel):
    listener.answers = [Answer(429, headers={"Retry-After": "3600"})]
    before = time.monotonic()
    with pytest.raises(AlertError, match="429"):
        channel(listener.url).send(FAILED)
    assert time.monotonic() - before < 1
    assert len(listener.posted) == 1


@every_channel
def test_it_is_given_up_after_a_few_tries(listener, channel):
    listener.answers = [Answer(500)] * 9
    with pytest.raises(AlertError, match="500"):
        channel(listener.url).send(FAILED)
    assert len(listener.posted) == attempts._MOST_ATTEMPTS


@every_channel
@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_a_refusal_is_not_tried_again(listener, channel, status):
    listener.answers = [Answer(status, b"invalid_payload")]
    with pytest.raises(AlertError) as caught:
        channel(listener.url).send(FAILED)
    assert str(status) in str(caught.value)
    assert len(listener.posted) == 1


def test_a_redirect_is_not_followed(listener):
    listener.answers = [Answer(302, headers={"Location": f"{listener.url}/elsewhere"})]
    with pytest.raises(AlertError, match="302"):
        teams(listener.url).send(FAILED)
    assert len(listener.posted) == 1


@pytest.mark.parametrize("code", ["invalid_auth", "channel_not_found", "not_in_channel"])
def test_slack_says_no_with_status_200(listener, code):
    listener.answers = [
        Answer(body=f'{{"ok": false, "error": "{code}"}}'.encode(), headers={"Content-Type": "application/json"})
    ]
    with pytest.raises(AlertError, match=code):
        slack_by_token(listener.url).send(FAILED)
    assert len(listener.posted) == 1


@every_channel
def test_a_server_that_does_not_answer_is_left_in_time(listener, channel):
    listener.answers = [Answer(after_seconds=2)] * 3
    before = time.monotonic()
    with pytest.raises(AlertError, match="no answer in time"):
        channel(listener.url).send(FAILED)
    assert time.monotonic() - before < 2


@every_channel
def test_nobody_listens(channel):
    with pytest.raises(AlertError, match="connection refused"):
        channel(f"http://127.0.0.1:{free_port()}").send(FAILED)


@every_channel
def test_a_certificate_that_nobody_vouches_for_is_refused(listener, certificate, channel):
    listener.use_tls(certificate)
    with pytest.raises(AlertError, match="certificate is not valid"):
        channel(listener.url.replace("http:", "https:")).send(FAILED)
    assert listener.posted == []


@every_channel
@pytest.mark.parametrize("answer", [Answer(404, HOOK.encode()), Answer(500, TOKEN.encode()), Answer(after_seconds=1)])
def test_no_secret_in_errors_or_logs(listener, channel, answer, caplog):
    caplog.set_level(logging.DEBUG)
    listener.answers = [answer] * 3
    with pytest.raises(AlertError) as caught:
        channel(listener.url).send(FAILED)
    told = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    for secret in (HOOK, TOKEN, "secret-of"):
        assert secret not in told
    mine = [record for record in caplog.records if not record.name.startswith("urllib3")]
    assert not [record for record in mine if re.search("secret-of", record.getMessage())]


def test_long_texts_fit_into_slack(listener):
    long = replace(FAILED, title="t" * 1000, happened="h" * 9000, facts=FAILED.facts * 12, lines=("l" * 100,) * 90)
    slack_by_webhook(listener.url).send(long)
    blocks = listener.posted[0].body["blocks"]
    assert max(len(block["text"]["text"]) for block in blocks if "text" in block) <= 3000
    assert len(blocks[0]["text"]["text"]) <= 150
    assert max(len(block["fields"]) for block in blocks if "fields" in block) <= 10
