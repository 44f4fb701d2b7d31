"""The `archiver` command."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import typer
from rich.markup import escape
from typer.exceptions import TyperException

from archiver_pipeline.cli import (
    alert,
    audit,
    certificate,
    check,
    cost,
    expire,
    hold,
    listing,
    monitor,
    pending,
    pools,
    restore,
    run,
    status,
    validate,
    wizard,
)
from archiver_pipeline.cli.console import errors
from archiver_pipeline.cli.demo import demo
from archiver_pipeline.cli.helping import HelpfulTyper
from archiver_pipeline.cli.logs import current_log, with_log_options
from archiver_pipeline.errors import ArchiverError, ConfigError
from archiver_pipeline.logs.lines import error_fields

INTERRUPTED_EXIT_CODE = 130
Command = TypeVar("Command", bound=Callable[..., Any])


class _App(HelpfulTyper):
    """Gives every command the options of the log."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Command], Command]:
        register = super().command(name, **options)

        def add(function: Command) -> Command:
            register(with_log_options(function, name or function.__name__))
            return function

        return add


app = _App(
    name="archiver",
    help="Moves old rows of PostgreSQL audit tables to S3-compatible storage, proves every byte,"
    " and deletes exactly the rows it proved.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("restore")(restore.restore)
app.command("check")(check.check)
app.command("status")(status.status)
app.command("pools")(pools.pools)
app.command("list")(listing.list_archives)
app.command("validate")(validate.validate)
app.command("expire")(expire.expire)
app.command("certificate")(certificate.certificate)
app.command("cost")(cost.cost)
app.command("wizard")(wizard.wizard)
app.command("upload-pending")(pending.upload_pending)
app.command("monitor")(monitor.monitor)
app.command("alert")(alert.alert)
app.command("demo")(demo)

holds = _App(name="hold", help=hold.HELP, no_args_is_help=True, rich_markup_mode="markdown")
holds.command("list")(hold.list_holds)
holds.command("check")(hold.check_hold)
holds.command("mirror")(hold.mirror)
app.add_typer(holds)

trails = _App(name="audit", help=audit.HELP, no_args_is_help=True, rich_markup_mode="markdown")
trails.command("verify")(audit.verify)
trails.command("head")(audit.head)
trails.command("export")(audit.export)
app.add_typer(trails)


def main() -> None:
    """Run the command. A mistake of the user's is one line and an exit code, never a traceback."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    try:
        code = app(prog_name="archiver", standalone_mode=False)
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
