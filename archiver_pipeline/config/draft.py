"""A configuration that is being made: rendered as commented YAML, read back as `load_config` would.

Reading back is how a draft is checked and turned into settings: what is tried out is what will be in the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import yaml
from pydantic import SecretStr

from archiver_pipeline.config.enums import StorageClass, WindowSize
from archiver_pipeline.config.loading import LoadedConfig, parse_config

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
# Words that are no text to some YAML parser, or no text in some place. Version 1.1 has more of them than 1.2.
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


@dataclass(frozen=True, slots=True)
class DraftStore:
    """The store. Keys come from the variables named; `secret` is written into the file, and only when asked for."""

    bucket: str
    endpoint: str | None
    region: str
    prefix: str
    storage_class: StorageClass
    access_key_id_env: str | None = None
    secret_access_key_env: str | None = None
    access_key_id: str | None = None
    secret: SecretStr | None = None


@dataclass(frozen=True, slots=True)
class DraftDatabase:
    """The database. The password comes from `password_env`; `password` is written, and only when asked for."""

    name: str
    host: str
    port: int
    user: str
    password_env: str | None = None
    password: SecretStr | None = None


@dataclass(frozen=True, slots=True)
class DraftTable:
    """One table. `remarks` become comments above it, `reasons` comments beside the key they are named for."""

    schema: str
    name: str
    timestamp_column: str
    window: WindowSize | None = None
    batch_size: int | None = None
    first_window: date | None = None
    remarks: tuple[str, ...] = ()
    reasons: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """The whole file. `title` is its first comment."""

    title: str
    store: DraftStore
    database: DraftDatabase
    retention_days: int
    tables: tuple[DraftTable, ...]

    @property
    def has_secrets(self) -> bool:
        """Whether a secret is in the text."""
        return self.database.password is not None or self.store.secret is not None


def render_draft(draft: Draft) -> str:
    """The file's text. Every value reads back as it is here, whatever characters it has."""
    return "\n".join([*_head(draft), *_store_lines(draft.store), *_default_lines(draft), *_database_lines(draft), ""])


def parse_draft(draft: Draft, path: Path, environ: Mapping[str, str]) -> LoadedConfig:
    """The draft as it will be loaded from `path`. Raises ConfigError with all of its problems."""
    return parse_config(render_draft(draft).encode(), path, environ)


def scalar(value: str | int | date) -> str:
    """A value as YAML that every parser reads back as this very value, `${` included."""
    if not isinstance(value, str):
        return str(value)
    text = value.replace("${", "$${")
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS and yaml.safe_load(text) == text:
        return text
    # JSON's escapes are YAML's too, but for those of characters beyond 16 bits.
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in quoted)


def _head(draft: Draft) -> list[str]:
    return [
        f"# {_one_line(draft.title)}",
        "# Every key is explained in docs/configuration.md; `archiver check` tries this file out and writes no row.",
        'version: "1"',
    ]


def _store_lines(store: DraftStore) -> Iterator[str]:
    yield from ("", "s3:", _entry("bucket", store.bucket))
    if store.endpoint:
        yield _entry("endpoint", store.endpoint)
    else:
        yield "  # endpoint: https://minio.example.com:9000 # for any S3-compatible server that is not AWS"
    yield _entry("region", store.region)
    yield _entry("prefix", store.prefix, note="first part of every key")
    yield _entry(
        "storage_class", store.storage_class.value, note="`archiver cost --compare` shows what each class costs"
    )
    yield "  # encryption: SSE-S3 # none leaves it to the bucket"
    yield from _store_credentials(store)


def _store_credentials(store: DraftStore) -> Iterator[str]:
    if store.access_key_id_env:
        yield _entry("access_key_id_env", store.access_key_id_env, note="the environment variable with the access key")
    if store.access_key_id:
        yield _entry("access_key_id", store.access_key_id)
    if store.secret_access_key_env:
        yield _entry("secret_access_key_env", store.secret_access_key_env, note="and the one with the secret key")
    if store.secret:
        yield _entry("secret_access_key", store.secret.get_secret_value(), note="a secret: keep this file private")
    if not (store.access_key_id_env or store.access_key_id):
        yield "  # Without keys, the AWS credential chain applies (environment, profile, instance role)."


def _default_lines(draft: Draft) -> list[str]:
    return [
        "",
        "# Every table starts from these and may write any of them again.",
        "defaults:",
        _entry("retention_days", draft.retention_days, note="older rows are archived, whole windows at a time"),
        "  # sleep_between_batches: 2 # seconds of rest after each batch",
        "  # vacuum_strategy: standard # full gives the disk back to the system, but locks the table meanwhile",
    ]


def _database_lines(draft: Draft) -> Iterator[str]:
    database = draft.database
    yield from ("", "databases:", f"  - name: {scalar(database.name)}")
    for key in ("host", "port", "user"):
        yield _entry(key, getattr(database, key), depth=2)
    if database.password_env:
        yield _entry("password_env", database.password_env, depth=2, note="the environment variable with the password")
    elif database.password:
        note = "a secret: keep this file private, or name a variable with password_env"
        yield _entry("password", database.password.get_secret_value(), depth=2, note=note)
    else:
        yield "    # password_env: NAME # without it, .pgpass and peer authentication apply"
    yield "    # read_replica: replica.example.com:5432 # rows are read there and deleted here"
    yield "    tables:"
    for table in draft.tables:
        yield from _table_lines(table)


def _table_lines(table: DraftTable) -> Iterator[str]:
    reasons = table.reasons or {}
    yield from (f"      # {_one_line(remark)}" for remark in table.remarks)
    yield f"      - name: {scalar(table.name)}"
    for key in ("schema", "timestamp_column", "window", "first_window", "batch_size"):
        value = getattr(table, key)
        if value is not None:
            yield _entry(key, value, depth=4, note=reasons.get(key))


def _entry(key: str, value: str | int | date, *, depth: int = 1, note: str | None = None) -> str:
    written = f"{'  ' * depth}{key}: {scalar(value)}"
    return f"{written} # {_one_line(note)}" if note else written


def _one_line(text: str) -> str:
    """Text that cannot end a comment early: names of tables are in it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
