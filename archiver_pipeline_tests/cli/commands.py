"""Every command that a user can type, those of groups too."""

from collections.abc import Iterator, Sequence
from typing import Any

import typer

from archiver_pipeline.cli.main import app


def _flat(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield " ".join([*words, name]), command
        if hasattr(command, "commands"):
            yield from _flat(command, (*words, name))


COMMANDS = dict(_flat(typer.main.get_command(app)))
"""By what is typed after `archiver`: `run`, `hold`, `hold list` ..."""


def parse(words: Sequence[str]) -> None:
    """Raises for an unknown command or option, a missing value or one of the wrong type."""
    name = max((name for name in COMMANDS if list(words[: len(name.split())]) == name.split()), key=len, default=None)
    assert name is not None, " ".join(words)
    COMMANDS[name].make_context(name, list(words[len(name.split()) :]), resilient_parsing=False)
