"""Reading an audit trail: its links in order, and what is wrong with the chain they form."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from archiver_pipeline.codec.audit import decode_link
from archiver_pipeline.codec.hashing import sha256_hex
from archiver_pipeline.domain.audit import FIRST_PREVIOUS, AuditLink, TrailFinding, TrailFindingKind
from archiver_pipeline.domain.layout import audit_key, audit_prefix, audit_sequence_of
from archiver_pipeline.domain.table import TableName
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
