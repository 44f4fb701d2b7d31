"""What /metrics says, out of what the monitor has seen. Nothing is counted here: a restart changes no figure.

What is not known, or not all of it, is left out: a sum over a part would look like a loss, and later like a jump.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.monitoring.health import health_of, is_overdue
from archiver_pipeline.monitoring.monitor import Monitor
from archiver_pipeline.monitoring.watch import Watch
from archiver_pipeline.postgres.catalog import table_name
from archiver_pipeline.version import SOFTWARE

PREFIX = "archiver_"
TABLE = ("database", "schema", "table")

Sample = tuple[tuple[str, ...], float]
Samples = Iterator[Sample]


@dataclass(frozen=True, slots=True)
class Counter:
    """Goes only up, whoever restarts. `name` is without prefix and `_total`."""

    name: str
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Monitor], Samples]


@dataclass(frozen=True, slots=True)
class Gauge:
    """How something stands now."""

    name: str
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Monitor], Samples]


def registry_of(monitor: Monitor) -> CollectorRegistry:
    """Everything that is served, and nothing about the process that serves it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MonitorCollector(monitor))
    return registry


class MonitorCollector(Collector):
    """Makes the metrics at the moment they are asked for, out of what is in memory."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterable[Metric]:
        for counter in COUNTERS:
            family = CounterMetricFamily(PREFIX + counter.name, counter.help, labels=counter.labels)
            yield _filled(family, counter.samples(self._monitor))
        for gauge in GAUGES:
            yield _filled(
                GaugeMetricFamily(PREFIX + gauge.name, gauge.help, labels=gauge.labels), gauge.samples(self._monitor)
            )
        yield _durations(self._monitor)
        name, version = SOFTWARE.split()
        yield InfoMetricFamily(
            PREFIX + "build", "The program that serves this.", {"software": name, "version": version}
        )

    def describe(self) -> Iterable[Metric]:
        return ()


def _filled(family: CounterMetricFamily | GaugeMetricFamily, samples: Samples) -> Metric:
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _durations(monitor: Monitor) -> Metric:
    family = SummaryMetricFamily(PREFIX + DURATION, DURATION_HELP, labels=(*TABLE, "phase"))
    for labels, table in _tables(monitor):
        if runs := monitor.runs[table].published:
            for phase, seconds in runs.step_seconds.items():
                family.add_metric((*labels, phase), count_value=runs.reports[phase], sum_value=seconds)
    return family


def _tables(monitor: Monitor) -> Iterator[tuple[tuple[str, ...], TableSettings]]:
    for table in monitor.config.tables:
        yield (table.database, table.schema, table.table), table


def _of_archives(get: Callable[..., float | None]) -> Callable[[Monitor], Samples]:
    """A figure of each table whose archives were all read."""

    def samples(monitor: Monitor) -> Samples:
        for labels, table in _tables(monitor):
            archived = monitor.archives[table].published
            if archived is not None and (value := get(archived)) is not None:
                yield labels, value

    return samples


def _of_runs(get: Callable[..., float | None]) -> Callable[[Monitor], Samples]:
    """A figure of each table whose recorded runs were all read."""

    def samples(monitor: Monitor) -> Samples:
        for labels, table in _tables(monitor):
            runs = monitor.runs[table].published
            if runs is not None and (value := get(runs)) is not None:
                yield labels, value

    return samples


def _of_state(get: Callable[..., float | None]) -> Callable[[Monitor], Samples]:
    """A figure of each table that was seen lately."""

    def samples(monitor: Monitor) -> Samples:
        for labels, table in _tables(monitor):
            state = None if monitor.tables[table.database].problem else monitor.table_state(table)
            if state is not None and (value := get(state)) is not None:
                yield labels, value

    return samples


def _batches(monitor: Monitor) -> Samples:
    for labels, table in _tables(monitor):
        if archived := monitor.archives[table].published:
            yield from (((*labels, outcome), count) for outcome, count in archived.batches.items())


def _runs(monitor: Monitor) -> Samples:
    for labels, table in _tables(monitor):
        if runs := monitor.runs[table].published:
            yield from (((*labels, status), count) for status, count in runs.runs.items())


def _errors(monitor: Monitor) -> Samples:
    for labels, table in _tables(monitor):
        if runs := monitor.runs[table].published:
            yield from (((*labels, error), count) for error, count in sorted(runs.errors.items()))


def _restored(monitor: Monitor) -> Samples:
    """By the table that the archives are of: the tables that are restored to may be any."""
    restores = [reader.published for reader in monitor.restores.values()]
    if None in restores:
        return
    for labels, table in _tables(monitor):
        yield labels, sum(known.rows.get(str(table_name(table)), 0) for known in restores if known)


def _restore_runs(monitor: Monitor) -> Samples:
    for database, reader in monitor.restores.items():
        if reader.published:
            yield from (((database, status), count) for status, count in reader.published.runs.items())


def _archives_complete(monitor: Monitor) -> Samples:
    for labels, table in _tables(monitor):
        unread = _trouble(monitor.archives_read) or (monitor.archives_read.value or {}).get(table)
        yield labels, float(monitor.archives[table].published is not None and unread is None)


def _runs_complete(monitor: Monitor) -> Samples:
    for labels, table in _tables(monitor):
        yield labels, float(monitor.runs[table].published is not None and _trouble(monitor.runs_read) is None)


def _trouble(watch: Watch[Any]) -> str | None:
    """Why the last look failed or hangs. During the first one, tables that were read already are complete."""
    return watch.problem if watch.latest else None


def _overdue(monitor: Monitor) -> Samples:
    for labels, table in _tables(monitor):
        if monitor.table_state(table) is not None and not monitor.tables[table.database].problem:
            yield labels, float(is_overdue(monitor, table, datetime.now(UTC)))


def _up(monitor: Monitor) -> Samples:
    for name, watch in monitor.databases.items():
        yield ("database", name), float(watch.problem is None)
    yield ("store", monitor.config.store.bucket), float(monitor.store.problem is None)
    yield ("dagster", "storage"), float(monitor.dagster.problem is None)
    daemon = monitor.dagster.value
    if daemon is not None and daemon.is_expected:
        yield ("dagster", "daemon"), float(not daemon.silent and monitor.dagster.problem is None)


def _looks(monitor: Monitor) -> Samples:
    for watch in monitor.watches:
        if watch.latest:
            yield (watch.subject,), watch.latest.at.timestamp()


def _healthy(monitor: Monitor) -> Samples:
    yield (), float(health_of(monitor, datetime.now(UTC)).is_healthy)


def _seconds(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment else None


DURATION = "duration_seconds"
DURATION_HELP = "Wall time of archive runs that reported, by step."

COUNTERS = (
    Counter("records_archived", "Rows with a receipt in the store.", TABLE, _of_archives(lambda a: a.rows)),
    Counter("rows_bytes", "Bytes of those rows as JSON.", TABLE, _of_archives(lambda a: a.rows_bytes)),
    Counter("bytes_uploaded", "Bytes of their data objects.", TABLE, _of_archives(lambda a: a.object_bytes)),
    Counter("batches", "Batches by how they ended.", (*TABLE, "outcome"), _batches),
    Counter("records_restored", "Rows that restores brought back, by archived table.", TABLE, _restored),
    Counter("runs", "Archive runs by how they ended.", (*TABLE, "status"), _runs),
    Counter("errors", "Archive runs that failed, by class of error.", (*TABLE, "error"), _errors),
    Counter("restore_runs", "Restores into a database by how they ended.", ("database", "status"), _restore_runs),
    Counter(
        "alerts_sent",
        "Alerts that a channel took.",
        ("channel",),
        lambda monitor: (((state.name,), state.all_sent) for state in monitor.channels),
    ),
    Counter(
        "alert_failures",
        "Alerts that a channel did not take.",
        ("channel",),
        lambda monitor: (((state.name,), state.all_failures) for state in monitor.channels),
    ),
    Counter(
        "checksum_failures",
        "Archive runs that stopped because what was read back is not what was written.",
        TABLE,
        _of_runs(lambda r: r.errors.get("VerificationError", 0)),
    ),
    Counter(
        "paused_seconds",
        "Seconds for which archive runs waited because a signal of throttle was over its limit.",
        TABLE,
        _of_runs(lambda r: r.paused_seconds),
    ),
    Counter(
        "space_reclaimed_bytes",
        "Bytes that the table got smaller on disk in archive runs.",
        TABLE,
        _of_runs(lambda r: r.reclaimed_bytes),
    ),
)
GAUGES = (
    Gauge(
        "records_eligible",
        "Rows that an archive would take now, counted up to a limit.",
        TABLE,
        _of_state(lambda s: s.backlog.eligible_rows),
    ),
    Gauge(
        "records_eligible_capped",
        "1 when there are more eligible rows than were counted.",
        TABLE,
        _of_state(lambda s: float(s.backlog.is_capped)),
    ),
    Gauge(
        "oldest_eligible_timestamp_seconds",
        "Time of the oldest eligible row; absent when there is none.",
        TABLE,
        _of_state(lambda s: _seconds(s.backlog.oldest_row)),
    ),
    Gauge("overdue", "1 when rows are due and for too long nothing was archived.", TABLE, _overdue),
    Gauge("table_bytes", "Bytes on disk of the table with its indexes.", TABLE, _of_state(lambda s: s.table_bytes)),
    Gauge("lock_held", "1 while a run or a restore holds the table's lock.", TABLE, _of_state(lambda s: s.lock_held)),
    Gauge(
        "pending_batches",
        "Batches with a manifest and without a receipt: at work, or left by a crash.",
        TABLE,
        _of_archives(lambda a: a.pending),
    ),
    Gauge(
        "last_archived_timestamp_seconds",
        "When the newest receipt was written.",
        TABLE,
        _of_archives(lambda a: _seconds(a.last_at)),
    ),
    Gauge(
        "last_run_timestamp_seconds",
        "When the last archive run ended.",
        TABLE,
        _of_runs(lambda r: _seconds(r.last_run_at)),
    ),
    Gauge(
        "last_success_timestamp_seconds",
        "When the last archive run that succeeded ended.",
        TABLE,
        _of_runs(lambda r: _seconds(r.last_success_at)),
    ),
    Gauge("archives_complete", "1 when every archive that is in the store was read.", TABLE, _archives_complete),
    Gauge("runs_complete", "1 when every run that Dagster has stored was read.", TABLE, _runs_complete),
    Gauge("up", "1 when it answers: databases, the store, Dagster's storage and daemon.", ("kind", "name"), _up),
    Gauge("last_look_timestamp_seconds", "When the monitor last ended a look at something.", ("subject",), _looks),
    Gauge("healthy", "1 when /health says 200.", (), _healthy),
)
