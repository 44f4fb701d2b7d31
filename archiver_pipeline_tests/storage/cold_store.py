"""A store with cold classes and their retrieval: moto plays it, and the test says when retrievals end."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4

import boto3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_api import state_manager
from moto.s3.models import FakeKey, s3_backends
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from archiver_pipeline.config.effective import StoreSettings
from archiver_pipeline.config.enums import AddressingStyle, Encryption, StorageClass

_RETRIEVALS = "s3::keyrestore"
_NEVER = 1_000_000


@dataclass
class ColdStore:
    """A bucket on moto's server, and what goes on inside it."""

    settings: StoreSettings
    client: Any

    def put(self, key: str, data: bytes, storage_class: str) -> None:
        self.client.put_object(Bucket=self.settings.bucket, Key=key, Body=data, StorageClass=storage_class)
        # moto would take two steps to the end of a retrieval, the first of which it shows as the end.
        self._inside(key).status = "IN_PROGRESS"

    def restore_header(self, key: str) -> str | None:
        return self.client.head_object(Bucket=self.settings.bucket, Key=key).get("Restore")

    def finish_retrievals(self) -> None:
        """Retrievals end at once, those under way and those to come."""
        state_manager.set_transition(_RETRIEVALS, {"progression": "immediate"})

    def expire(self, key: str, at: datetime) -> None:
        """The retrieved copy was to be kept until then. Like S3, moto does not remove it at that moment."""
        self._inside(key).set_expiry(at)

    def _inside(self, key: str) -> FakeKey:
        return s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[self.settings.bucket].keys[key]


@contextmanager
def cold_store() -> Iterator[ColdStore]:
    """An empty bucket; retrievals that are started stay under way."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = settings_at(f"http://{host}:{port}")
    client = boto3.client(
        "s3", endpoint_url=settings.endpoint, region_name="us-east-1", aws_access_key_id="m", aws_secret_access_key="m"
    )
    client.create_bucket(Bucket=settings.bucket)
    state_manager.set_transition(_RETRIEVALS, {"progression": "manual", "times": _NEVER})
    try:
        yield ColdStore(settings, client)
    finally:
        state_manager.unset_transition(_RETRIEVALS)
        server.stop()


@contextmanager
def store_answering(status: int, code: str) -> Iterator[StoreSettings]:
    """A store that answers everything with one error, for errors that moto does not know."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _answering(status, code))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield settings_at(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def settings_at(endpoint: str) -> StoreSettings:
    return StoreSettings(
        bucket=f"cold-{uuid4().hex}",
        endpoint=endpoint,
        prefix="archives",
        region="us-east-1",
        storage_class=StorageClass.STANDARD,
        encryption=Encryption.NONE,
        kms_key_id=None,
        multipart_threshold_bytes=64 << 20,
        access_key_id="moto",
        secret_access_key=SecretStr("moto"),
        addressing_style=AddressingStyle.PATH,
        local_fallback_dir=None,
    )


def _answering(status: int, code: str) -> type[BaseHTTPRequestHandler]:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the client under test reports what matters."""

    return Answering
