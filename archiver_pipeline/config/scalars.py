"""Types of single values: what a key accepts, its bounds, and the sentence a user reads when it is wrong.

Messages never repeat the value: it may have come from a secret.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from email.utils import getaddresses
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field

from archiver_pipeline.config.enums import Encryption
from archiver_pipeline.domain.retention import LEAST_REASON_CHARACTERS
from archiver_pipeline.secret_sources.reference import parse_reference

# PostgreSQL cuts longer names off without a word, and the name in the file would then match nothing.
MAX_IDENTIFIER_BYTES = 63

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{suffix}": base ** (power + 1)
    for power, letter in enumerate("KMGT")
    for suffix, base in (("B", 1000), ("IB", 1024))
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_TIME_SPAN = re.compile(r"((?:[01]\d|2[0-3]):[0-5]\d)-((?:[01]\d|2[0-3]):[0-5]\d|24:00)")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENCRYPTIONS = {
    "none": Encryption.NONE,
    "bucket-default": Encryption.BUCKET_DEFAULT,
    "sse-s3": Encryption.SSE_S3,
    "aes256": Encryption.SSE_S3,
    "sse-kms": Encryption.SSE_KMS,
    "aws:kms": Encryption.SSE_KMS,
}


def _not_boolean(value: Any) -> Any:
    # Python counts True as 1, so `batch_size: yes` would mean one row per batch.
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _time_span(value: str) -> str:
    """`22:00-06:00`; the end may be 24:00."""
    match = _TIME_SPAN.fullmatch(value.replace(" ", ""))
    if not match:
        raise ValueError("must be a time of day to another, like 22:00-06:00 (the end may be 24:00)")
    if match[1] == match[2]:
        raise ValueError("must not begin and end at the same time: for a whole day write 00:00-24:00")
    return f"{match[1]}-{match[2]}"


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError("must be a time zone's name in the tz database, like UTC or Europe/Berlin") from None
    return value


def _probe(value: str) -> str:
    said = value.strip().rstrip(";").strip()
    if not re.match(r"(?i)(select|with|values|table)\b", said):
        raise ValueError("must be a query that begins with SELECT, WITH, VALUES or TABLE")
    return said


def _byte_size(value: Any) -> Any:
    """Bytes from an int or from text like `512MB` (powers of 1000) or `2GiB` (powers of 1024)."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if not match or match[2].upper() not in _UNITS:
        raise ValueError("must be a number of bytes, or a size like 512MB or 2GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _reason(value: str) -> str:
    """Words, not a mark to get past the question."""
    said = " ".join(value.split())
    if len(said) < LEAST_REASON_CHARACTERS:
        raise ValueError(f"must say why, in at least {LEAST_REASON_CHARACTERS} characters")
    return said


def _encryption(value: Any) -> Any:
    if value is False:
        return Encryption.NONE
    if isinstance(value, str) and value.lower() in _ENCRYPTIONS:
        return _ENCRYPTIONS[value.lower()]
    raise ValueError("must be one of none, bucket-default, SSE-S3 (or AES256), SSE-KMS (or aws:kms)")


def _version(value: Any) -> Any:
    if not isinstance(value, bool) and str(value) in {"1", "1.0"}:
        return "1"
    raise ValueError('must be "1": the only version of this file format so far')


def _calendar_day(value: Any) -> Any:
    if isinstance(value, datetime) or not isinstance(value, date | str):
        raise ValueError("must be a date like 2020-01-01")
    return value


def _identifier(value: str) -> str:
    path_segment(value)
    if len(value.encode()) > MAX_IDENTIFIER_BYTES:
        raise ValueError(f"must be at most {MAX_IDENTIFIER_BYTES} bytes: PostgreSQL cuts longer names off")
    return value


def path_segment(value: str) -> str:
    """Returns the value if it can be one segment of an object key; raises ValueError otherwise."""
    if not value or value != value.strip() or value in {".", ".."}:
        raise ValueError("must not be empty, '.', '..', or begin or end with a space")
    if "/" in value or "\\" in value or not value.isprintable():
        raise ValueError("must not hold '/', a backslash or control characters: it is a part of object keys")
    return value


def _prefix(value: str) -> str:
    stripped = value.strip("/")
    if stripped and any(segment in {"", ".", ".."} for segment in stripped.split("/")):
        raise ValueError("no part between slashes may be empty, '.' or '..'")
    if not stripped.isprintable():
        raise ValueError("must not hold control characters")
    return stripped


def _bucket(value: str) -> str:
    if not _BUCKET.fullmatch(value):
        raise ValueError("must be the bare name of a bucket, without s3:// and without slashes")
    return value


def _endpoint(value: str) -> str:
    if not re.fullmatch(r"https?://[^/\s@?#]+/?", value):
        raise ValueError("must be a URL like https://host:port, without a path and without credentials")
    return value.rstrip("/")


def _web_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^/\s@?#]+(/[^\s?#]*)?", value):
        raise ValueError("must be a URL like https://host:port/path, without credentials and without a query")
    return value.rstrip("/")


def _api_url(value: str) -> str:
    return f"{_web_url(value)}/"


def _mail_address(value: str) -> str:
    found = [address for _, address in getaddresses([value])]
    if len(found) != 1 or not re.fullmatch(r"[^@\s]+@[^@\s]+", found[0]) or not value.isprintable():
        raise ValueError("must be one address like archiver@example.com, or Name <archiver@example.com>")
    return value


def _environment_name(value: str) -> str:
    if not _ENVIRONMENT_NAME.fullmatch(value):
        raise ValueError("must be the NAME of an environment variable, not its value")
    return value


def _secret_reference(value: str) -> str:
    parse_reference(value, Path())
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("must not name one twice")
    return values


Int = Annotated[int, BeforeValidator(_not_boolean)]
Float = Annotated[float, BeforeValidator(_not_boolean), Field(allow_inf_nan=False)]
ByteSize = Annotated[
    int,
    BeforeValidator(_byte_size, json_schema_input_type=int | str),
    BeforeValidator(_not_boolean, json_schema_input_type=int | str),
]
EncryptionName = Annotated[Encryption, BeforeValidator(_encryption, json_schema_input_type=str)]
Version = Annotated[str, BeforeValidator(_version, json_schema_input_type=str | float)]
CalendarDay = Annotated[date, BeforeValidator(_calendar_day, json_schema_input_type=date)]
Text = Annotated[str, Field(min_length=1)]
TimeSpans = Annotated[
    tuple[Annotated[str, AfterValidator(_time_span)], ...],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
    Field(min_length=1),
]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
Probe = Annotated[str, AfterValidator(_probe)]
Reason = Annotated[str, AfterValidator(_reason)]
Identifier = Annotated[str, AfterValidator(_identifier)]
ColumnName = Annotated[str, Field(min_length=1, max_length=MAX_IDENTIFIER_BYTES)]
ColumnNames = Annotated[
    tuple[ColumnName, ...],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
    Field(min_length=1),
    AfterValidator(_distinct),
]
Prefix = Annotated[str, AfterValidator(_prefix)]
Bucket = Annotated[str, AfterValidator(_bucket)]
EndpointUrl = Annotated[str, AfterValidator(_endpoint)]
WebUrl = Annotated[str, AfterValidator(_web_url)]
ApiUrl = Annotated[str, AfterValidator(_api_url)]
MailAddress = Annotated[str, AfterValidator(_mail_address)]
MailAddresses = Annotated[tuple[MailAddress, ...], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
EnvironmentName = Annotated[str, AfterValidator(_environment_name)]
SecretFrom = Annotated[str, AfterValidator(_secret_reference)]
Port = Annotated[Int, Field(ge=1, le=65535)]
HourOfDay = Annotated[Int, Field(ge=0, le=23)]
Days = Annotated[Int, Field(ge=1, le=36_500)]
