"""`${VAR}` and `${VAR:-default}` in text. Pure: the environment is passed in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_TOKEN = re.compile(
    r"(?P<escape>\$\$\{)"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<fallback>:-(?P<default>[^}]*))?\}"
    r"|(?P<malformed>\$\{)"
)


class Substituted(str):
    """Text that was wholly one `${...}` in the file: a number or a boolean where the key wants one."""

    __slots__ = ()


@dataclass(frozen=True)
class Expansion:
    """The text after substitution, and what kept it from being complete."""

    text: str
    missing: tuple[str, ...]
    malformed: bool


def expand(text: str, environ: Mapping[str, str]) -> Expansion:
    """Replaces every `${...}`. As in a shell, `:-` also covers a variable that is set but empty;
    `$${` is a literal `${`; values are not expanded again."""
    missing: list[str] = []

    def replacement(match: re.Match[str]) -> str:
        if match["escape"]:
            return "${"
        if match["malformed"]:
            return ""
        return _value(match, environ, missing)

    expanded = _TOKEN.sub(replacement, text)
    malformed = any(match["malformed"] for match in _TOKEN.finditer(text))
    whole = _TOKEN.fullmatch(text)
    result = Substituted(expanded) if whole and whole["name"] else expanded
    return Expansion(result, tuple(missing), malformed)


def _value(match: re.Match[str], environ: Mapping[str, str], missing: list[str]) -> str:
    name = match["name"]
    if match["fallback"]:
        return environ.get(name) or match["default"]
    if name not in environ:
        missing.append(name)
    return environ.get(name, "")
