"""Help pages that fit 80 columns: flags without a type, long choices in words, examples that can be copied."""

import re
import textwrap
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

_EXAMPLE = re.compile(r"^ {4,}archiver (?:.*\\\n)*.*$", re.MULTILINE)
_WORD = re.compile(r"""(?:'[^']*'|"[^"]*"|\S)+""")
_EXAMPLE_COLUMNS = 72
_LONGEST_CHOICES = 20


class HelpfulCommand(TyperCommand):
    """A command whose help page is tidied before it is shown."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.help = _EXAMPLE.sub(_folded, self.help or "")

    def get_params(self, ctx: Any) -> Any:
        return _tidied(super().get_params(ctx))


class HelpfulGroup(TyperGroup):
    """A group of commands with a help page like theirs."""

    def get_params(self, ctx: Any) -> Any:
        return _tidied(super().get_params(ctx))


class HelpfulTyper(typer.Typer):
    """An application of such commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"cls": HelpfulGroup} | options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        return super().command(name, **{"cls": HelpfulCommand} | options)


def _folded(example: re.Match[str]) -> str:
    """An example over several lines that a shell takes as one, broken between options."""
    line = example[0].replace("\\\n", " ")
    indent = " " * (len(line) - len(line.lstrip(" ")))
    program, *words = _WORD.findall(line)
    together = re.sub(r" (?!-)", "\0", " ".join([program, *words]))
    folded = textwrap.wrap(
        together, _EXAMPLE_COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return " \\\n".join(indent + part.replace("\0", " ") for part in folded)


def _tidied(options: list[Any]) -> list[Any]:
    for option in options:
        if isinstance(option, TyperOption) and option.metavar is None:
            _tidy(option)
    return options


def _tidy(option: TyperOption) -> None:
    """Say what kind of value it takes in a word; long choices go to the end of its help."""
    kind = option.type_descriptor
    choices = [str(getattr(choice, "value", choice)) for choice in kind.choices or ()]
    if option.is_flag:
        option.metavar = ""
    elif kind.is_datetime:
        option.metavar = "<date>"
    elif len("|".join(choices)) > _LONGEST_CHOICES:
        option.metavar = "<word>"
        option.help = f"{(option.help or '').rstrip('.')}. One of {', '.join(choices)}."
