"""Reading an audit trail: its links in order, and what is wrong with the chain they form."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from archiver_pipeline.codec.audit import decode_link
from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.domain.audit import (
    FIRST_PREVIOUS,
    AuditKind,
    AuditLink,
    BatchFate,
    TrailFinding,
    TrailFindingKind,
)
from archiver_pipeline.domain.layout import audit_key, audit_prefix, audit_sequence_of
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.audit import find_head
from archiver_pipeline.errors import ManifestError
from archiver_pipeline.storage.s3 import ObjectMissingError, S3Store

READERS = 16
_AHEAD = 4 * READERS


@dataclass(frozen=True, slots=True)
class StoredLink:
    """One object of a trail as it was read. `sequence` is that of its key; `link` None: it is none, and `problem` says
    why."""

    key: str
    sequence: int
    sha256: str
    link: AuditLink | None
    problem: str = ""


@dataclass
class Chain:
    """Walks over a table's links, from the first to the last, and notes what is wrong with the chain.

    `findings` and `last` are complete when `links` has come to its end.
    """

    store: S3Store
    name: TableName

    def __post_init__(self) -> None:
        self.findings: list[TrailFinding] = []
        self.last: StoredLink | None = None
        self._strays: list[str] = []

    def links(self) -> Iterator[StoredLink]:
        """Every link, in order. Several are read at once and few are in memory. Raises what the store raises."""
        for stored in self._read():
            self._hold_against(self.last, stored)
            self.last = stored
            yield stored
        for key in self._strays:
            message = "it is no link by its name, and lies among them"
            self.findings.append(TrailFinding(TrailFindingKind.inserted, key, None, message))

    def _read(self) -> Iterator[StoredLink]:
        listed = self._listed()
        with ThreadPoolExecutor(READERS) as threads:
            waiting: deque[Future[StoredLink]] = deque(
                threads.submit(self._read_link, sequence) for sequence in islice(listed, _AHEAD)
            )
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(threads.submit(self._read_link, sequence) for sequence in islice(listed, 1))

    def _listed(self) -> Iterator[int]:
        prefix = self.store.settings.prefix
        for found in self.store.list_objects(audit_prefix(prefix, self.name)):
            sequence = audit_sequence_of(prefix, self.name, found.key)
            if sequence is not None:
                yield sequence
            else:
                self._strays.append(found.key)

    def _read_link(self, sequence: int) -> StoredLink:
        key = audit_key(self.store.settings.prefix, self.name, sequence)
        try:
            data = self.store.read_document(key)
        except ObjectMissingError:
            return StoredLink(key, sequence, "", None, "it was listed, and is gone")
        try:
            return StoredLink(key, sequence, sha256_hex(data), decode_link(data, key=key))
        except ManifestError as error:
            return StoredLink(key, sequence, sha256_hex(data), None, error.message)

    def _hold_against(self, before: StoredLink | None, stored: StoredLink) -> None:
        expected = before.sequence + 1 if before else 1
        if stored.sequence != expected:
            self._find_missing(expected, stored.sequence - 1)
        if stored.link is None:
            self._find(TrailFindingKind.unreadable, stored, stored.problem)
            return
        if stored.link.sequence != stored.sequence:
            self._find(TrailFindingKind.reordered, stored, f"it is link {stored.link.sequence} by its content")
        if stored.link.name != self.name:
            self._find(TrailFindingKind.inserted, stored, f"it is of {stored.link.name} by its content")
        previous = before.sha256 if before else FIRST_PREVIOUS
        if stored.sequence == expected and stored.link.previous_sha256 != previous:
            self._find(
                TrailFindingKind.changed,
                before or stored,
                f"link {stored.sequence} was chained to other bytes than these",
            )

    def _find_missing(self, first: int, last: int) -> None:
        key = audit_key(self.store.settings.prefix, self.name, first)
        which = f"link {first} is" if first == last else f"links {first} to {last} are"
        self.findings.append(TrailFinding(TrailFindingKind.missing, key, first, f"{which} not there"))

    def _find(self, kind: TrailFindingKind, stored: StoredLink, message: str) -> None:
        self.findings.append(TrailFinding(kind, stored.key, stored.sequence, message))


def batches_told_archived(store: S3Store, name: TableName, attempts: Mapping[str, str]) -> frozenset[str]:
    """Which of these batches the trail tells of as archived. `attempts` has the id of each one's attempt, by batch id.

    Reads from the end of the chain back to where the plans of all attempts are told, and no further. Raises
    ManifestError when a link on the way is missing or unreadable: then nobody knows.
    """
    told: set[str] = set()
    plans = set(attempts.values())
    for sequence in range(find_head(store, name).sequence, 0, -1):
        key = audit_key(store.settings.prefix, name, sequence)
        try:
            link = decode_link(store.read_document(key), key=key)
        except ObjectMissingError as error:
            raise ManifestError(
                f"{key} is missing from the audit trail", hint="`archiver audit verify` tells what else is"
            ) from error
        for entry in link.entries:
            if entry.kind is AuditKind.batch and BatchFate(entry.facts["fate"]).is_archived:
                told.add(entry.facts["batch_id"])
            if entry.kind is AuditKind.plan and "resumes" not in entry.facts:
                plans.discard(entry.facts.get("attempt_id", ""))
        if not plans:
            break
    return frozenset(told & attempts.keys())
