"""A relay to the S3 server that lies in one way about one kind of object, and else passes everything on.

What it says is well formed: status, length and checksum headers fit the bytes that it sends, so that nothing but a
look at the bytes themselves finds the lie.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler
from threading import Lock
from urllib.parse import parse_qs, unquote, urlsplit

from archiver_pipeline_tests.cli.faulty_store import _relay_to, _serving
from archiver_pipeline_tests.plugins.servers import Bucket


class Lie(StrEnum):
    """What the store does."""

    flips_a_bit = "flips a bit of what is read"
    cuts_short = "gives back the first half"
    swaps = "gives back another object of the kind"
    stale = "gives back what was under the key before"
    says_missing = "says that an object is not there"
    loses_the_write = "says OK and stores nothing"
    stores_other_bytes = "says OK and stores other bytes"
    overwrites = "ignores If-None-Match"
    wrong_checksum = "says another checksum than that of the bytes"
    unlisted = "leaves objects out of listings"
    lists_twice = "lists objects twice"


KINDS = {
    "data": r"\.(jsonl\.gz|parquet)$",
    "manifest": r"\.manifest\.json$",
    "receipt": r"\.receipt\.json$",
    "trail": r"/_audit/",
}


@dataclass
class LyingStore:
    """`told` are the keys lied about. The first `honest` chances to lie pass by."""

    endpoint: str
    lie: Lie
    pattern: str
    honest: int = 0
    told: list[str] = field(default_factory=list)
    _chances: int = 0
    _lock: Lock = field(default_factory=Lock)

    def lies_about(self, key: str) -> bool:
        """Whether to lie now, once from the first chance that is not passed by."""
        if not re.search(self.pattern, key):
            return False
        with self._lock:
            self._chances += 1
            tells = self._chances > self.honest and (not self.told or self.lie in _EVERY_TIME)
            if tells:
                self.told.append(key)
            return tells


_READS = frozenset({Lie.flips_a_bit, Lie.cuts_short, Lie.swaps, Lie.stale})
_EVERY_TIME = frozenset({Lie.overwrites, Lie.unlisted, Lie.lists_twice, Lie.wrong_checksum})


@contextmanager
def lying_store(bucket: Bucket, lie: Lie, kind: str, *, honest: int = 0) -> Iterator[LyingStore]:
    """The bucket's endpoint as a liar shows it."""
    store = LyingStore("", lie, KINDS[kind], honest)
    with _serving(_liar(bucket, store)) as store.endpoint:
        yield store


def _liar(bucket: Bucket, store: LyingStore) -> type[BaseHTTPRequestHandler]:
    seen: dict[str, bytes] = {}

    class Liar(_relay_to(urlsplit(bucket.endpoint).netloc)):  # type: ignore[misc]
        @property
        def key(self) -> str:
            return unquote(urlsplit(self.path).path).removeprefix(f"/{bucket.bucket}/")

        @property
        def is_listing(self) -> bool:
            return "list-type" in parse_qs(urlsplit(self.path).query)

        def do_PUT(self) -> None:  # noqa: N802
            lie, key = store.lie, self.key
            if lie is Lie.loses_the_write and store.lies_about(key):
                self._stored(self._body(), None)
            elif lie is Lie.stores_other_bytes and store.lies_about(key):
                body = self._body()
                self._stored(body, body[:-1] + bytes([body[-1] ^ 1]))
            elif lie is Lie.overwrites and "If-None-Match" in self.headers and store.lies_about(key):
                body = self._body()
                self._stored(body, body)
            else:
                self.relay()

        def do_GET(self) -> None:  # noqa: N802
            if store.lie is Lie.says_missing and not self.is_listing and store.lies_about(self.key):
                self._say(404, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>", {})
            else:
                self.relay()

        def do_HEAD(self) -> None:  # noqa: N802
            if store.lie is Lie.says_missing and store.lies_about(self.key):
                self._say(404, b"", {})
            else:
                self.relay()

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _stored(self, sent: bytes, really: bytes | None) -> None:
            # The signature covers the headers and the hash of the body: what is stored is a write of its own.
            if really is not None:
                bucket.client.put_object(Bucket=bucket.bucket, Key=self.key, Body=really)
            digest = base64.b64encode(hashlib.sha256(sent).digest()).decode()
            etag = f'"{hashlib.md5(sent).hexdigest()}"'
            self._say(200, b"", {"ETag": etag, "x-amz-checksum-sha256": digest})

        def _damaged(self, body: bytes) -> bytes:
            if self.command != "GET":
                return body
            if self.is_listing:
                return _listing(store, body)
            return self._read(body)

        def _read(self, body: bytes) -> bytes:
            previous = seen.get(store.pattern)
            if re.search(store.pattern, self.key):
                seen.setdefault(store.pattern, body)
            cannot_yet = store.lie is Lie.swaps and previous is None
            if store.lie not in _READS or cannot_yet or not store.lies_about(self.key):
                return body
            if store.lie is Lie.flips_a_bit:
                middle = len(body) // 2
                return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            if store.lie is Lie.cuts_short:
                return body[: len(body) // 2]
            return previous or b""

        def _say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Liar


def _listing(store: LyingStore, body: bytes) -> bytes:
    """The listing without, or with twice, the entries of the kind that is lied about."""

    def shown(entry: re.Match[bytes]) -> bytes:
        key = re.search(rb"<Key>(.*?)</Key>", entry[0])
        if key is None or not store.lies_about(unquote(key[1].decode())):
            return entry[0]
        return b"" if store.lie is Lie.unlisted else entry[0] * 2

    if store.lie not in (Lie.unlisted, Lie.lists_twice):
        return body
    return re.sub(rb"<Contents>.*?</Contents>", shown, body, flags=re.DOTALL)
