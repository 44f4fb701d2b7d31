"""Rules between keys: unique names, retention bounds, compression levels, encryption, secrets.

They run over whatever is readable, even when other places of the file are wrong, so that one reading of the
file reports everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from archiver_pipeline.config.document import Document, Location
from archiver_pipeline.config.enums import Encryption, HoldSource, ObjectFormat, ObjectLockMode, SslMode
from archiver_pipeline.config.models import (
    BUILT_IN_DEFAULTS,
    S3,
    Compliance,
    Database,
    Defaults,
    Email,
    InheritedSettings,
    LegalHolds,
    Lock,
    Notifications,
    Section,
    Slack,
    Table,
    Teams,
)
from archiver_pipeline.config.problems import did_you_mean
from archiver_pipeline.config.safekeeping import (
    encryption_reason,
    is_alias,
    rules_of,
    tls_defect,
    tls_reason,
)
from archiver_pipeline.config.scalars import path_segment
from archiver_pipeline.domain.retention import RETENTION_FLOOR_DAYS
from archiver_pipeline.errors import ConfigProblem

MAX_GZIP_LEVEL = 9
RESERVED_DATABASE_IDS = {"_audit": "the audit trail is", "_dagster": "what belongs to runs is"}
_REDIS_URL = re.compile(
    r"rediss?://([^/@\s]*@)?(\[[\da-fA-F:.]+\]|[^/@:\s?#\[\]]+)(:\d{1,5})?(/\d*)?(\?\S*)?"
    r"|unix://([^/@\s]*@)?/[^\s@]+"
)
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

_Model = TypeVar("_Model", bound=BaseModel)

# What an unreadable key is taken for, so that the rest of its mapping is still looked at.
_ANY_TABLE = {"name": "(unreadable)", "timestamp_column": "any"}
_ANY_DATABASE = {"name": "(unreadable)", "host": "any", "user": "any", "tables": [_ANY_TABLE]}
_ANY_STORE = {"bucket": "any"}


@dataclass(frozen=True)
class Written:
    """A part of the file that could be read: its place, the model, and the keys it writes, right or wrong."""

    location: Location
    model: InheritedSettings
    keys: frozenset[str]


@dataclass(frozen=True)
class WrittenTable:
    """A table with the levels it inherits from, innermost first."""

    location: Location
    table: Table
    levels: tuple[Written, ...]

    def effective(self, name: str) -> Any:
        """The value after table > database > defaults > built in."""
        return inherited(name, [level.model for level in self.levels])

    def place_of(self, key: str) -> Location:
        """Where the effective value is written; the table itself where it is written nowhere."""
        written = (level.location for level in self.levels if key in level.keys)
        return (*next(written, self.location), key)


@dataclass(frozen=True)
class WrittenDatabase:
    """A database without its tables, and the tables that could be read."""

    location: Location
    database: Database
    tables: tuple[WrittenTable, ...]


@dataclass(frozen=True)
class Readable:
    """Everything of a file that could be read on its own."""

    document: Document
    s3: S3
    compliance: Compliance
    notifications: Notifications
    lock: Lock
    databases: tuple[WrittenDatabase, ...]
    legal_holds: LegalHolds

    @property
    def tables(self) -> Iterator[WrittenTable]:
        for database in self.databases:
            yield from database.tables


def inherited(name: str, levels: Iterable[InheritedSettings]) -> Any:
    """The first of the levels that says something, else the built-in default (None for retention_days)."""
    said = (getattr(level, name) for level in levels)
    return next((value for value in said if value is not None), BUILT_IN_DEFAULTS[name])


def cross_problems(document: Document, environ: Mapping[str, str]) -> Iterator[ConfigProblem]:
    """Every violation of a rule between keys."""
    readable = _readable(document)
    yield from _database_names(readable)
    yield from _table_names(readable)
    yield from _retention(readable)
    yield from _classifications(readable)
    yield from _compression(readable)
    yield from _encryption(readable)
    yield from _object_lock(readable)
    yield from _tls(readable)
    yield from _store_credentials(readable)
    yield from _redis_url(readable, environ)
    yield from _holds(readable)
    yield from _doubled_secrets(readable.document)
    yield from _missing_secrets(readable, environ)
    yield from _notifications(readable)


def _readable(document: Document) -> Readable:
    data = document.data
    raw_defaults = _mapping(data.get("defaults"))
    defaults = _level(_lenient(Defaults, raw_defaults, {}), raw_defaults, ("defaults",))
    return Readable(
        document,
        _lenient(S3, _mapping(data.get("s3")), _ANY_STORE),
        _lenient(Compliance, _mapping(data.get("compliance")), {}),
        _lenient(Notifications, _mapping(data.get("notifications")), {}),
        _lenient(Lock, _mapping(data.get("lock")), {}),
        tuple(_readable_databases(data.get("databases"), defaults)),
        _lenient(LegalHolds, _mapping(data.get("legal_holds")), {}),
    )


def _readable_databases(raw: Any, defaults: Written) -> Iterator[WrittenDatabase]:
    for index, entry in _mappings(raw):
        location: Location = ("databases", index)
        header = {key: value for key, value in entry.items() if key != "tables"}
        database = _lenient(Database, header, _ANY_DATABASE)
        level = _level(database, entry, location)
        tables = tuple(_readable_tables(entry.get("tables"), (level, defaults)))
        yield WrittenDatabase(location, database, tables)


def _readable_tables(raw: Any, outer: tuple[Written, ...]) -> Iterator[WrittenTable]:
    for index, entry in _mappings(raw):
        location = (*outer[0].location, "tables", index)
        table = _lenient(Table, entry, _ANY_TABLE)
        yield WrittenTable(location, table, (_level(table, entry, location), *outer))


def _mapping(raw: Any) -> dict[str, Any]:
    return raw if isinstance(raw, dict) else {}


def _mappings(raw: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    entries = raw if isinstance(raw, list) else []
    return ((index, entry) for index, entry in enumerate(entries) if isinstance(entry, dict))


def _level(model: InheritedSettings, entry: dict[str, Any], location: Location) -> Written:
    keys = frozenset(key for key, value in entry.items() if value is not None)
    return Written(location, model, keys)


def _lenient(model: type[_Model], raw: dict[str, Any], stand_ins: dict[str, Any]) -> _Model:
    """The model without the keys that are wrong, and with stand-ins for required ones."""
    entry = stand_ins | {key: value for key, value in raw.items() if value is not None}
    try:
        return model.model_validate(entry)
    except ValidationError as error:
        wrong = {detail["loc"][0] for detail in error.errors()}
    readable = {key: value for key, value in entry.items() if key not in wrong}
    return model.model_validate(stand_ins | readable)


def _database_names(readable: Readable) -> Iterator[ConfigProblem]:
    first: dict[str, Location] = {}
    for database in readable.databases:
        key_id = database.database.key_id
        place = (*database.location, "id" if database.database.id else "name")
        if key_id == _ANY_DATABASE["name"]:
            continue
        if key_id in first:
            other = readable.document.problem(first[key_id], "").path
            message = f"database {key_id} is already at {other}"
            yield readable.document.problem(place, message, "give one of them a unique id")
        first.setdefault(key_id, database.location)
        yield from _segment_problem(readable.document, place, key_id)


def _segment_problem(document: Document, place: Location, key_id: str) -> Iterator[ConfigProblem]:
    try:
        path_segment(key_id)
    except ValueError as error:
        yield document.problem(place, str(error), "write an id beside the name")
    if key_id in RESERVED_DATABASE_IDS:
        yield document.problem(place, f"{key_id} is where {RESERVED_DATABASE_IDS[key_id]} kept", "write another id")


def _table_names(readable: Readable) -> Iterator[ConfigProblem]:
    for database in readable.databases:
        first: dict[tuple[str, str], Location] = {}
        for written in database.tables:
            name = (written.table.schema_name, written.table.name)
            if written.table.name == _ANY_TABLE["name"]:
                continue
            if name in first:
                other = readable.document.problem(first[name], "").path
                message = f"table {'.'.join(name)} is already at {other}"
                yield readable.document.problem((*written.location, "name"), message)
            first.setdefault(name, written.location)


def _retention(readable: Readable) -> Iterator[ConfigProblem]:
    for written in readable.tables:
        days = written.effective("retention_days")
        place = (*written.location, "retention_days")
        if days is not None:
            yield from _retention_bounds(readable, written, days)
            yield from _archive_retention(readable, written, days)
        elif not any("retention_days" in level.keys for level in written.levels):
            hint = "write it here, at the database or under defaults"
            yield readable.document.problem(place, "required, but not written at any level", hint)


def _retention_bounds(readable: Readable, written: WrittenTable, days: int) -> Iterator[ConfigProblem]:
    """Bounds of the policy, and the floor, which holds also where the policy is disabled."""
    low, high = _bounds(readable, written.table)
    origin = readable.document.problem(written.place_of("retention_days"), "").path
    place = (*written.location, "retention_days")
    has_reason = written.effective("retention_floor_override") is not None
    if low is not None and days < low and (low >= RETENTION_FLOOR_DAYS or has_reason):
        message = f"{days} days (from {origin}) is less than the policy's minimum of {low}"
        yield readable.document.problem(place, message)
    elif days < RETENTION_FLOOR_DAYS and not (has_reason or _is_override_unreadable(written)):
        message = f"{days} days (from {origin}) is below the floor of {RETENTION_FLOOR_DAYS}"
        hint = 'if it is meant, write retention_floor_override: "why" beside it; it is recorded at every run'
        yield readable.document.problem(place, message, hint)
    if high is not None and days > high:
        message = f"{days} days (from {origin}) is more than the policy's maximum of {high}"
        yield readable.document.problem(place, message)


def _bounds(readable: Readable, table: Table) -> tuple[int | None, int | None]:
    policy = readable.compliance.retention_policy
    if not policy.enabled:
        return None, None
    rules = rules_of(readable.compliance, table)
    return (
        rules.min_retention_days or policy.min_retention_days,
        rules.max_retention_days or policy.max_retention_days,
    )


def _is_override_unreadable(written: WrittenTable) -> bool:
    """Written somewhere, and wrong: that has a problem of its own."""
    return any("retention_floor_override" in level.keys for level in written.levels)


def _archive_retention(readable: Readable, written: WrittenTable, days: int) -> Iterator[ConfigProblem]:
    """An archive must not be gone before its rows may leave the table, nor before the policy lets it go."""
    archive_days = written.effective("archive_retention_days")
    if archive_days is None:
        return
    policy = readable.compliance.retention_policy
    rules = rules_of(readable.compliance, written.table)
    low = (rules.min_archive_retention_days or policy.min_archive_retention_days) if policy.enabled else None
    origin = readable.document.problem(written.place_of("archive_retention_days"), "").path
    place = (*written.location, "archive_retention_days")
    if archive_days <= days:
        message = f"{archive_days} days (from {origin}) is not more than retention_days, {days}"
        yield readable.document.problem(place, message, "both count from the time of a row")
    elif low is not None and archive_days < low:
        message = f"{archive_days} days (from {origin}) is less than the policy's minimum of {low}"
        yield readable.document.problem(place, message)


def _classifications(readable: Readable) -> Iterator[ConfigProblem]:
    """A misspelt classification would take the table out of its rules. Where none is declared, it is only a word."""
    known = readable.compliance.data_classifications
    if not known:
        return
    for written in readable.tables:
        name = written.table.classification
        if name and name not in known:
            hint = did_you_mean(name, known) or f"declared: {', '.join(sorted(known)[:20])}"
            place = (*written.location, "classification")
            yield readable.document.problem(place, "not among compliance.data_classifications", hint)


def _compression(readable: Readable) -> Iterator[ConfigProblem]:
    reported: set[Location] = set()
    for written in readable.tables:
        level, place = written.effective("compression_level"), written.place_of("compression_level")
        is_gzip = written.effective("format") == ObjectFormat.JSONL_GZ
        if is_gzip and level is not None and level > MAX_GZIP_LEVEL and place not in reported:
            reported.add(place)
            message = f"must be at most {MAX_GZIP_LEVEL} for {ObjectFormat.JSONL_GZ}"
            yield readable.document.problem(place, message, "only parquet goes to 22")


def _encryption(readable: Readable) -> Iterator[ConfigProblem]:
    s3 = readable.s3
    if s3.encryption == Encryption.SSE_KMS and not s3.kms_key_id:
        yield readable.document.problem(("s3", "kms_key_id"), "required for encryption SSE-KMS")
    demanding = [(written, reason) for written in readable.tables if (reason := _encryption_reason(readable, written))]
    if demanding and s3.kms_key_id and is_alias(s3.kms_key_id):
        message = f"an alias, but {demanding[0][1]}: the store answers with the key's ARN, which can't be compared"
        yield readable.document.problem(("s3", "kms_key_id"), message, "write the key's ARN")
    if s3.encryption != Encryption.NONE or _is_unreadable_encryption(readable.document):
        return
    for written, reason in demanding:
        hint = "set s3.encryption to SSE-S3, SSE-KMS or bucket-default"
        yield readable.document.problem(written.location, f"{reason}, but s3.encryption is none", hint)


def _is_unreadable_encryption(document: Document) -> bool:
    written = _mapping(document.data.get("s3")).get("encryption") or Encryption.NONE
    return str(written).lower() != Encryption.NONE


def _encryption_reason(readable: Readable, written: WrittenTable) -> str:
    return encryption_reason(readable.compliance, written.table)


def _object_lock(readable: Readable) -> Iterator[ConfigProblem]:
    lock, document = readable.s3.object_lock, readable.document
    if lock is None:
        return
    if lock.mode is ObjectLockMode.COMPLIANCE and not lock.acknowledge_irrevocable:
        message = "required: true beside mode compliance, because nobody can lift such a lock until it ends"
        yield document.problem(("s3", "object_lock", "acknowledge_irrevocable"), message, "or use mode governance")
    if lock.retain_days is None and any(map(_is_kept_for_ever, readable.tables)):
        message = "required: not every table has archive_retention_days to derive it from"
        yield document.problem(("s3", "object_lock", "retain_days"), message)


def _is_kept_for_ever(written: WrittenTable) -> bool:
    return written.effective("archive_retention_days") is None


def _tls(readable: Readable) -> Iterator[ConfigProblem]:
    """What would let a connection be in clear, or to another server than is meant, where TLS is required."""
    document = readable.document
    if readable.compliance.require_tls and (readable.s3.endpoint or "").startswith("http://"):
        message = "must be https: compliance.require_tls"
        yield document.problem(("s3", "endpoint"), message, "rows would go to the store in clear")
    for written in readable.databases:
        whole = written.database.model_copy(update={"tables": tuple(one.table for one in written.tables)})
        reason = tls_reason(readable.compliance, whole)
        for place, sslmode, has_authorities in _tls_settings(written) if reason else ():
            if defect := tls_defect(sslmode, has_authorities=has_authorities):
                hint = "write verify-full, or verify-ca with the sslrootcert of your own authority"
                yield document.problem(place, f"{defect}, but {reason}", hint)


def _tls_settings(written: WrittenDatabase) -> Iterator[tuple[Location, SslMode | None, bool]]:
    database, replica = written.database, written.database.read_replica
    yield (*written.location, "sslmode"), database.sslmode, database.sslrootcert is not None
    if replica is not None and replica.sslmode is not None:
        has_authorities = (replica.sslrootcert or database.sslrootcert) is not None
        yield (*written.location, "read_replica", "sslmode"), replica.sslmode, has_authorities


def _store_credentials(readable: Readable) -> Iterator[ConfigProblem]:
    has_id, has_secret = _has(readable.s3, "access_key_id"), _has(readable.s3, "secret_access_key")
    if has_id != has_secret:
        missing = "secret_access_key" if has_id else "access_key_id"
        hint = "write both, or neither to use the AWS credential chain"
        yield readable.document.problem(("s3", missing), "only one half of the credentials is written", hint)


def _has(section: Section, key: str) -> bool:
    """Whether the secret is written in one of its ways."""
    return any(getattr(section, name, None) for name in (key, f"{key}_env", f"{key}_from"))


def _redis_url(readable: Readable, environ: Mapping[str, str]) -> Iterator[ConfigProblem]:
    """It may hold a password, so no message repeats any of it."""
    variable, plain = readable.lock.redis_url_env, readable.lock.redis_url
    if readable.lock.redis_url_from:
        return
    written = environ.get(variable) if variable else plain.get_secret_value() if plain else None
    if written and not _REDIS_URL.fullmatch(written):
        key = "redis_url_env" if variable else "redis_url"
        hint = "rediss:// for TLS, unix:///path/of.sock for a socket; percent-encode special characters of a password"
        yield readable.document.problem(("lock", key), "must be a URL like redis://user:password@host:6379/0", hint)


def _holds(readable: Readable) -> Iterator[ConfigProblem]:
    """What would only be found out when a hold is asked for."""
    holds = readable.legal_holds
    if not holds.enabled:
        return
    known = [written.database.key_id for written in readable.databases]
    if holds.database is not None and holds.database not in known:
        near = did_you_mean(holds.database, known)
        yield readable.document.problem(("legal_holds", "database"), "no database of the file has this id", near)
    if HoldSource.API in holds.source:
        yield from _hold_api(readable.document, holds.api_endpoint)


def _hold_api(document: Document, endpoint: str | None) -> Iterator[ConfigProblem]:
    place = ("legal_holds", "api_endpoint")
    if endpoint is None:
        return
    try:
        url = urlsplit(endpoint)
        scheme, host = url.scheme, url.hostname
    except ValueError:
        scheme, host, url = "", None, urlsplit("")
    if scheme not in ("http", "https") or not host or url.query or url.fragment or "@" in url.netloc:
        yield document.problem(place, "must be a URL like https://host/path, without credentials and parameters")
    elif scheme == "http" and host not in _THIS_MACHINE:
        yield document.problem(place, "must be https: whoever is on the way of http could hide a hold")


def _doubled_secrets(document: Document) -> Iterator[ConfigProblem]:
    """Two places that both claim to have the secret: a guess would be wrong after the next rotation."""
    for location, section in _all_mappings(document.data, ()):
        for key in section:
            base = key.removesuffix("_from")
            if base != key and section[key] is not None and section.get(f"{base}_env") is not None:
                yield document.problem((*location, key), f"{base}_env is written, too", "write one of them")


def _all_mappings(raw: Any, location: Location) -> Iterator[tuple[Location, dict[str, Any]]]:
    if isinstance(raw, dict):
        yield location, raw
    inner = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    for key, value in inner:
        yield from _all_mappings(value, (*location, key))


def _missing_secrets(readable: Readable, environ: Mapping[str, str]) -> Iterator[ConfigProblem]:
    for place, name in _environment_names(readable):
        if not environ.get(name):
            state = "is empty" if name in environ else "is not set"
            near = did_you_mean(name, environ)
            yield readable.document.problem(place, f"environment variable {name} {state}", near)


def _environment_names(readable: Readable) -> Iterator[tuple[Location, str]]:
    for key in ("access_key_id_env", "secret_access_key_env"):
        if getattr(readable.s3, key):
            yield ("s3", key), getattr(readable.s3, key)
    if readable.lock.redis_url_env:
        yield ("lock", "redis_url_env"), readable.lock.redis_url_env
    if readable.legal_holds.enabled and readable.legal_holds.api_token_env:
        yield ("legal_holds", "api_token_env"), readable.legal_holds.api_token_env
    for written in readable.databases:
        database, replica = written.database, written.database.read_replica
        if database.password_env:
            yield (*written.location, "password_env"), database.password_env
        if replica and replica.password_env:
            yield (*written.location, "read_replica", "password_env"), replica.password_env


def _notifications(readable: Readable) -> Iterator[ConfigProblem]:
    """What enabled notifications need. Variables that are not set are only warned about: rows matter more."""
    written, document = readable.notifications, readable.document
    if not written.enabled:
        return
    yield from _quiet_hours(readable)
    # A channel that could not be read has its own problem, and is there.
    raw = _mapping(document.data.get("notifications"))
    channels = [key for key in ("slack", "teams", "email") if raw.get(key) is not None]
    enabled = [key for key in channels if (found := getattr(written, key)) is None or found.enabled]
    if not enabled:
        hint = "write slack, teams or email"
        yield document.problem(("notifications", "enabled"), "true, but no channel is written and enabled", hint)
    for channel, needs in (("slack", _slack_needs), ("teams", _teams_needs), ("email", _email_needs)):
        model = getattr(written, channel)
        if channel in enabled and model is not None:
            for need in needs(model):
                yield document.problem(("notifications", channel, need[0]), *need[1:])


def _quiet_hours(readable: Readable) -> Iterator[ConfigProblem]:
    start, end = readable.notifications.quiet_hours_start, readable.notifications.quiet_hours_end
    written = _mapping(readable.document.data.get("notifications"))
    for key, other in (("quiet_hours_start", "quiet_hours_end"), ("quiet_hours_end", "quiet_hours_start")):
        if written.get(key) is not None and written.get(other) is None:
            yield readable.document.problem(("notifications", other), f"required beside {key}")
    if start is not None and start == end:
        message = "must differ from quiet_hours_start"
        hint = "leave both out for no quiet hours; enabled: false sends nothing at all"
        yield readable.document.problem(("notifications", "quiet_hours_end"), message, hint)


_Need = tuple[str, str, str | None]


def _slack_needs(slack: Slack) -> Iterator[_Need]:
    has_webhook, has_token = _has(slack, "webhook_url"), _has(slack, "token")
    if not (has_webhook or has_token):
        yield "webhook_url_env", "required: neither a webhook nor token_env is written", None
    if has_token and not slack.channel:
        yield "channel", "required beside a token", None
    if has_token and has_webhook:
        yield "token_from" if slack.token_from else "token_env", "a webhook is written, too", "write one of them"
    if slack.webhook_url and not _is_web(slack.webhook_url.get_secret_value()):
        yield "webhook_url", "must be a URL that begins with https://", None


def _teams_needs(teams: Teams) -> Iterator[_Need]:
    if not _has(teams, "webhook_url"):
        yield "webhook_url_env", "required: no webhook is written", None
    if teams.webhook_url and not _is_web(teams.webhook_url.get_secret_value()):
        yield "webhook_url", "must be a URL that begins with https://", None


def _email_needs(email: Email) -> Iterator[_Need]:
    for key, value in (("smtp_host", email.smtp_host), ("from", email.sender), ("to", email.to)):
        if not value:
            yield key, "required for email", None
    has_password = _has(email, "password")
    if has_password != bool(email.username):
        missing = "username" if has_password else "password_env"
        yield missing, "only one half of the credentials is written", "write both, or neither for a server without them"


def _is_web(url: str) -> bool:
    return url.startswith(("https://", "http://"))
