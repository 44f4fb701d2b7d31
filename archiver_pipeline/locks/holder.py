"""The holder's name as it stands in a lock: one line of JSON, for the next run to tell and for people to read."""

import os
import secrets
import socket
from dataclasses import asdict
from datetime import UTC, datetime

import orjson
import psutil

from archiver_pipeline.domain.lock import Holder

_OWNER_BYTES = 16


def this_process(run_id: str) -> Holder:
    """A holder with a new random owner. Times are those of this machine's clock: they decide nothing."""
    return Holder(
        owner=secrets.token_hex(_OWNER_BYTES),
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at=_text(psutil.Process().create_time()),
        since=_text(datetime.now(UTC).timestamp()),
        run_id=run_id,
    )


def encode_holder(holder: Holder) -> bytes:
    return orjson.dumps(asdict(holder))


def decode_holder(data: bytes) -> Holder | None:
    """None for anything else: a name half written, or somebody else's key. It is for people and decides nothing."""
    try:
        return Holder(**orjson.loads(data))
    except (orjson.JSONDecodeError, TypeError):
        return None


def _text(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="seconds")
