"""Small documents of a store on the local disk, so that listing ten thousand archives again costs no request for each.

Kept by key and ETag. An ETag names one version of an object, so what is found here under the ETag that a listing has
just shown is what the store would give. A cache that cannot be used is as good as empty: it is never an error.
"""

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from archiver_pipeline.config.effective import StoreSettings

_PRIVATE_FOLDER = 0o700
_NAME_HEX_DIGITS = 16
_WAIT_SECONDS = 2.0
_KEYS_PER_QUERY = 500


@dataclass(frozen=True, slots=True)
class DocumentVersion:
    """One version of a document. An empty ETag names none: such a document is never kept."""

    key: str
    etag: str


class DocumentCache:
    """One store's documents in one SQLite file. Used by one thread at a time, by many processes at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, store: StoreSettings, folder: Path) -> Self:
        """The cache of a store: another endpoint or bucket has another file."""
        name = hashlib.sha256(repr((store.endpoint, store.region, store.bucket)).encode()).hexdigest()
        return cls(folder / f"documents-{name[:_NAME_HEX_DIGITS]}.sqlite")

    def read(self, wanted: Sequence[DocumentVersion]) -> dict[DocumentVersion, bytes]:
        """Those of the versions that are here."""
        found: dict[DocumentVersion, bytes] = {}
        with self._usable(), self._opened() as connection:
            for first in range(0, len(wanted), _KEYS_PER_QUERY):
                some = {version.key: version for version in wanted[first : first + _KEYS_PER_QUERY]}
                marks = ",".join("?" * len(some))
                rows = connection.execute(
                    f"SELECT key, etag, data FROM documents WHERE key IN ({marks})",  # noqa: S608 - question marks only
                    tuple(some),
                )
                found |= {some[key]: data for key, etag, data in rows if etag and etag == some[key].etag}
        return found

    def write(self, documents: Mapping[DocumentVersion, bytes]) -> None:
        """Keep these versions in place of whatever else was kept under their keys."""
        rows = [(version.key, version.etag, data) for version, data in documents.items() if version.etag]
        with self._usable(), self._opened() as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", rows)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        self.path.touch(mode=0o600)
        with closing(sqlite3.connect(self.path, timeout=_WAIT_SECONDS)) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS documents (key TEXT PRIMARY KEY, etag TEXT NOT NULL, data BLOB NOT NULL)"
            )
            yield connection

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Go on without the cache when it cannot be used; a file that is none of SQLite's is removed."""
        try:
            yield
        except (OSError, sqlite3.OperationalError):
            return
        except sqlite3.DatabaseError:
            with suppress(OSError):
                self.path.unlink()
