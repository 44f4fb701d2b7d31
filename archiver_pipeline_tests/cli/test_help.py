"""Help that helps: every option explained, every command with an example that works."""

import re
import shlex

import pytest
import typer
from typer.testing import CliRunner

from archiver_pipeline.cli.main import app

COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_and_exit_code_zero(name):
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert f"archiver {name}" in shown.output.split("Examples:")[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name):
    assert not [option.name for option in COMMANDS[name].params if not option.help]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_a_command_line_that_parses(name):
    examples = re.findall(r"^ *archiver (.+)$", COMMANDS[name].help, re.MULTILINE)
    assert examples
    for example in examples:
        command, *arguments = shlex.split(example)
        COMMANDS[command].make_context(command, arguments)


def test_no_command_shows_all_of_them():
    shown = CliRunner().invoke(app, ["--help"])
    assert not [name for name in COMMANDS if name not in shown.output]


def test_no_arguments_at_all_show_the_help(workplace):
    shown = workplace.run()
    assert (shown.code, shown.stderr) == (0, "")
    assert "Usage: archiver" in shown.stdout
