"""A relay to the S3 server that says something else of objects than is so: no encryption, or no lock."""

import http.client
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from archiver_pipeline_tests.cli.faulty_store import _relay_to, _serving

_NO_LOCK = b"<Error><Code>NoSuchObjectLockConfiguration</Code><Message>no lock</Message></Error>"


@contextmanager
def silent_store(endpoint: str, keys: str = "") -> Iterator[str]:
    """The endpoint of a store that encrypts as it is asked and says so of no object whose key is like `keys`."""

    class Silent(_undamaging(endpoint)):  # type: ignore[misc]
        def _answer(self, answer: http.client.HTTPResponse, body: bytes) -> None:
            if re.search(keys, self.path):
                for name in [name for name in answer.headers if "server-side-encryption" in name.lower()]:
                    del answer.headers[name]
            super()._answer(answer, body)

    with _serving(Silent) as own:
        yield own


@contextmanager
def unlocking_store(endpoint: str, keys: str = "") -> Iterator[str]:
    """The endpoint of a store that answers well to every lock, and shows none on objects whose key is like `keys`."""

    class Unlocking(_undamaging(endpoint)):  # type: ignore[misc]
        def do_GET(self) -> None:  # noqa: N802
            if not self.path.endswith("?retention") or not re.search(keys, self.path):
                self.relay()
                return
            self.send_response(404)
            self.send_header("Content-Length", str(len(_NO_LOCK)))
            self.end_headers()
            self.wfile.write(_NO_LOCK)

    with _serving(Unlocking) as own:
        yield own


def _undamaging(endpoint: str) -> type[BaseHTTPRequestHandler]:
    class Undamaging(_relay_to(urlsplit(endpoint).netloc)):  # type: ignore[misc]
        def _damaged(self, body: bytes) -> bytes:
            return body

    return Undamaging
