"""A real HTTPS server that answers for a legal hold API, or misbehaves as a test says."""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from pydantic import SecretStr

from archiver_pipeline.config.effective import HoldSettings
from archiver_pipeline.config.enums import HoldSource
from archiver_pipeline_tests.certificates import write_certificate

TOKEN = "canary-of-the-hold-api"
PATH = "/v1/legal-holds/appdb/public/audit_logs"
Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class HoldApi:
    """`holds` are answered, unless `answer` does something else. `requests` are (path, authorization) as they came."""

    port: int
    certificate: Path
    holds: list[dict[str, object]] = field(default_factory=list)
    answer: Answer | None = None
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def settings(self, **overrides: object) -> HoldSettings:
        own = {"api_endpoint": f"https://localhost:{self.port}/v1", "api_token": SecretStr(TOKEN)}
        return HoldSettings(sources=frozenset({HoldSource.API}), **(own | {"api_timeout_seconds": 5.0} | overrides))

    def document(self) -> dict[str, object]:
        return {"database": "appdb", "schema": "public", "table": "audit_logs", "holds": self.holds}


def send(request: BaseHTTPRequestHandler, body: bytes, *, code: int = 200, **headers: str) -> None:
    request.send_response(code)
    for name, value in ({"Content-Length": str(len(body))} | headers).items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)


def drip(request: BaseHTTPRequestHandler) -> None:
    """A byte now and then: no socket ever times out."""
    request.send_response(200)
    request.end_headers()
    for _ in range(100):
        request.wfile.write(b" ")
        time.sleep(0.1)


@pytest.fixture(scope="session")
def certificate_of_localhost(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of localhost with its key."""
    return write_certificate(tmp_path_factory.mktemp("tls") / "localhost.pem", x509.DNSName("localhost"))


@pytest.fixture
def hold_api(certificate_of_localhost: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HoldApi]:
    """The API, whose certificate this process trusts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            api.requests.append((self.path, self.headers["Authorization"]))
            if api.answer:
                api.answer(self)
            else:
                send(self, json.dumps(api.document()).encode())

        def log_message(self, *_arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_arguments: object) -> None:
            """Clients that hang up are part of the tests."""

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_of_localhost)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    api = HoldApi(server.server_address[1], certificate_of_localhost)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate_of_localhost))
    yield api
    server.shutdown()
    server.server_close()
