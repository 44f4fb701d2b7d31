"""`archiver pools`: Dagster's pool limits, as the configuration wants them and as they are."""

import os
from typing import Annotated

import typer
from rich.table import Table

from archiver_pipeline.cli.console import output, print_json
from archiver_pipeline.cli.options import ConfigOption, JsonOption, open_config
from archiver_pipeline.orchestration.launch import open_instance
from archiver_pipeline.orchestration.pools import PoolLimit, pool_limits, set_pool_limits

_DIFFERS_EXIT_CODE = 1


def pools(
    config: ConfigOption = None,
    set_limits: Annotated[bool, typer.Option("--set", help="Set the limits; without it they are only shown.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show Dagster's limit of runs at once on each database beside what `connection_pool_size` has connections for.

    With `--set` the limits of the configured databases are written into the Dagster instance, where daemon and runs
    follow them. Run it again after every change of `connection_pool_size` or `workers`.

    Exit codes: 0 every limit is as configured, 1 one is not, 3 configuration.

    Examples:

        archiver pools

        archiver pools --set
    """
    loaded = open_config(config)
    with open_instance(loaded.path.parent) as instance:
        limits = set_pool_limits(loaded, instance) if set_limits else pool_limits(loaded, instance)
    if as_json:
        print_json([_document(limit) for limit in limits])
    else:
        _print(limits)
    raise typer.Exit(os.EX_OK if all(limit.agrees for limit in limits) else _DIFFERS_EXIT_CODE)


def _document(limit: PoolLimit) -> dict[str, object]:
    return {
        "database": limit.database.id,
        "pool": limit.pool,
        "connection_pool_size": limit.database.connection_pool_size,
        "connections_per_run": limit.connections_per_run,
        "wanted": limit.wanted,
        "current": limit.current,
        "is_set": limit.is_set,
    }


def _print(limits: list[PoolLimit]) -> None:
    table = Table("pool", "connection_pool_size", "connections a run", "wanted", "now")
    for limit in limits:
        current = str(limit.current) if limit.current is not None else "no limit"
        table.add_row(
            limit.pool,
            str(limit.database.connection_pool_size),
            str(limit.connections_per_run),
            str(limit.wanted),
            current if limit.is_set or limit.current is None else f"{current} (default)",
        )
    output.print(table)
