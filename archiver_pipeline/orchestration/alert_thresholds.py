"""What is far from a table's usual after a run that succeeded: rows, speed, space, backlog."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dagster as dg

from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.config.enums import VacuumStrategy
from archiver_pipeline.config.notifications import NotificationSettings
from archiver_pipeline.domain.usual import UsualBounds, has_grown_throughout, is_far_above, is_far_below, usual_of
from archiver_pipeline.engine.backlog import Backlog
from archiver_pipeline.engine.report import ArchiveReport
from archiver_pipeline.orchestration.history import table_history
from archiver_pipeline.orchestration.names import asset_key

MOST_COUNTED_ROWS = 1_000_000
"""How far a backlog is counted when threshold_rows does not say."""

_PAST_RUNS = 30
_PAST_WINDOWS = 100
_WINDOWS_SHOWN = 5
# A short run's speed is mostly its fixed cost.
_LEAST_SLOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Past:
    """Numbers of a table's earlier runs: rows per window that had some, rows per second of runs that had some, and rows
    that were still eligible after runs, oldest first."""

    window_rows: Sequence[float]
    rows_per_second: Sequence[float]
    backlogs: Sequence[int]


@dataclass(frozen=True, slots=True)
class Unusual:
    """One thing that is far from usual: its topic in a word or two, and a line that says it."""

    topic: str
    line: str


def read_past(
    instance: dg.DagsterInstance, settings: TableSettings, report: ArchiveReport, backlogs: Sequence[int]
) -> Past:
    """What was usual before this run, out of Dagster's stored runs."""
    earlier = [
        figures
        for figures in table_history(instance, settings, limit=_PAST_RUNS).reported
        if figures.attempt_id != report.attempt_id
    ]
    rates = [figures.rows / figures.seconds for figures in earlier if figures.rows and figures.seconds]
    found = instance.fetch_materializations(asset_key(settings), limit=_PAST_WINDOWS).records
    shown = [record.asset_materialization.metadata for record in found if record.asset_materialization]
    past = [
        metadata["rows"].value
        for metadata in shown
        if "rows" in metadata and metadata["attempt_id"].value != report.attempt_id
    ]
    return Past([float(rows) for rows in past if isinstance(rows, int) and rows], rates, backlogs)


def unusual_of(
    report: ArchiveReport, past: Past, backlog: Backlog, strategy: VacuumStrategy, settings: NotificationSettings
) -> tuple[Unusual, ...]:
    """Everything about the run that is far from usual. `backlog` is from after it."""
    return (
        *_rows(report, past, settings.usual),
        *_speed(report, past, settings.usual),
        *_space(report, strategy),
        *_backlog(backlog, past, settings),
    )


def _rows(report: ArchiveReport, past: Past, bounds: UsualBounds) -> Iterator[Unusual]:
    usual = usual_of(past.window_rows, bounds) or 0
    for window in [window for window in report.windows if window.rows][:_WINDOWS_SHOWN]:
        told = f"Window {window.window_key} had {window.rows:,} rows; usual are {usual:,.0f}."
        if is_far_above(window.rows, past.window_rows, bounds):
            yield Unusual("many rows", told)
        if is_far_below(window.rows, past.window_rows, bounds):
            yield Unusual("few rows", told)


def _speed(report: ArchiveReport, past: Past, bounds: UsualBounds) -> Iterator[Unusual]:
    if not report.rows or report.total_seconds < _LEAST_SLOW_SECONDS:
        return
    rate, usual = report.rows / report.total_seconds, usual_of(past.rows_per_second, bounds) or 0
    if is_far_below(rate, past.rows_per_second, bounds):
        slowest = max(report.seconds, key=lambda step: report.seconds[step])
        yield Unusual(
            "slow",
            f"It took {report.total_seconds:,.0f} s, {rate:,.0f} rows/s; usual are {usual:,.0f} rows/s."
            f" Most of it, {report.seconds[slowest]:,.0f} s, was the step {slowest}.",
        )


def _space(report: ArchiveReport, strategy: VacuumStrategy) -> Iterator[Unusual]:
    """A plain VACUUM rarely makes files smaller, so it is unusual only when it could not be done."""
    if report.reclaim and report.reclaim.failed:
        yield Unusual("space not reclaimed", f"Space was not given back: {report.reclaim}.")
    if not report.rows or strategy is VacuumStrategy.NONE:
        return
    before, after = report.table_bytes_before, report.table_bytes_after
    if ":" in report.vacuum:
        yield Unusual("space not reclaimed", f"Space was not given back: vacuum {report.vacuum}.")
    elif strategy is VacuumStrategy.FULL and after >= before:
        yield Unusual("space not reclaimed", f"VACUUM FULL made nothing smaller: {before:,} bytes, now {after:,}.")


def _backlog(backlog: Backlog, past: Past, settings: NotificationSettings) -> Iterator[Unusual]:
    rows = f"{'more than ' if backlog.is_capped else ''}{backlog.eligible_rows:,}"
    since = f", the oldest from {backlog.oldest_row:%Y-%m-%d}" if backlog.oldest_row else ""
    before = f" After the run before there were {past.backlogs[-1]:,}." if past.backlogs else ""
    limit = settings.threshold_rows
    if limit is not None and (backlog.eligible_rows > limit or backlog.is_capped):
        yield Unusual("backlog", f"{rows} rows are still eligible{since}; threshold_rows is {limit:,}.{before}")
    elif not backlog.is_capped and has_grown_throughout([*past.backlogs, backlog.eligible_rows], settings.usual):
        runs = settings.usual.least_runs
        text = f"The backlog grew over the last {runs} runs, to {rows} eligible rows{since}: runs take less than comes."
        yield Unusual("backlog grows", text)
