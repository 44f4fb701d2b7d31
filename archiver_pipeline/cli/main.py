"""The `archiver` command."""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NoReturn, TypeVar

import typer
from rich.markup import escape
from typer.exceptions import TyperException

from archiver_pipeline.cli.console import errors
from archiver_pipeline.cli.helping import HelpfulTyper
from archiver_pipeline.cli.logs import current_log, with_log_options
from archiver_pipeline.errors import ArchiverError, ConfigError
from archiver_pipeline.logs.lines import error_fields

INTERRUPTED_EXIT_CODE = 130
Command = TypeVar("Command", bound=Callable[..., Any])

# Where each command is: its module is imported only when it is called, because most import what others do without.
_COMMANDS = {
    "run": "run.run",
    "restore": "restore.restore",
    "check": "check.check",
    "status": "status.status",
    "pools": "pools.pools",
    "list": "listing.list_archives",
    "validate": "validate.validate",
    "expire": "expire.expire",
    "certificate": "certificate.certificate",
    "cost": "cost.cost",
    "wizard": "wizard.wizard",
    "upload-pending": "pending.upload_pending",
    "monitor": "monitor.monitor",
    "alert": "alert.alert",
    "demo": "demo.demo",
}
_GROUPS = {
    "hold": ("hold.HELP", {"list": "hold.list_holds", "check": "hold.check_hold", "mirror": "hold.mirror"}),
    "audit": ("audit.HELP", {"verify": "audit.verify", "head": "audit.head", "export": "audit.export"}),
}


class _App(HelpfulTyper):
    """Gives every command the options of the log."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Command], Command]:
        register = super().command(name, **options)

        def add(function: Command) -> Command:
            register(with_log_options(function, name or function.__name__))
            return function

        return add


def build_app(word: str | None = None) -> HelpfulTyper:
    """The command line; with the first word of a call only as much of it as that word needs, when it is a command."""
    app = _App(
        name="archiver",
        help="Moves old rows of PostgreSQL audit tables to S3-compatible storage, proves every byte,"
        " and deletes exactly the rows it proved.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    is_known = word in _COMMANDS or word in _GROUPS
    _add_commands(app, {name: at for name, at in _COMMANDS.items() if name == word or not is_known})
    for name, (text, commands) in _GROUPS.items():
        if name == word or not is_known:
            group = _App(name=name, help=_found(text), no_args_is_help=True, rich_markup_mode="markdown")
            _add_commands(group, commands)
            app.add_typer(group)
    if len(app.registered_commands) + len(app.registered_groups) == 1:
        # typer drops the name of an only command unless there is a callback.
        app.callback()(_no_command)
    return app


def _add_commands(app: HelpfulTyper, commands: Mapping[str, str]) -> None:
    for name, at in commands.items():
        app.command(name)(_found(at))


def _found(at: str) -> Any:
    module, _, name = at.rpartition(".")
    return getattr(import_module(f"archiver_pipeline.cli.{module}"), name)


def _no_command() -> None:
    pass


def __getattr__(name: str) -> Any:
    """`app` is the whole command line, made when it is asked for."""
    if name != "app":
        raise AttributeError(name)
    return build_app()


def main() -> None:
    """Run the command. A mistake of the user's is one line and an exit code, never a traceback."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    try:
        word = sys.argv[1] if len(sys.argv) > 1 else None
        code = build_app(word)(prog_name="archiver", standalone_mode=False)
    except TyperException as error:
        if not error.format_message():  # No command at all: the help is printed already.
            sys.exit(os.EX_OK)
        _fail(f"{error.format_message()} — `archiver --help` shows what there is", ConfigError.exit_code)
    except ArchiverError as error:
        _tell_in_log(error)
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED_EXIT_CODE
    # typer makes an exit code of an interrupt on its way.
    if code == INTERRUPTED_EXIT_CODE:
        errors.print("interrupted; nothing is lost: run the same command again to go on", highlight=False)
    sys.exit(code)


def _tell_in_log(error: ArchiverError) -> None:
    """End here, without words, where the log is all there is to read."""
    log = current_log()
    if log.logger is None:
        return
    log.logger.error("failed", **error_fields(error))
    if log.takes_stdout:
        sys.exit(error.exit_code)


def _fail(message: str, code: int) -> NoReturn:
    errors.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(code)
