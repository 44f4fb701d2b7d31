"""Stores that do not replace conditionally: a relay to the S3 server that ignores conditions or refuses them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

from archiver_pipeline_tests.cli.faulty_store import _relay_to
from archiver_pipeline_tests.plugins.servers import Bucket

CONDITIONS = ("If-Match", "If-None-Match")
_NOT_IMPLEMENTED = b"<?xml version='1.0'?><Error><Code>NotImplemented</Code><Message>no conditions</Message></Error>"


class Weakness(StrEnum):
    """What a store does with a write that has a condition."""

    ignores = "ignores"
    refuses = "refuses"


@contextmanager
def weak_store(bucket: Bucket, weakness: Weakness) -> Iterator[Bucket]:
    """The bucket as a weak store shows it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _weak_relay(bucket, weakness))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield replace(bucket, endpoint=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _weak_relay(bucket: Bucket, weakness: Weakness) -> type[BaseHTTPRequestHandler]:
    class WeakRelay(_relay_to(urlsplit(bucket.endpoint).netloc)):  # type: ignore[misc]
        def do_PUT(self) -> None:  # noqa: N802
            if not any(self.headers.get(name) for name in CONDITIONS):
                self.relay()
                return
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if weakness is Weakness.refuses:
                self._say(501, _NOT_IMPLEMENTED)
                return
            # The signature covers the condition, so the write is made anew without it.
            key = unquote(urlsplit(self.path).path).removeprefix(f"/{bucket.bucket}/")
            bucket.client.put_object(Bucket=bucket.bucket, Key=key, Body=body)
            self._say(200, b"")

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return WeakRelay
