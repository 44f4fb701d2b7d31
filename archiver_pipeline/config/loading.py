"""Finds, reads and checks the configuration file, and answers which tables a user means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from archiver_pipeline.config.crosscheck import cross_problems
from archiver_pipeline.config.document import MAX_DOCUMENT_BYTES, Document, read_document
from archiver_pipeline.config.effective import (
    DatabaseSettings,
    StoreSettings,
    TableSettings,
    WatermarkSettings,
    database_settings,
    store_settings,
    watermark_settings,
)
from archiver_pipeline.config.enums import Encryption, HoldSource
from archiver_pipeline.config.models import ArchiverConfig, Notifications, Section
from archiver_pipeline.config.notifications import NotificationSettings, notification_settings
from archiver_pipeline.config.problems import did_you_mean, validation_problems
from archiver_pipeline.domain.holds import shown
from archiver_pipeline.errors import ConfigError, ConfigProblem

CONFIG_VARIABLE = "ARCHIVER_CONFIG"
DEFAULT_NAME = "archiver.yaml"


@dataclass(frozen=True)
class LoadedConfig:
    """A file that passed every check. `tables` is in the file's order; `warnings` are for people to read."""

    path: Path
    config: ArchiverConfig
    warnings: tuple[str, ...]
    databases: tuple[DatabaseSettings, ...]
    store: StoreSettings
    notifications: NotificationSettings

    @property
    def tables(self) -> tuple[TableSettings, ...]:
        """The tables of all databases."""
        return tuple(table for database in self.databases for table in database.tables)

    @property
    def watermark(self) -> WatermarkSettings:
        """Whether and where restores are remembered."""
        return watermark_settings(self.config)

    def database(self, database_id: str) -> DatabaseSettings:
        """The database with this id. Raises ConfigError, naming the nearest, when there is none."""
        for database in self.databases:
            if database.id == database_id:
                return database
        raise _unknown("database", database_id, [database.id for database in self.databases])

    def select_tables(self, database: str | None, table: str | None) -> tuple[TableSettings, ...]:
        """The tables of one database or of all, with one name (`table` or `schema.table`) or all. A name may
        match several. Never empty: raises ConfigError, naming the nearest, when nothing matches."""
        candidates = self.database(database).tables if database is not None else self.tables
        if table is None:
            return candidates
        selected = tuple(one for one in candidates if table in (one.table, one.qualified_name))
        if not selected:
            raise _unknown("table", table, _spellings(candidates, qualified="." in table))
        return selected


def load_config(path: Path | None, *, environ: Mapping[str, str], cwd: Path) -> LoadedConfig:
    """Loads `path`, else the file named by ARCHIVER_CONFIG, else `cwd`/archiver.yaml.

    Relative paths start at `cwd`, relative folders inside the file at the file. Raises ConfigError with all
    problems at once; no message repeats a value from the file or the environment that may be secret."""
    found = locate_config(path, environ, cwd)
    try:
        return parse_config(_content(found), found, environ)
    except ConfigError as error:
        raise _about_file(found, error) from None


def locate_config(path: Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """Where `load_config` looks; nothing needs to be there."""
    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    return cwd / (path.expanduser() if path is not None else DEFAULT_NAME)


def parse_config(content: bytes, path: Path, environ: Mapping[str, str]) -> LoadedConfig:
    """A file's text as `load_config` takes it; `path` is where it lies or will lie. Raises ConfigError."""
    config = _checked(read_document(content, environ), environ)
    notifications = notification_settings(config, environ, path.parent)
    databases = database_settings(config, environ, path.parent)
    return LoadedConfig(
        path=path,
        config=config,
        warnings=(
            *_plain_secrets(config),
            *_policy_doubts(config),
            *_nested_paths(config),
            *(f"{key}: {reason}; no alert goes there" for key, reason in notifications.unready),
            *_hold_doubts(config),
            *_floor_overrides(databases),
        ),
        databases=databases,
        store=store_settings(config.s3, environ, path.parent),
        notifications=notifications,
    )


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_DOCUMENT_BYTES + 1)
    except FileNotFoundError:
        hint = "`archiver wizard` makes one, archiver.example.yaml is one; `make demo` shows it work first"
        raise ConfigError("there is no such configuration file", hint=hint) from None
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}") from None


def _checked(document: Document, environ: Mapping[str, str]) -> ArchiverConfig:
    problems = list(document.problems)
    config: ArchiverConfig | None = None
    try:
        config = ArchiverConfig.model_validate(document.data)
    except ValidationError as error:
        problems = _joined(problems, validation_problems(error, document))
    problems = _joined(problems, cross_problems(document, environ))
    if config is None or problems:
        raise ConfigError(_count(problems), problems=sorted(problems, key=_file_order))
    return config


def _joined(known: list[ConfigProblem], more: Iterator[ConfigProblem]) -> list[ConfigProblem]:
    """A place that already has a problem gets no second one: it would only be a consequence of the first."""
    paths = {problem.path for problem in known}
    return known + [problem for problem in more if problem.path not in paths]


def _count(problems: list[ConfigProblem]) -> str:
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"


def _file_order(problem: ConfigProblem) -> int:
    return problem.line or 0


def _about_file(path: Path, error: ConfigError) -> ConfigError:
    return ConfigError(f"{path}: {error.message}", hint=error.hint, problems=error.problems)


def _plain_secrets(config: ArchiverConfig) -> Iterator[str]:
    for index, database in enumerate(config.databases):
        place = f"databases[{index}]"
        yield from _plain_secret(place, database, "password")
        if database.read_replica:
            yield from _plain_secret(f"{place}.read_replica", database.read_replica, "password")
    yield from _plain_secret("s3", config.s3, "secret_access_key")
    lock = config.lock
    if lock.redis_url and (_instead(lock, "redis_url") or _holds_password(lock.redis_url.get_secret_value())):
        yield from _plain_secret("lock", lock, "redis_url")
    yield from _plain_alert_secrets(config.notifications)


def _plain_alert_secrets(written: Notifications) -> Iterator[str]:
    """A webhook's URL is a secret: whoever has it may post."""
    if written.slack:
        yield from _plain_secret("notifications.slack", written.slack, "webhook_url")
    if written.teams:
        yield from _plain_secret("notifications.teams", written.teams, "webhook_url")
    if written.email:
        yield from _plain_secret("notifications.email", written.email, "password")
        if not written.email.use_tls and (written.email.password or _instead(written.email, "password")):
            yield "notifications.email.use_tls: false sends the password in clear"


def _holds_password(url: str) -> bool:
    return "@" in url or "password=" in url


def _plain_secret(place: str, section: Section, key: str) -> Iterator[str]:
    """A warning where the secret stands in the file itself."""
    if not getattr(section, key):
        return
    if other := _instead(section, key):
        yield f"{place}.{key}: ignored, because {other} is written too"
    else:
        yield f"{place}.{key}: a secret in the file; {key}_env or {key}_from keeps it out"


def _instead(section: Section, key: str) -> str | None:
    """The key beside a plain secret's that counts instead."""
    return next((name for name in (f"{key}_from", f"{key}_env") if getattr(section, name)), None)


def _policy_doubts(config: ArchiverConfig) -> Iterator[str]:
    for i, database in enumerate(config.databases):
        for j, table in enumerate(database.tables):
            place = f"databases[{i}].tables[{j}]"
            if table.critical and config.s3.encryption == Encryption.NONE:
                yield f"{place}.critical: a critical table, but s3.encryption is none"


def _floor_overrides(databases: tuple[DatabaseSettings, ...]) -> Iterator[str]:
    for i, database in enumerate(databases):
        for j, table in enumerate(database.tables):
            if table.below_floor:
                yield f"databases[{i}].tables[{j}]: {shown(str(table.below_floor))}"


def _hold_doubts(config: ArchiverConfig) -> Iterator[str]:
    """Holds that are written and hold nothing, and a source that can't be asked, so that every run will stop."""
    written = config.legal_holds
    if written.enabled and HoldSource.API in written.source and written.api_endpoint is None:
        yield "legal_holds.api_endpoint: not written, so holds can't be read and nothing will be deleted"
    if written.holds and not written.enabled:
        yield "legal_holds.holds: without effect, because legal_holds.enabled is false"
        return
    known = {(d.key_id, t.schema_name, t.name) for d in config.databases for t in d.tables}
    for i, hold in enumerate(written.holds):
        databases = {database for database, *name in known if name == [hold.schema_name, hold.table]}
        if hold.database not in databases if hold.database is not None else not databases:
            near = did_you_mean(hold.table, {table for _, _, table in known})
            text = f"legal_holds.holds[{i}]: no configured table has this database, schema and name"
            yield f"{text} — {near}" if near else text


def _nested_paths(config: ArchiverConfig) -> Iterator[str]:
    """Keys can't collide, but `{database}/x/` is both the table public.x and the folder of schema x: a person
    who copies that folder by hand gets both."""
    for i, database in enumerate(config.databases):
        public = {table.name for table in database.tables if table.schema_name == "public"}
        for j, table in enumerate(database.tables):
            if table.schema_name in public - {"public"}:
                text = f"objects of this schema lie in the folder of the table public.{table.schema_name}"
                yield f"databases[{i}].tables[{j}].schema: {text}"


def _spellings(tables: tuple[TableSettings, ...], *, qualified: bool) -> list[str]:
    return [table.qualified_name if qualified else table.table for table in tables]


def _unknown(kind: str, name: str, known: list[str]) -> ConfigError:
    hint = did_you_mean(name, known) or f"configured: {', '.join(sorted(set(known))[:20])}"
    return ConfigError(f"no {kind} {name!r} is configured", hint=hint)
