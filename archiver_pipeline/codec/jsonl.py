"""JSON lines in one gzip member (RFC 1952): one row per line, each line ends with a newline.

ISA-L writes levels 1 to 3, zlib the others; both are read by any gunzip.
"""

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from isal import isal_zlib
from isal.igzip_lib import IsalError

from archiver_pipeline.codec.hashing import Sha256Counter, read_blocks
from archiver_pipeline.errors import VerificationError

DEFAULT_LEVEL = 2
_ISAL_LEVELS = frozenset({1, 2, 3})
_GZIP_WINDOW_BITS = 31
_DECODED_BLOCK_BYTES = 512 << 10


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def encode_jsonl(source: Path, target: Path, *, level: int | None) -> Sha256Counter:
    """Compress staged rows into one gzip member; returns size and SHA-256 of what was written.

    The same rows and level give the same bytes: the gzip header carries no name and no time.
    """
    compressor = _compressor(level or DEFAULT_LEVEL)
    written = Sha256Counter()
    with target.open("wb") as file:
        for piece in _compressed(compressor, read_blocks(source)):
            written.update(piece)
            file.write(piece)
    return written


def decode_jsonl(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The uncompressed bytes of one gzip member, at most a megabyte at a time whatever the compression ratio.

    Raises VerificationError when the bytes are not exactly one whole gzip member.
    """
    decompressor = isal_zlib.decompressobj(wbits=_GZIP_WINDOW_BITS)
    try:
        for piece in pieces:
            pending = piece
            while pending:
                _refuse_trailing(decompressor.eof)
                yield decompressor.decompress(pending, max_length=_DECODED_BLOCK_BYTES)
                _refuse_trailing(bool(decompressor.unused_data))
                pending = decompressor.unconsumed_tail
        yield decompressor.flush()
    except (IsalError, zlib.error) as error:  # type: ignore[misc]  # its stub names no class
        raise VerificationError(f"the object is not readable gzip: {error}") from error
    if not decompressor.eof:
        raise VerificationError("the object ends before its gzip stream does")


def _refuse_trailing(has_trailing_bytes: bool) -> None:
    if has_trailing_bytes:
        raise VerificationError("the object goes on after its gzip stream")


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes cut so that every piece ends with a newline.

    Raises VerificationError when the last line has no newline.
    """
    held: list[bytes] = []
    for piece in pieces:
        cut = piece.rfind(b"\n") + 1
        if cut == 0:
            held.append(piece)
            continue
        if cut == len(piece) and not any(held):
            yield piece
            continue
        yield b"".join([*held, piece[:cut]])
        held = [piece[cut:]]
    if any(held):
        raise VerificationError("the last row of the object is cut off")


def _compressor(level: int) -> _Compressor:
    if level in _ISAL_LEVELS:
        compressor: _Compressor = isal_zlib.compressobj(level, isal_zlib.DEFLATED, _GZIP_WINDOW_BITS)
        return compressor
    return zlib.compressobj(level, zlib.DEFLATED, _GZIP_WINDOW_BITS)


def _compressed(compressor: _Compressor, blocks: Iterable[bytes]) -> Iterator[bytes]:
    for block in blocks:
        yield compressor.compress(block)
    yield compressor.flush()
