"""SHA-256 and sizes of what streams by."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

BLOCK_BYTES = 1 << 20


class Sha256Counter:
    """Counts and hashes bytes as they pass."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def update(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self.size_bytes += len(data)

    def counted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The same pieces, each counted before it is passed on."""
        for piece in pieces:
            self.update(piece)
            yield piece

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The bytes of a file, in order, `block_bytes` at a time."""
    with path.open("rb") as file:
        while block := file.read(block_bytes):
            yield block
