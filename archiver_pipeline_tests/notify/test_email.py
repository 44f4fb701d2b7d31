"""Email on a real SMTP server: STARTTLS, TLS, login, certificates, refusals."""

import pytest
from pydantic import SecretStr

from archiver_pipeline.config.notifications import EmailSettings
from archiver_pipeline.errors import AlertError
from archiver_pipeline.notify.email import EmailChannel
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.notify.alerts import FAILED
from archiver_pipeline_tests.plugins.listening import PASSWORD, USER, SmtpListener


@pytest.fixture
def listen(certificate):
    """Starts SMTP servers for this test."""
    started = []

    def start(**options):
        started.append(SmtpListener(options.pop("certificate", certificate), **options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def channel(server_or_port, certificate, **settings):
    port = server_or_port if isinstance(server_or_port, int) else server_or_port.port
    written = {
        "host": "127.0.0.1",
        "port": port,
        "use_tls": True,
        "implicit_tls": False,
        "ca_file": certificate,
        "username": USER,
        "password": SecretStr(PASSWORD),
        "sender": "Archiver <archiver@example.com>",
        "to": ("dba@example.com", "Night Watch <watch@example.com>"),
        "unready": "",
    }
    return EmailChannel(EmailSettings(**written | settings))


def test_what_arrives_by_starttls_with_a_login(listen, certificate):
    server = listen()
    channel(server, certificate).send(FAILED)
    [message] = server.received
    assert server.envelopes == [("archiver@example.com", ["dba@example.com", "watch@example.com"])]
    assert message["Subject"] == FAILED.title
    assert message["From"] == "Archiver <archiver@example.com>"
    assert message["To"] == "dba@example.com, Night Watch <watch@example.com>"
    assert (message["Auto-Submitted"], message["Importance"]) == ("auto-generated", "high")
    assert message["Message-ID"].endswith("@example.com>")
    plain = message.get_body(("plain",)).get_content()
    for text in (FAILED.happened, FAILED.safety, *FAILED.next_steps, *FAILED.lines, *FAILED.notes, FAILED.link):
        assert text in plain
    html = message.get_body(("html",)).get_content()
    assert "&lt;timeout&gt; &amp; more" in html
    assert f'<a href="{FAILED.link}">' in html


def test_tls_from_the_first_byte(listen, certificate):
    server = listen(implicit_tls=True)
    channel(server, certificate, implicit_tls=True).send(FAILED)
    assert len(server.received) == 1


def test_no_encryption_only_when_it_is_asked_for(listen):
    server = listen(certificate=None, needs_login=False)
    channel(server, None, use_tls=False, username=None, password=None).send(FAILED)
    assert len(server.received) == 1


def test_a_server_without_starttls_gets_nothing(listen, certificate):
    server = listen(certificate=None, needs_login=False)
    with pytest.raises(AlertError, match="STARTTLS"):
        channel(server, certificate).send(FAILED)
    assert server.received == []


@pytest.mark.parametrize("implicit_tls", [False, True])
def test_a_certificate_that_nobody_vouches_for_is_refused(listen, implicit_tls):
    server = listen(implicit_tls=implicit_tls)
    with pytest.raises(AlertError, match="certificate is not valid"):
        channel(server, None, implicit_tls=implicit_tls).send(FAILED)
    assert server.received == []


def test_a_certificate_of_another_host_is_refused(listen, certificate):
    server = listen()
    with pytest.raises(AlertError, match="certificate is not valid"):
        channel(server, certificate, host="localhost").send(FAILED)


def test_a_wrong_password_is_said_and_not_shown(listen, certificate):
    server = listen()
    with pytest.raises(AlertError, match="user or password was refused") as caught:
        channel(server, certificate, password=SecretStr("secret-and-wrong")).send(FAILED)
    assert "secret" not in f"{caught.value!r} {caught.value}"


def test_a_temporary_refusal_is_tried_again(listen, certificate):
    server = listen()
    server.refusals = ["451 greylisted"]
    channel(server, certificate).send(FAILED)
    assert len(server.received) == 1


def test_a_permanent_refusal_is_not(listen, certificate):
    server = listen()
    server.refusals = ["554 no secret-word spam", "554 again"]
    with pytest.raises(AlertError, match="554") as caught:
        channel(server, certificate).send(FAILED)
    assert len(server.refusals) == 1
    assert "secret-word" not in str(caught.value)


def test_nobody_listens(certificate):
    with pytest.raises(AlertError, match="connection refused"):
        channel(free_port(), certificate).send(FAILED)


def test_a_ca_file_that_is_not_there(listen, tmp_path):
    with pytest.raises(AlertError, match="No such file"):
        channel(listen(), tmp_path / "ca.pem").send(FAILED)


def test_a_password_that_smtp_can_not_send_is_said_and_not_shown(listen, certificate):
    with pytest.raises(AlertError, match="must be ASCII") as refused:
        channel(listen(), certificate, password=SecretStr("pässword")).send(FAILED)
    assert "pässword" not in str(refused.value)
