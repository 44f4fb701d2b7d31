"""Manifests, receipts, marks, documents of expiry, protections, watermarks and checkpoints as JSON.

Unknown fields, missing fields, wrong types and unknown format versions are refused: nothing is guessed about a
document that decides whether rows may be deleted.
"""

from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from archiver_pipeline.codec.adapters import adapter_of
from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.domain.fallback import StaleMark
from archiver_pipeline.domain.manifest import (
    FORMAT_VERSION,
    Expired,
    ExpiryIntent,
    KeptDocument,
    Manifest,
    Receipt,
    Superseded,
)
from archiver_pipeline.domain.protection import Protection, moment_of
from archiver_pipeline.domain.watermark import WatermarkDocument
from archiver_pipeline.errors import ManifestError

Document = TypeVar(
    "Document",
    Manifest,
    Receipt,
    Superseded,
    ExpiryIntent,
    Expired,
    Protection,
    WatermarkDocument,
    KeptDocument,
    StaleMark,
)
_MEND_WATERMARK = "mend the object, or remove it: then the next restore takes every archive again"
_READABLE = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as one line of JSON with a newline; keys make it long, so it is not indented."""
    fields = {name: getattr(manifest, name) for name in manifest.__dataclass_fields__}
    if manifest.leaf is None:
        # As it was before there were leaves: the bytes of a manifest must not depend on who encodes it again.
        del fields["leaf"]
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)


def encode_kept(document: KeptDocument) -> bytes:
    """The description of a kept batch, in one line for its keys."""
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)


def decode_kept(data: bytes, *, key: str) -> KeptDocument:
    """Read the description of a kept batch. Raises ManifestError when it is not whole, to the last byte of its
    manifest."""
    document = decode_document(KeptDocument, data, key=key)
    if sha256_hex(encode_manifest(document.manifest)) != document.manifest_sha256:
        raise ManifestError(f"{key}: its manifest is not the one that was kept")
    try:
        moment_of(document.kept_at)
    except ValueError as error:
        raise ManifestError(f"{key}: {error}") from error
    return document


def encode_mark(document: Receipt | Superseded | ExpiryIntent | Expired | Protection | StaleMark) -> bytes:
    """A receipt, mark, document of expiry or protection as indented JSON."""
    return orjson.dumps(document, option=_READABLE)


def decode_document(kind: type[Document], data: bytes, *, key: str) -> Document:
    """Read a document. `key` names it in the error.

    Raises ManifestError when it is not exactly a `kind` of this format version.
    """
    fields = _parse(data, key)
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        raise ManifestError(
            f"{key} has format version {version!r}; this version reads {FORMAT_VERSION}",
            hint="use the version of archiver_pipeline that wrote it, or a newer one",
        )
    return _validated(kind, fields, key)


def decode_protection(data: bytes, *, key: str) -> Protection:
    """Read a protection. `key` names it in the error.

    Raises ManifestError when it is not exactly one of this format version, or says no time or range.
    """
    protection = decode_document(Protection, data, key=key)
    try:
        _require_times(protection)
    except ValueError as error:
        raise ManifestError(f"{key} is not a valid protection: {error}") from error
    return protection


def encode_watermark(watermark: WatermarkDocument) -> bytes:
    """A watermark as indented JSON: people may have to mend it."""
    return orjson.dumps(watermark, option=_READABLE)


def decode_watermark(data: bytes, *, key: str) -> WatermarkDocument:
    """Read a watermark. `key` names it in the error.

    Raises ManifestError when it is not exactly one of this format version, in every part: it is written again as a
    whole, and what was not understood would be lost.
    """
    try:
        watermark = decode_document(WatermarkDocument, data, key=key)
        if orjson.loads(encode_watermark(watermark)) != orjson.loads(data):
            raise ManifestError(f"{key} is not a valid watermark: parts of it are unknown or of another type")
    except ManifestError as error:
        raise ManifestError(error.message, hint=error.hint or _MEND_WATERMARK) from error
    return watermark


def _require_times(protection: Protection) -> None:
    moment_of(protection.created_at)
    moment_of(protection.ends_at)
    if not protection.ranges:
        raise ValueError("it has no ranges")
    for one in protection.ranges:
        if moment_of(one.start) >= moment_of(one.end):
            raise ValueError(f"the range from {one.start} ends before it begins")


def _parse(data: bytes, key: str) -> dict[str, Any]:
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ManifestError(f"{key} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ManifestError(f"{key} is not a JSON object")
    return fields


def _validated(kind: type[Document], fields: dict[str, Any], key: str) -> Document:
    known = set(kind.__dataclass_fields__)
    if unknown := set(fields) - known:
        raise ManifestError(f"{key} has unknown fields: {', '.join(sorted(unknown))}")
    try:
        return adapter_of(kind).validate_python(fields)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, item["loc"])) for item in error.errors()[:5])
        raise ManifestError(f"{key} is not a valid {kind.__name__.lower()}: {places}") from error
