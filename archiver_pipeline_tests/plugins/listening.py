"""Real servers that alerts are sent to: HTTP, and SMTP with STARTTLS or TLS, a login and a self-made certificate."""

import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509

from archiver_pipeline_tests.certificates import write_certificate

USER, PASSWORD = "archiver", "secret-of-smtp"
TOKEN = "xoxb-secret-of-slack"
HOOK = "/services/T000/secret-of-the-webhook"


@dataclass(frozen=True)
class Answer:
    """What the server says to one request."""

    status: int = 200
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)
    after_seconds: float = 0


@dataclass(frozen=True)
class Posted:
    """One request. `body` is JSON."""

    path: str
    headers: dict[str, str]
    body: Any

    @property
    def text(self) -> str:
        return json.dumps(self.body, ensure_ascii=False)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away before the answer are what some tests are about."""


class HttpListener:
    """Keeps what is posted; `answers` are given in order, then 200 for ever."""

    def __init__(self) -> None:
        self.posted: list[Posted] = []
        self.answers: list[Answer] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                listener.posted.append(Posted(self.path, dict(self.headers.items()), json.loads(content)))
                answer = listener.answers.pop(0) if listener.answers else Answer()
                time.sleep(answer.after_seconds)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def hook(self) -> str:
        """A webhook, with a secret in its path as real ones have."""
        return f"{self.url}{HOOK}"

    @property
    def titles(self) -> list[str]:
        """Titles of the messages that a Slack webhook got, without their marks."""
        return [posted.body["text"].split(": ", 1)[1] for posted in self.posted]

    def use_tls(self, certificate: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class SmtpListener:
    """Keeps the mail that it takes. Wants a login, and TLS before it, when there is a certificate."""

    def __init__(self, certificate: Path | None, *, implicit_tls: bool = False, needs_login: bool = True) -> None:
        self.received: list[EmailMessage] = []
        self.envelopes: list[tuple[str, list[str]]] = []
        self.refusals: list[str] = []
        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
        self._controller = _Controller(
            self,
            hostname="127.0.0.1",
            port=0,
            ssl_context=context if implicit_tls else None,
            tls_context=None if implicit_tls else context,
            require_starttls=context is not None and not implicit_tls,
            authenticator=_authenticate,
            auth_required=needs_login,
            auth_require_tls=context is not None and not implicit_tls,
        )
        self._controller.start()
        self.port: int = self._controller.port

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if self.refusals:
            return self.refusals.pop(0)
        self.received.append(message_from_bytes(envelope.content, policy=policy.default))
        self.envelopes.append((envelope.mail_from, envelope.rcpt_tos))
        return "250 taken"

    def stop(self) -> None:
        self._controller.stop()


class _Controller(Controller):
    def _trigger_server(self) -> None:
        # aiosmtpd connects to the port it was given to see that it serves; 0 is none.
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


def _authenticate(server: Any, session: Any, envelope: Any, mechanism: str, login: Any) -> AuthResult:
    right = isinstance(login, LoginPassword) and (login.login, login.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=right, handled=right)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 with its key."""
    name = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return write_certificate(tmp_path_factory.mktemp("certificate") / "server.pem", name)


@pytest.fixture
def listener() -> Iterator[HttpListener]:
    """An HTTP server that takes alerts."""
    server = HttpListener()
    yield server
    server.stop()
