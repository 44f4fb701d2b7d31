"""Tables out of runs. Every figure is a median over the rounds; ratios are taken within a round, then their median."""

from collections.abc import Callable, Sequence
from statistics import median

from contenders import BASELINE, TITLES, Contender, Run
from rich.table import Table

from archiver_pipeline.cli.console import size

_MIB = 1 << 20
_PACKAGE_IMPORT, _DAGSTER_IMPORT = "archiver_pipeline.cli.run", "dagster"
MEASURED_IMPORTS = (_PACKAGE_IMPORT, _DAGSTER_IMPORT)


def speed_table(runs: Sequence[Run]) -> Table:
    """Wall seconds of the whole process, and of its work alone, beside the script."""
    table = table_of("seconds", "contender", "process", "min", "max", "rows/s", "to gzip -6", "steps", "to gzip -6")
    for name, own in _by_contender(runs).items():
        wall = [run.wall_seconds for run in own]
        table.add_row(
            TITLES[name],
            f"{median(wall):.2f}",
            f"{min(wall):.2f}",
            f"{max(wall):.2f}",
            f"{own[0].rows / median(wall):,.0f}",
            _ratio(runs, own, lambda run: run.wall_seconds),
            f"{_median(own, lambda run: run.span_seconds):.2f}",
            _ratio(runs, own, lambda run: run.span_seconds),
        )
    return table


def cost_table(runs: Sequence[Run], eligible_bytes: int) -> Table:
    """CPU, memory, and what lies in the store."""
    columns = ("CPU s", "PostgreSQL CPU s", "S3 CPU s", "peak MiB", "stored", "objects", "compression")
    table = table_of("cost", "contender", *columns)
    for name, own in _by_contender(runs).items():
        table.add_row(
            TITLES[name],
            f"{_median(own, lambda run: run.cpu_seconds):.2f}",
            f"{_median(own, lambda run: run.postgres_cpu_seconds):.2f}",
            f"{_median(own, lambda run: run.s3_cpu_seconds):.2f}",
            f"{_median(own, lambda run: run.peak_bytes) / _MIB:,.0f}",
            size(own[0].stored_bytes),
            f"{own[0].objects:,}",
            f"{eligible_bytes / own[0].data_bytes:.2f}",
        )
    return table


def steps_table(runs: Sequence[Run]) -> Table | None:
    """Seconds of the archiver's steps, and of their sum; None when no archiver ran."""
    archivers = {name: own for name, own in _by_contender(runs).items() if own[0].steps}
    if not archivers:
        return None
    steps = list(next(iter(archivers.values()))[0].steps)
    table = table_of("seconds per step", "contender", *steps, "sum")
    for name, own in archivers.items():
        seconds = [f"{median(run.steps[step] for run in own):.2f}" for step in steps]
        table.add_row(TITLES[name], *seconds, f"{_median(own, _engine_seconds):.2f}")
    return table


def share_table(runs: Sequence[Run], imports: dict[str, list[float]]) -> Table | None:
    """Where the process of `archiver run` spends its time; None unless both it and --direct ran.

    Dagster's part is what the process with it takes outside the steps beyond what the one without it takes there.
    """
    own = _by_contender(runs)
    if Contender.dagster not in own or Contender.direct not in own:
        return None
    whole = _median(own[Contender.dagster], lambda run: run.wall_seconds)
    loading = median(imports[_PACKAGE_IMPORT])
    around_direct = _median(own[Contender.direct], _around)
    parts = {
        "Python and imports": loading,
        f"  of it: {_DAGSTER_IMPORT} alone": median(imports[_DAGSTER_IMPORT]),
        "engine's steps": _median(own[Contender.dagster], _engine_seconds),
        "around the steps without Dagster": around_direct - loading,
        "Dagster's run": _median(own[Contender.dagster], _around) - around_direct,
        "whole process": whole,
    }
    paired = _pairs(own[Contender.dagster], own[Contender.direct], lambda run: run.wall_seconds)
    parts["more than --direct, in pairs"] = median(ours - theirs for ours, theirs in paired)
    table = table_of("archiver run, where the seconds go", "part", "seconds", "share")
    for part, seconds in parts.items():
        table.add_row(part, f"{seconds:.2f}", f"{seconds / whole:.0%}")
    return table


def memory_table(peaks: Sequence[dict[str, int]]) -> Table:
    """Peak memory of one `archiver run` by rows and batch size."""
    table = table_of("memory of archiver run, jsonl.gz, one window", "rows", "batch size", "peak MiB")
    for peak in peaks:
        table.add_row(f"{peak['rows']:,}", f"{peak['batch_size']:,}", f"{peak['peak_bytes'] / _MIB:,.0f}")
    return table


def table_of(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _by_contender(runs: Sequence[Run]) -> dict[Contender, list[Run]]:
    return {name: own for name in Contender if (own := [run for run in runs if run.contender is name])}


def _median(runs: Sequence[Run], value: Callable[[Run], float]) -> float:
    return median(value(run) for run in runs)


def _ratio(runs: Sequence[Run], own: Sequence[Run], value: Callable[[Run], float]) -> str:
    pairs = _pairs(own, [run for run in runs if run.contender is BASELINE], value)
    return f"{median(ours / theirs for ours, theirs in pairs):.2f}" if pairs else ""


def _pairs(ours: Sequence[Run], theirs: Sequence[Run], value: Callable[[Run], float]) -> list[tuple[float, float]]:
    """Values of two contenders in the same round."""
    other = {run.round: value(run) for run in theirs}
    return [(value(run), other[run.round]) for run in ours if run.round in other]


def _engine_seconds(run: Run) -> float:
    return sum(run.steps.values())


def _around(run: Run) -> float:
    """Wall seconds of the process outside the engine's steps."""
    return run.wall_seconds - _engine_seconds(run)
