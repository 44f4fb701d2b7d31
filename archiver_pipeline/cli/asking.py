"""Questions on a plain terminal, a line each: no cursor keys, so they work over any connection and with any reader."""

import re
from collections.abc import Sequence

import typer

from archiver_pipeline.cli.console import errors
from archiver_pipeline.errors import ArchiverError

_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)


def ask(question: str, default: str = "") -> str:
    """A line, without spaces around it; the default when it is empty."""
    answer: str = typer.prompt(question, default=default, show_default=bool(default))
    return answer.strip()


def ask_secret(question: str) -> str:
    """A line that is not shown; may be empty."""
    answer: str = typer.prompt(question, default="", show_default=False, hide_input=True)
    return answer


def ask_number(question: str, default: int, *, least: int, most: int) -> int:
    """A whole number within bounds; asked again until it is one."""
    while True:
        answer = ask(question, str(default))
        if answer.isascii() and answer.isdigit() and least <= int(answer) <= most:
            return int(answer)
        say_wrong(f"a number from {least} to {most} is needed")


def ask_choice(question: str, count: int, default: Sequence[int]) -> list[int]:
    """Some of the numbers 1 to `count`, written like `1,3-5` or `all`; asked again until it is some."""
    while True:
        answer = ask(question, ",".join(map(str, default)))
        chosen = chosen_numbers(answer, count)
        if chosen:
            return chosen
        say_wrong(f"write numbers from 1 to {count} like 1,3-5, or all")


def chosen_numbers(answer: str, count: int) -> list[int]:
    """The numbers that an answer names, in order and each once; empty when it names none or one out of bounds."""
    if answer.lower() == "all":
        return list(range(1, count + 1))
    chosen: list[int] = []
    for part in filter(None, re.split(r"[,\s]+", re.sub(r"\s*-\s*", "-", answer))):
        found = _RANGE.fullmatch(part)
        if found is None:
            return []
        first, last = int(found[1]), int(found[2] or found[1])
        if not 1 <= first <= last <= count:
            return []
        chosen += range(first, last + 1)
    return sorted(set(chosen))


def say_wrong(error: ArchiverError | str) -> None:
    """Tell what is wrong with an answer, before it is asked for again."""
    errors.print(f"  {error}", style="red", markup=False, highlight=False, soft_wrap=True)
