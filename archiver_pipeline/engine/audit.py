"""Writing the audit trail: entries become links at the end of a table's chain, each created only if it is absent.

Several processes may write one chain. Who comes second to a sequence number finds the object there, and goes on behind
it. Entries of many threads that come while a link is on its way go into the next one together.
"""

import copy
import getpass
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, SecretStr

from archiver_pipeline.codec.audit import configuration_hash, decode_link, encode_link
from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.config.effective import DatabaseSettings, StoreSettings, TableSettings
from archiver_pipeline.domain.audit import (
    AUDIT_FORMAT_VERSION,
    EMPTY_TRAIL,
    Actor,
    AuditEntry,
    AuditHead,
    AuditKind,
    AuditLink,
    Fact,
    changes_between,
)
from archiver_pipeline.domain.layout import audit_key, audit_prefix, audit_sequence_of
from archiver_pipeline.domain.safekeeping import ObjectRetention
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.errors import ArchiverError, ManifestError, StoreError
from archiver_pipeline.storage.s3 import ObjectExistsError, ObjectMissingError, S3Store
from archiver_pipeline.version import SOFTWARE

ACTOR_VARIABLE = "ARCHIVER_ACTOR"
_TRIES = 100
_PAGE_KEYS = 1000
_GALLOP = 8
_NOT_TOLD = frozenset({"staging_dir", "local_fallback_dir", "application_name", "password", "tables", "audit"})
_NOT_SHOWN = "(set, not told)"


@dataclass(frozen=True, slots=True)
class AuditPlace:
    """Where an entry is: the link's sequence, and the SHA-256 of its bytes."""

    sequence: int
    sha256: str


@dataclass
class Fence:
    """Keeps an entry from being written behind links that its writer does not know of.

    `known` is the sequence up to which it knew the chain when it decided what to write. When the entry would come
    behind a later link, `look` is called first: it raises an ArchiverError when that may no longer be written. It may
    be called from another thread.
    """

    known: int
    look: Callable[[], None]


@dataclass(eq=False)
class _Waiting:
    """Entries on their way, and what became of them."""

    entries: tuple[AuditEntry, ...]
    fence: Fence | None = None
    place: AuditPlace | None = None
    error: ArchiverError | None = None

    @property
    def is_settled(self) -> bool:
        return self.place is not None or self.error is not None


@dataclass(eq=False)
class AuditTrail:
    """The trail of one table, for writing. Safe for use by many threads; opens nothing before the first entry.

    `configuration` is what is in force for the table, None where the writer does not know it.
    """

    store: S3Store
    name: TableName
    database_role: str
    run_id: str
    job: str = ""
    configuration: dict[str, Fact] | None = None
    enabled: bool = True
    lock_days: int | None = None
    _head: AuditHead | None = None
    _heeds_conditions: bool | None = None
    _is_writing: bool = False
    _queue: list[_Waiting] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @cached_property
    def who(self) -> Actor:
        """Who this process works for; found out when the first entry asks, because credentials may be far away."""
        return this_actor(self.store, self.database_role, run_id=self.run_id, job=self.job)

    @property
    def head(self) -> AuditHead | None:
        """The last link that this object has written or found; None before the first entry."""
        return self._head

    def known_sequence(self) -> int:
        """The last link that this object knows of, without a look at the store; 0 for none."""
        return self._head.sequence if self._head is not None else 0

    def read_head(self) -> AuditHead:
        """Where the chain ends now, by the store."""
        with self._changed:
            while self._is_writing:
                self._changed.wait()
            self._head = find_head(self.store, self.name, after=self.known_sequence())
            return self._head

    def record(self, kind: AuditKind, /, **facts: Any) -> AuditPlace | None:
        """Write one entry; returns when it is durable. None when no trail is kept.

        `facts` are what JSON can hold, and must hold no row and no secret. Raises the store's errors, with a text that
        names the trail: then whoever calls must not go on as if it were written. An entry whose writing failed may be
        in the trail all the same; a second one that tells the same is harmless.
        """
        return self.record_all((kind, facts))

    def record_all(self, *told: tuple[AuditKind, Mapping[str, Any]], fence: Fence | None = None) -> AuditPlace | None:
        """As `record`, for several entries that belong together: all of them in one link, or none. Raises what the
        look of `fence` raises; then none is written."""
        if not self.enabled or not told:
            return None
        mine = _Waiting(tuple(self._entry(kind, facts) for kind, facts in told), fence)
        with self._changed:
            self._queue.append(mine)
            while self._is_writing and not mine.is_settled:
                self._changed.wait()
            if not mine.is_settled:
                self._is_writing = True
                together, self._queue = self._queue, []
        if not mine.is_settled:
            self._write(together, mine)
        if mine.error is not None:
            # Each thread raises an error of its own: a traceback belongs to one.
            raise copy.copy(mine.error)
        return mine.place

    def _write(self, together: list[_Waiting], mine: _Waiting) -> None:
        """Settle these entries, and let the next thread write those that came meanwhile."""
        place, failed = None, None
        try:
            place = self._append(together)
        except ArchiverError as error:
            failed = _named(error, self.name)
        finally:
            with self._changed:
                self._is_writing = False
                if place is None:
                    self._head = None
                if place is None and failed is None:
                    # Interrupted: the others try again themselves.
                    unsettled = (one for one in together if one is not mine and one.error is None)
                    self._queue = [*unsettled, *self._queue]
                for waiting in together:
                    if waiting.error is None:
                        waiting.place, waiting.error = place, failed
                self._changed.notify_all()

    def _append(self, together: Sequence[_Waiting]) -> AuditPlace | None:
        """The link with the entries of those that have no error; None when all have one."""
        head = self._head if self._head is not None else find_head(self.store, self.name)
        for _ in range(_TRIES):
            _look_at_fences(together, head)
            entries = [entry for waiting in together if waiting.error is None for entry in waiting.entries]
            if not entries:
                return None
            link = self._link(head, entries)
            data = encode_link(link)
            if self._created(audit_key(self.store.settings.prefix, self.name, link.sequence), data):
                self._head = _head_of(link, data)
                return AuditPlace(link.sequence, self._head.sha256)
            head = find_head(self.store, self.name, after=head.sequence)
        raise StoreError(f"{_TRIES} other writers were faster", hint="run again")

    def _link(self, head: AuditHead, entries: Sequence[AuditEntry]) -> AuditLink:
        """The link behind `head`, with an entry of the configuration when that is another than before."""
        sequence = head.sequence + 1
        in_force = configuration_hash(self.configuration) if self.configuration else head.configuration_sha256
        written, told = list(entries), head.configuration_sequence
        if self.configuration and in_force != head.configuration_sha256:
            before = read_configuration(self.store, self.name, head.configuration_sequence)
            facts: dict[str, Fact] = {
                "settings": self.configuration,
                "sha256": in_force,
                "changes": dict(changes_between(before, self.configuration)) if before else None,
            }
            written, told = [self._entry(AuditKind.configuration, facts), *written], sequence
        return AuditLink(
            format_version=AUDIT_FORMAT_VERSION,
            sequence=sequence,
            previous_sha256=head.sha256,
            database=self.name.database,
            schema=self.name.schema,
            table=self.name.table,
            configuration_sha256=in_force,
            configuration_sequence=told,
            entries=written,
        )

    def _created(self, key: str, data: bytes) -> bool:
        """Create a link; False when the object under its key is another one."""
        try:
            self.store.put_document(key, data, retention=self._retention())
        except ObjectExistsError:
            # A write whose answer was lost is sent again, and then finds itself.
            return self.store.read_document(key) == data
        if self._heeds_conditions is None:
            self._heeds_conditions = self._is_refused_twice(key, data)
        return self._heeds_conditions or self.store.read_document(key) == data

    def _retention(self) -> ObjectRetention | None:
        """The lock of a link, by this machine's clock, like the times in it; None when archives are not locked."""
        mode = self.store.settings.object_lock
        if mode is None or self.lock_days is None:
            return None
        until = datetime.now(UTC) + timedelta(days=self.lock_days)
        return ObjectRetention(mode.value.upper(), until.replace(microsecond=0))

    def _is_refused_twice(self, key: str, data: bytes) -> bool:
        """Find out whether the store heeds conditions, by writing the same link once more. Once per session."""
        if not self.store.creates_conditionally:
            return False
        try:
            self.store.put_document(key, data)
        except ObjectExistsError:
            return self.store.creates_conditionally
        # From now on it is asked first whether a key is taken: it narrows what the store leaves open.
        self.store.creates_conditionally = False
        return False

    def _entry(self, kind: AuditKind, facts: Mapping[str, Any]) -> AuditEntry:
        return AuditEntry(
            entry_id=secrets.token_hex(8),
            kind=kind,
            at=datetime.now(UTC).isoformat(timespec="microseconds"),
            who=self.who,
            software=SOFTWARE,
            facts=orjson.loads(orjson.dumps(facts)),
        )


def trail_of(
    store: S3Store,
    name: TableName,
    database: DatabaseSettings,
    settings: TableSettings | None,
    *,
    run_id: str,
    job: str = "",
) -> AuditTrail:
    """The trail of a table as a session writes it. `settings` None: the table is not in this configuration."""
    return AuditTrail(
        store=store,
        name=name,
        database_role=database.primary.user,
        run_id=run_id,
        job=job,
        configuration=effective_configuration(settings, database, store.settings) if settings else None,
        enabled=database.audit.enabled,
        lock_days=settings.lock_days if settings else None,
    )


def find_head(store: S3Store, name: TableName, *, after: int = 0) -> AuditHead:
    """Where a table's chain ends, by the listing alone; `after` is a sequence that is surely not beyond the end.

    Leaps ahead, then halves: about 20 listings for 100,000 links. Links that are missing in between do not matter.
    Raises ManifestError when the last link is not one this version reads: nothing can be chained to it.
    """
    last = _last_sequence(store, name, after)
    if last == 0:
        return EMPTY_TRAIL
    key = audit_key(store.settings.prefix, name, last)
    data = store.read_document(key)
    return _head_of(decode_link(data, key=key), data)


def read_configuration(store: S3Store, name: TableName, sequence: int) -> dict[str, Fact]:
    """The configuration that the link of this number tells; empty for 0, or when the link is gone or unreadable."""
    if sequence == 0:
        return {}
    key = audit_key(store.settings.prefix, name, sequence)
    try:
        entries = decode_link(store.read_document(key), key=key).entries
    except (ObjectMissingError, ManifestError):
        return {}
    for entry in entries:
        settings = entry.facts.get("settings")
        if entry.kind is AuditKind.configuration and isinstance(settings, dict):
            return settings
    return {}


def this_actor(store: S3Store, database_role: str, *, run_id: str, job: str = "") -> Actor:
    """Who this process works for."""
    return Actor(
        os_user=_os_user(),
        host=socket.gethostname(),
        pid=os.getpid(),
        database_role=database_role,
        store_identity=store.identity,
        run_id=run_id,
        command=_command(),
        job=job,
        actor=os.environ.get(ACTOR_VARIABLE, ""),
    )


def effective_configuration(
    settings: TableSettings, database: DatabaseSettings, store: StoreSettings
) -> dict[str, Fact]:
    """What is in force for a table, as the trail tells it: no secret, and nothing that two machines that share a
    configuration may differ in (folders)."""
    rules: dict[str, Fact] = orjson.loads(database.audit.rules)
    return {
        "table": _plain(settings),
        "database": _plain(database),
        "store": _plain(store),
        "compliance": rules,
    }


def _look_at_fences(together: Sequence[_Waiting], head: AuditHead) -> None:
    """Whoever may not go on behind this head gets an error of its own."""
    for waiting in together:
        fence = waiting.fence
        if fence is not None and waiting.error is None and fence.known != head.sequence:
            try:
                fence.look()
                fence.known = head.sequence
            except ArchiverError as error:
                waiting.error = error


def _last_sequence(store: S3Store, name: TableName, after: int) -> int:
    low, page = after, _page(store, name, after)
    if len(page) < _PAGE_KEYS:
        return page[-1] if page else after
    low, high = page[-1], None
    while high is None or high > low:
        probe = low * _GALLOP if high is None else (low + high) // 2
        page = _page(store, name, probe)
        if not page:
            high = probe
        elif len(page) < _PAGE_KEYS:
            return page[-1]
        else:
            low = page[-1]
    return low


def _page(store: S3Store, name: TableName, after: int) -> list[int]:
    """The first sequences behind `after` that are in the store, in order, at most a page of them."""
    prefix = store.settings.prefix
    listed = store.list_objects(audit_prefix(prefix, name), after=audit_key(prefix, name, after) if after else "")
    found = (audit_sequence_of(prefix, name, one.key) for one in listed)
    return list(islice((sequence for sequence in found if sequence is not None), _PAGE_KEYS))


def _head_of(link: AuditLink, data: bytes) -> AuditHead:
    return AuditHead(link.sequence, sha256_hex(data), link.configuration_sha256, link.configuration_sequence)


def _named(error: ArchiverError, name: TableName) -> ArchiverError:
    """The error, of the same kind, with a text that tells where it happened and what that means."""
    hint = f"{error.hint}; " if error.hint else ""
    named = copy.copy(error)
    named.message = f"the audit trail of {name} could not be written: {error.message}"
    named.args = (named.message,)
    named.is_recorded = True
    named.hint = f"{hint}nothing goes on without its entry; run again when it can be written"
    return named


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _command() -> str:
    """The program and its subcommand; never its options, which may hold what a row holds."""
    program = Path(sys.argv[0]).name if sys.argv else ""
    words = []
    for word in sys.argv[1:3]:
        if not word.replace("-", "").replace("_", "").isalpha() or word.startswith("-"):
            break
        words.append(word)
    return " ".join([program, *words])


def _plain(value: Any) -> Any:
    """A settings value as JSON holds it: secrets by a word that they are set, row predicates by their hash."""
    if isinstance(value, SecretStr):
        return _NOT_SHOWN
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(getattr(value, key)) for key in value.__dataclass_fields__ if key not in _NOT_TOLD}
    if isinstance(value, BaseModel):
        return {key: _plain(item) for key, item in value if key not in _NOT_TOLD} | _predicate_hash(value)
    if isinstance(value, frozenset):
        return sorted(map(_plain, value))
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _predicate_hash(value: BaseModel) -> dict[str, str]:
    where = getattr(value, "where", None)
    return {"where": f"sha256 {sha256_hex(where.encode())}"} if isinstance(where, str) else {}
