"""A real HTTPS server that answers for a legal hold API, or misbehaves as a test says."""

import datetime as dt
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
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from archiver_pipeline.config.effective import HoldSettings
from archiver_pipeline.config.enums import HoldSource

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
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of localhost and its key, in one file, that nobody trusts unless told."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost")]
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def hold_api(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HoldApi]:
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
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    api = HoldApi(server.server_address[1], certificate)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    yield api
    server.shutdown()
    server.server_close()
