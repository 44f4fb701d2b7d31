"""Relays in front of the S3 server, on ports of their own: one damages data objects on their way back, one holds
writes back for ever.

Signatures cover the host as the client names it, so headers pass as they are and the server checks them as ever.
"""

import http.client
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from urllib.parse import urlsplit

_HOP_HEADERS = {"connection", "expect", "transfer-encoding", "content-length"}


@contextmanager
def damaging_store(endpoint: str) -> Iterator[str]:
    """The endpoint of a store whose data objects come back with one byte changed."""
    with _serving(_relay_to(urlsplit(endpoint).netloc)) as own:
        yield own


@dataclass
class Hold:
    """Writes of keys like `pattern` after the first `let_pass` never arrive; `held` counts them."""

    pattern: str
    let_pass: int
    seen: int = 0
    held: int = 0
    dropped: Event = field(default_factory=Event)


@dataclass
class HoldingStore:
    """A store that answers as ever, except for the writes that a test lets it hold back."""

    endpoint: str
    holds: list[Hold] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def hold(self, pattern: str, *, let_pass: int) -> Hold:
        self.holds.append(Hold(pattern, let_pass))
        return self.holds[-1]

    def drop(self, hold: Hold) -> None:
        """Forget what is held, unanswered, and hold no more."""
        self.holds.remove(hold)
        hold.dropped.set()

    def keeps(self, path: str) -> bool:
        """Whether this write is to be dropped; returns then when its hold ends."""
        for hold in self.holds:
            with self.lock:
                hold.seen += bool(re.search(hold.pattern, path))
                is_held = bool(re.search(hold.pattern, path)) and hold.seen > hold.let_pass
                hold.held += is_held
            if is_held:
                hold.dropped.wait()
                return True
        return False


@contextmanager
def holding_store(endpoint: str) -> Iterator[HoldingStore]:
    """A relay to `endpoint` that can hold writes back."""
    relay = _relay_to(urlsplit(endpoint).netloc)

    class Holding(relay):
        def do_PUT(self) -> None:  # noqa: N802
            if store.keeps(self.path):
                self.close_connection = True
            else:
                self.relay()

        def _damaged(self, body: bytes) -> bytes:
            return body

    with _serving(Holding) as own:
        store = HoldingStore(own)
        yield store
        for hold in list(store.holds):
            store.drop(hold)


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _relay_to(upstream: str) -> type[BaseHTTPRequestHandler]:
    class Relay(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def relay(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_HEADERS}
            connection = http.client.HTTPConnection(upstream, timeout=30)
            connection.request(self.command, self.path, sent, headers)
            answer = connection.getresponse()
            self._answer(answer, self._damaged(answer.read()))
            connection.close()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = relay  # noqa: N815

        def _damaged(self, body: bytes) -> bytes:
            """A data object with one byte changed; everything else as it is."""
            if self.command != "GET" or ".jsonl.gz" not in self.path or not body:
                return body
            middle = len(body) // 2
            return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]

        def _answer(self, answer: http.client.HTTPResponse, body: bytes) -> None:
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                # A checksum of the store's own would give the damage away before our own proof is asked.
                if name.lower() not in _HOP_HEADERS and "checksum" not in name.lower():
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the client under test reports what matters."""

    return Relay
