"""Secrets that are read when they are first needed.

What AWS and Vault answer is kept in memory for a few minutes, so that a thousand tables ask once. A secret that was
refused is asked for again: it may have been rotated.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import SecretStr

from archiver_pipeline.errors import ArchiverError, ConfigError, PermissionDeniedError
from archiver_pipeline.secret_sources.files import read_file
from archiver_pipeline.secret_sources.reference import Scheme, SecretReference

KEPT_SECONDS = 300.0
"""How long an answer is used without asking again."""

FRESH_SECONDS = 5.0
"""How young an answer must be to be believed although it was refused: many tables may be refused at once."""

Document = str | dict[str, Any]
Result = TypeVar("Result")


@dataclass
class Answers:
    """What AWS and Vault answered, by scheme and place. Safe for use by many threads; one of them asks at a time."""

    now: Callable[[], float] = time.monotonic
    _kept: dict[tuple[Scheme, str], tuple[float, Document | ArchiverError]] = field(default_factory=dict, repr=False)
    _asking: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def get(self, reference: SecretReference, *, younger_than_seconds: float) -> Document:
        """The answer, from memory when it is younger. Raises what the source raises; for as long as an answer counts as
        fresh, an error is one, too: a source that is down must not cost every table its time-out."""
        if reference.scheme is Scheme.FILE:
            return read_file(reference)
        address = (reference.scheme, reference.place)
        with self._asking:
            read_at, answer = self._kept.get(address, (float("-inf"), ""))
            age_seconds = self.now() - read_at
            if age_seconds >= (FRESH_SECONDS if isinstance(answer, ArchiverError) else younger_than_seconds):
                answer = _asked(reference)
                self._kept[address] = self.now(), answer
        if isinstance(answer, ArchiverError):
            raise answer
        return answer

    def forget(self, reference: SecretReference) -> None:
        """Ask again at the next need, unless the answer is fresh."""
        with self._asking:
            read_at, _ = self._kept.get((reference.scheme, reference.place), (float("inf"), ""))
            if self.now() - read_at >= FRESH_SECONDS:
                del self._kept[reference.scheme, reference.place]

    def __getstate__(self) -> None:
        raise TypeError("secrets stay in their process")


def _asked(reference: SecretReference) -> Document | ArchiverError:
    """The drivers are loaded here: most configurations need none, and the command completes names at every key."""
    try:
        if reference.scheme is Scheme.AWS:
            from archiver_pipeline.secret_sources.aws import read_aws  # noqa: PLC0415

            return read_aws(reference)
        from archiver_pipeline.secret_sources.vault import read_vault  # noqa: PLC0415

        return read_vault(reference)
    except ArchiverError as error:
        return error


_ANSWERS = Answers()


class ReferencedSecret(SecretStr):
    """A secret that is kept elsewhere. Nothing is read before `get_secret_value`; equal when the references are."""

    def __init__(self, reference: SecretReference) -> None:
        super().__init__("")
        self.reference = reference

    def get_secret_value(self) -> str:
        """Raises ConfigError, PermissionDeniedError or NetworkError, each naming the reference."""
        return _chosen(self.reference, _ANSWERS.get(self.reference, younger_than_seconds=KEPT_SECONDS))

    def has_changed_since(self, used: str) -> bool:
        """Whether its source now has another value than the one that was used."""
        return used != _chosen(self.reference, _ANSWERS.get(self.reference, younger_than_seconds=FRESH_SECONDS))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReferencedSecret) and other.reference == self.reference

    def __hash__(self) -> int:
        return hash(self.reference)

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        raise TypeError("how long it is stays unknown until it is read")

    def _display(self) -> str:
        return str(self.reference)


def with_current_secret(secret: SecretStr | None, attempt: Callable[[], Result]) -> Result:
    """What `attempt` returns. When it is refused, and the secret's source has another value by now, once more.

    `attempt` reads the secret itself, and must be safe to repeat.
    """
    if not isinstance(secret, ReferencedSecret):
        return attempt()
    used = secret.get_secret_value()
    try:
        return attempt()
    except PermissionDeniedError:
        if not _has_changed(secret, used):
            raise
    return attempt()


def forget(secret: SecretStr | None) -> None:
    """It was refused: ask its source again at the next need. Nothing for a secret that is not kept elsewhere."""
    if isinstance(secret, ReferencedSecret):
        _ANSWERS.forget(secret.reference)


def _has_changed(secret: ReferencedSecret, used: str) -> bool:
    """False when its source can't tell: then the refusal is what to show."""
    try:
        return secret.has_changed_since(used)
    except ArchiverError:
        return False


def _chosen(reference: SecretReference, document: Document) -> str:
    """The value that the reference's key names. Raises ConfigError; no value is in its words."""
    if reference.scheme is Scheme.FILE or (isinstance(document, str) and reference.key is None):
        return _whole(reference, str(document))
    value = _mapping(reference, document).get(reference.key or "")
    if value is None:
        raise ConfigError(f"secret {reference}: it has no key {reference.key}", hint="the part after # names a key")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f"secret {reference}: the value of this key is no text")
    return _usable(reference, str(value))


def _whole(reference: SecretReference, text: str) -> str:
    if reference.scheme is Scheme.AWS and isinstance(_parsed(text), dict):
        raise ConfigError(f"secret {reference} is a JSON object", hint=f"name one of its keys: {reference}#password")
    return _usable(reference, text)


def _mapping(reference: SecretReference, document: Document) -> dict[str, Any]:
    found = _parsed(document) if isinstance(document, str) else document
    if not isinstance(found, dict):
        raise ConfigError(f"secret {reference} is no JSON object, so it has no keys", hint="leave out # and the key")
    return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _usable(reference: SecretReference, value: str) -> str:
    if not value:
        raise ConfigError(f"secret {reference} is empty")
    if "\0" in value or "\n" in value or "\r" in value:
        raise ConfigError(f"secret {reference} has more than one line", hint="keep the secret alone in it")
    return value
