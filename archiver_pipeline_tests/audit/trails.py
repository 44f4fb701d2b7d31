"""Trails of a test: writing some entries, and reading a chain with nothing of the package under test."""

import hashlib
import json
from typing import Any

from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.audit import AuditTrail
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.plugins.servers import Bucket

NAME = TableName("appdb", "public", "audit_logs")


def trail(store: S3Store, name: TableName = NAME, **options: Any) -> AuditTrail:
    return AuditTrail(store, name, "app", "test-run", **options)


def link_keys(bucket: Bucket, name: TableName = NAME) -> list[str]:
    return bucket.keys(f"{bucket.prefix}/_audit/{name.database}/{name.schema}/{name.table}/")


def links(bucket: Bucket, name: TableName = NAME) -> list[dict[str, Any]]:
    """The links of a chain, each of which is held against the one before it."""
    found, previous = [], "none"
    for number, key in enumerate(link_keys(bucket, name), 1):
        data = bucket.read(key)
        link = json.loads(data)
        assert key.endswith(f"/{number:012d}.json")
        assert (link["sequence"], link["previous_sha256"]) == (number, previous), key
        previous = hashlib.sha256(data).hexdigest()
        found.append(link)
    return found


def entries(bucket: Bucket, kind: str | None = None, name: TableName = NAME) -> list[dict[str, Any]]:
    found = [entry for link in links(bucket, name) for entry in link["entries"]]
    return [entry for entry in found if kind in (None, entry["kind"])]
