"""What a reference to a secret says. Pure: nothing is read.

file:<path>                                 a file; a relative path starts at the configuration file
aws-secretsmanager:<name or ARN>[#<key>]    AWS Secrets Manager; the key is one of a JSON object
vault:<mount>/<path>#<key>                  HashiCorp Vault's KV engine, version 1 or 2
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_EXAMPLES = "file:<path>, aws-secretsmanager:<name or ARN>#<key> or vault:<mount>/<path>#<key>"


class Scheme(StrEnum):
    """Where secrets can be kept."""

    FILE = "file"
    AWS = "aws-secretsmanager"
    VAULT = "vault"


@dataclass(frozen=True, slots=True)
class SecretReference:
    """`place` is an absolute path, a name or ARN, or mount and path; `key` None means the whole text."""

    scheme: Scheme
    place: str
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.scheme}:{self.place}#{self.key}" if self.key else f"{self.scheme}:{self.place}"


def parse_reference(text: str, base: Path) -> SecretReference:
    """The reference that is written so; `base` is where relative paths start.

    Raises ValueError with a sentence that repeats nothing of the text: it may be the secret itself by mistake.
    """
    name, colon, rest = text.partition(":")
    if not colon or name not in set(Scheme) or not rest.strip() or not rest.isprintable():
        raise ValueError(f"must be {_EXAMPLES}")
    scheme = Scheme(name)
    if scheme is Scheme.FILE:
        return SecretReference(scheme, str(base / Path(rest).expanduser()))
    place, hash_sign, key = rest.rpartition("#") if "#" in rest else (rest, "", "")
    if not place or bool(hash_sign) != bool(key):
        raise ValueError(f"must be {_EXAMPLES}")
    if scheme is Scheme.VAULT and (not key or not all(place.split("/")) or "/" not in place):
        raise ValueError("must be vault:<mount>/<path>#<key>, without a slash at either end")
    return SecretReference(scheme, place, key or None)
