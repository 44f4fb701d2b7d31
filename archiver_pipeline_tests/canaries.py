"""Distinct secrets that are planted, and a search for them in every spelling that a leak may have."""

import base64
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import quote, quote_plus

AWKWARD = "/+%é\"'"
"""Characters that URLs, JSON, shells and Python write in another way."""


def canary(name: str, *, awkward: bool = True) -> str:
    """A secret like no other; `awkward` False where only letters are allowed."""
    return f"canary-{name}-{secrets.token_hex(8)}{AWKWARD if awkward else ''}"


@cache
def spellings(secret: str) -> frozenset[bytes]:
    """The bytes by which a secret would be found: as it is, and as URLs, JSON, Python and base64 write it."""
    raw = secret.encode()
    written = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}
    written |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    # Twice: JSON in JSON, as Dagster stores events.
    written |= {json.dumps(one)[1:-1] for one in list(written)}
    return frozenset(one.encode() for one in written) | {raw.hex().encode(), *_in_base64(raw)}


def _in_base64(raw: bytes) -> Iterator[bytes]:
    """What stays the same wherever the secret begins within a longer text that is encoded."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw)
        first = (0, 2, 3)[before]
        yield encoded.rstrip(b"=")[first:-1]
        yield base64.urlsafe_b64encode(b"\0" * before + raw).rstrip(b"=")[first:-1]


@dataclass
class Search:
    """`planted` is source → secret. What was `looked_at` is counted by kind of place."""

    planted: dict[str, str] = field(default_factory=dict)
    looked_at: dict[str, tuple[int, int]] = field(default_factory=dict)
    leaks: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def plant(self, source: str, secret: str | None = None, *, awkward: bool = True) -> str:
        """A secret to put into its source, or one that is there."""
        self.planted[source] = secret or canary(source.split(maxsplit=1)[0], awkward=awkward)
        return self.planted[source]

    def look(self, kind: str, place: str, content: bytes | str) -> None:
        """Look for every secret in one place."""
        data = content.encode(errors="replace") if isinstance(content, str) else content
        places, size = self.looked_at.get(kind, (0, 0))
        self.looked_at[kind] = places + 1, size + len(data)
        for source, secret in self.planted.items():
            if any(spelling in data for spelling in spellings(secret)):
                self.leaks.setdefault((source, kind), []).append(place)

    def table(self) -> str:
        """Sources by kinds of places: how many places showed the secret."""
        kinds = list(self.looked_at)
        numbered = [f"{number}. {kind}: {self._size(kind)}" for number, kind in enumerate(kinds, start=1)]
        width = max(map(len, self.planted)) + 2
        head = " " * width + "".join(f"{number:>4}" for number in range(1, len(kinds) + 1))
        rows = [
            f"{source:<{width}}" + "".join(f"{len(self.leaks.get((source, kind), [])):>4}" for kind in kinds)
            for source in self.planted
        ]
        places = sum(count for count, _ in self.looked_at.values())
        leaked = len({source for source, _ in self.leaks})
        total = f"canaries planted {len(self.planted)}, places searched {places}, canaries leaked {leaked}"
        return "\n".join([*numbered, "", head, *rows, "", total])

    def _size(self, kind: str) -> str:
        places, size = self.looked_at[kind]
        return f"{places} places, {size:,} bytes"
