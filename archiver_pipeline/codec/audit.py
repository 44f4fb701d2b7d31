"""Links of the audit trail and configurations as JSON."""

from collections.abc import Iterable
from typing import Any

import orjson
from pydantic import ValidationError

from archiver_pipeline.codec.adapters import adapter_of
from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.domain.audit import AUDIT_FORMAT_VERSION, AuditHead, AuditLink, Fact, TrailAnchor
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.errors import ManifestError

_SHOWN = 5


def encode_link(link: AuditLink) -> bytes:
    """A link as indented JSON: people read it."""
    return orjson.dumps(link, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def decode_link(data: bytes, *, key: str) -> AuditLink:
    """Read a link. `key` names it in the error.

    Raises ManifestError when it is not exactly one of this format version, in every part.
    """
    try:
        fields: Any = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ManifestError(f"{key} is not JSON: {error}") from error
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if version != AUDIT_FORMAT_VERSION:
        raise ManifestError(
            f"{key} has format version {version!r}; this version reads {AUDIT_FORMAT_VERSION}",
            hint="use the version of archiver_pipeline that wrote it, or a newer one",
        )
    try:
        link = adapter_of(AuditLink).validate_python(fields)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, item["loc"])) for item in error.errors()[:_SHOWN])
        raise ManifestError(f"{key} is not a link of an audit trail: {places}") from error
    if orjson.loads(encode_link(link)) != fields:
        raise ManifestError(f"{key} is not a link of an audit trail: parts of it are unknown or of another type")
    return link


def canonical_json(value: dict[str, Fact]) -> bytes:
    """JSON whose bytes depend on nothing but the value: sorted keys, no white space."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def configuration_hash(configuration: dict[str, Fact]) -> str:
    """SHA-256 of a configuration's canonical JSON."""
    return sha256_hex(canonical_json(configuration))


def encode_heads(heads: Iterable[tuple[TableName, AuditHead]], *, at: str, bucket: str, prefix: str) -> str:
    """Heads of chains as the document that `archiver audit head --json` prints, to be kept elsewhere."""
    document = {
        "format_version": AUDIT_FORMAT_VERSION,
        "at": at,
        "bucket": bucket,
        "prefix": prefix,
        "heads": [
            {
                "database": name.database,
                "schema": name.schema,
                "table": name.table,
                "sequence": head.sequence,
                "sha256": head.sha256,
            }
            for name, head in heads
        ],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def decode_anchors(data: bytes) -> list[TrailAnchor]:
    """Heads out of such a document. Raises ManifestError when it is none."""
    try:
        document = orjson.loads(data)
        if document["format_version"] != AUDIT_FORMAT_VERSION:
            raise ManifestError(f"its format version is {document['format_version']!r}")
        return [_anchor(head) for head in document["heads"]]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ManifestError("it is no document of heads") from error


def _anchor(head: dict[str, Any]) -> TrailAnchor:
    name = TableName(head["database"], head["schema"], head["table"])
    return TrailAnchor(name, int(head["sequence"]), str(head["sha256"]))
