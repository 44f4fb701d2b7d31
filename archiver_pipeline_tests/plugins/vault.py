"""A small real HTTPS server that speaks Vault's KV API as its documentation describes it: versions 1 and 2, the look-up
of mounts, tokens, namespaces and errors. No Vault server is packaged for these tests."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

TOKEN = "hvs.canary-vault-token"


@dataclass
class VaultServer:
    """`secrets` by mount and path. `mounts` maps a mount (with its slash) to the version of its engine. `failure` is a
    status that everything is answered with."""

    address: str
    ca_file: Path
    secrets: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    mounts: dict[str, str] = field(default_factory=lambda: {"secret/": "2", "old/kv/": "1"})
    token: str = TOKEN
    namespace: str = ""
    failure: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find it."""
        return {"VAULT_ADDR": self.address, "VAULT_TOKEN": self.token, "VAULT_CACERT": str(self.ca_file)}

    def answer(self, path: str, token: str, namespace: str) -> tuple[int, dict[str, Any]]:
        self.asked.append(path)
        if self.failure:
            return self.failure, {"errors": [f"internal words about {self.secrets}"]}
        if token != self.token or namespace.strip("/") != self.namespace:
            return 403, {"errors": ["permission denied"]}
        looked_up = path.removeprefix("/v1/sys/internal/ui/mounts/")
        if looked_up != path:
            mount = next((one for one in self.mounts if looked_up.startswith(one)), None)
            options = {"version": self.mounts[mount]} if mount and self.mounts[mount] == "2" else None
            # A real one says 403 for a mount that it does not have, so that nobody can find out which there are.
            return (
                (200, {"data": {"path": mount, "type": "kv", "options": options}}) if mount else (403, {"errors": []})
            )
        return self._secret(path.removeprefix("/v1/"))

    def _secret(self, path: str) -> tuple[int, dict[str, Any]]:
        mount = next(one for one in self.mounts if path.startswith(one))
        rest = path.removeprefix(mount)
        versioned = self.mounts[mount] == "2"
        found = self.secrets.get((mount, rest.removeprefix("data/") if versioned else rest))
        if found is None or (versioned and not rest.startswith("data/")):
            return 404, {"errors": []}
        return 200, {"data": {"data": found, "metadata": {"version": 1}} if versioned else found}


@pytest.fixture
def vault(certificate: Path) -> Iterator[VaultServer]:
    """An empty one."""
    with serve_vault(certificate) as server:
        yield server


@contextmanager
def serve_vault(certificate: Path) -> Iterator[VaultServer]:
    """A server until the end of the block; `certificate` is one of 127.0.0.1 with its key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = self.headers
            status, body = server.answer(
                self.path, headers.get("X-Vault-Token", ""), headers.get("X-Vault-Namespace", "")
            )
            content = json.dumps(body).encode()
            self.send_response(status)
            if status == 307:
                self.send_header("Location", f"{server.address}/elsewhere")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    server = VaultServer(f"https://127.0.0.1:{http.server_address[1]}", certificate)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    http.shutdown()
    http.server_close()
