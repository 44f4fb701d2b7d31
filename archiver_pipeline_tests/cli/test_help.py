"""Help that helps: every option explained, every command with an example that works."""

import re
import shlex

import pytest
from typer.testing import CliRunner

from archiver_pipeline.cli.main import app
from archiver_pipeline_tests.cli.commands import COMMANDS, parse


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_and_exit_code_zero(name):
    shown = CliRunner().invoke(app, [*name.split(), "--help"])
    assert shown.exit_code == 0
    assert f"archiver {name}" in shown.output.split("Examples:")[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name):
    assert not [option.name for option in COMMANDS[name].params if not option.help]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_a_command_line_that_parses(name):
    examples = re.findall(r"^ *archiver (.+)$", COMMANDS[name].help.replace("\\\n", " "), re.MULTILINE)
    assert examples
    for example in examples:
        parse(shlex.split(example))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_fits_a_narrow_terminal(name):
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "80", "TERM": "dumb"})
    assert max(map(len, shown.output.splitlines())) <= 80
    assert "<bool>" not in shown.output
    assert "…" not in shown.output.replace("'…'", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_that_was_folded_is_still_one_command(name):
    """Lines of an example end with a backslash but the last, and none is longer than the page."""
    for block in re.split(r"\n\n+", COMMANDS[name].help.partition("Examples:")[2].strip("\n")):
        lines = block.splitlines()
        assert all(line.endswith(" \\") for line in lines[:-1])
        assert not lines[-1].endswith("\\")
        assert all(len(line) <= 78 or len(line.split()) <= 2 for line in lines)


def test_no_command_shows_all_of_them():
    shown = CliRunner().invoke(app, ["--help"])
    assert not [name for name in COMMANDS if " " not in name and name not in shown.output]


def test_no_arguments_at_all_show_the_help(workplace):
    shown = workplace.run()
    assert (shown.code, shown.stderr) == (0, "")
    assert "Usage: archiver" in shown.stdout
