"""The code location that a configuration becomes: assets, partitions, ops, checks, sensors, schedules."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archiver_pipeline.config.effective import TableSettings
from archiver_pipeline.domain.windows import (
    Window,
    WindowUnit,
    end_of_eligible,
    is_wholly_before,
    window_containing,
    window_starting,
)
from archiver_pipeline.orchestration.assets import partitions_of
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.names import pool_of
from archiver_pipeline.orchestration.ops import STEPS
from archiver_pipeline_tests.orchestration.documents import config_of, database, table

UNITS = list(WindowUnit)
VALID_NAME = re.compile(r"[A-Za-z0-9_]+")
# Days of windows below the retention that a comparison enumerates.
SHOWN_DAYS = {WindowUnit.hour: 2, WindowUnit.day: 40, WindowUnit.week: 90, WindowUnit.month: 400}
MOMENTS = st.datetimes(datetime(2019, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))


@pytest.fixture
def two_databases(tmp_path):
    return config_of(
        tmp_path,
        database("orders", table(), table("events", schema="tracking", window="hour")),
        database("users", table(window="month")),
    )


def test_an_asset_per_table_with_key_group_and_kinds(two_databases):
    specs = {tuple(spec.key.path): spec for asset in assets(two_databases) for spec in asset.specs}
    assert set(specs) == {
        ("orders", "public", "audit_logs"),
        ("orders", "tracking", "events"),
        ("users", "public", "audit_logs"),
    }
    assert {path: spec.group_name for path, spec in specs.items()} == {path: path[0] for path in specs}
    assert all(spec.kinds == {"postgres", "s3"} for spec in specs.values())


def test_the_ops_are_the_steps_in_order_and_share_their_database_s_pool(two_databases):
    for asset in assets(two_databases):
        graph = asset.node_def
        assert isinstance(graph, dg.GraphDefinition)
        assert tuple(node.name for node in graph.nodes_in_topological_order) == STEPS
        feeds = [
            (upstream.node_name, node.name)
            for node in graph.nodes
            for handles in graph.dependency_structure.input_to_upstream_outputs_for_node(node.name).values()
            for upstream in handles
        ]
        assert sorted(feeds) == sorted(pairwise(STEPS))
        ops = [node.definition for node in graph.nodes]
        assert {op.pool for op in ops} == {pool_of(asset.key.path[0])}
        # With a retry policy an in-process run could not be terminated.
        assert {op.retry_policy for op in ops} == {None}


def test_a_job_knows_the_assets_of_its_database_alone(two_databases):
    """One that knew those of all would make loading grow with the square of the databases."""
    repository = build_definitions(two_databases).get_repository_def()
    for name in ("restore_orders", "validate_orders", "watch_orders"):
        keys = repository.get_job(name).asset_layer.asset_graph.get_all_asset_keys()
        assert {key.path[0] for key in keys} == {"orders"}


def test_a_restored_asset_and_a_job_per_database(two_databases):
    restored = restored_assets(two_databases)
    assert [asset.key.path for asset in restored] == [["orders", "restored"], ["users", "restored"]]
    for asset in restored:
        graph = asset.node_def
        assert isinstance(graph, dg.GraphDefinition)
        assert [node.name for node in graph.nodes_in_topological_order] == ["select", "restore", "report"]
        assert {node.definition.pool for node in graph.nodes} == {pool_of(asset.key.path[0])}
        assert {node.definition.retry_policy for node in graph.nodes} == {None}
        [spec] = asset.specs
        assert (spec.group_name, spec.kinds) == (asset.key.path[0], {"postgres", "s3"})
        assert asset.partitions_def is None
        job = build_definitions(two_databases).resolve_job_def(f"restore_{asset.key.path[0]}")
        assert job.asset_layer.executable_asset_keys == {asset.key}


def test_backfills_run_many_windows_at_once(two_databases):
    assert {asset.backfill_policy for asset in assets(two_databases)} == {dg.BackfillPolicy.multi_run(30)}


def test_every_asset_has_both_checks(two_databases):
    for asset in assets(two_databases):
        assert {spec.name for spec in asset.check_specs} == {"verified", "nothing_left_behind"}
        assert {spec.asset_key for spec in asset.check_specs} == {asset.key}


def test_nothing_starts_by_itself(two_databases):
    definitions = build_definitions(two_databases)
    assert {sensor.name: sensor.default_status for sensor in definitions.sensors} == {
        "due_orders": dg.DefaultSensorStatus.STOPPED,
        "due_users": dg.DefaultSensorStatus.STOPPED,
        "retrieved_orders": dg.DefaultSensorStatus.STOPPED,
        "retrieved_users": dg.DefaultSensorStatus.STOPPED,
    }
    assert {schedule.name: schedule.default_status for schedule in definitions.schedules} == {
        "nightly_orders": dg.DefaultScheduleStatus.STOPPED,
        "nightly_users": dg.DefaultScheduleStatus.STOPPED,
        "validate_nightly_orders": dg.DefaultScheduleStatus.STOPPED,
        "validate_nightly_users": dg.DefaultScheduleStatus.STOPPED,
        "watch_daily_orders": dg.DefaultScheduleStatus.STOPPED,
        "watch_daily_users": dg.DefaultScheduleStatus.STOPPED,
    }


def test_a_run_is_one_process(two_databases):
    assert build_definitions(two_databases).executor is dg.in_process_executor


@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=30, deadline=None)
@given(now=MOMENTS, retention_days=st.integers(1, 400))
def test_partitions_are_the_windows_that_are_old_enough(tmp_path_factory, unit, now, retention_days):
    settings = settings_of(tmp_path_factory, unit, now, retention_days)
    assert partition_keys(settings, now) == [window.key for window in due_windows(settings, now)]


@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=60, deadline=None)
@given(now=MOMENTS, retention_days=st.integers(1, 2000))
def test_no_partition_reaches_a_young_row(tmp_path_factory, unit, now, retention_days):
    settings = settings_of(tmp_path_factory, unit, now, retention_days)
    cutoff = now - timedelta(days=retention_days)
    for key in partition_keys(settings, now)[-3:]:
        start = datetime.fromisoformat(key if "T" not in key else f"{key}:00").replace(tzinfo=UTC)
        window = window_starting(unit, start, first=settings.first_window)
        assert is_wholly_before(window, cutoff), f"{key} at {now}"


@pytest.mark.parametrize("unit", [WindowUnit.hour, WindowUnit.day])
@pytest.mark.parametrize("seconds", [-1, 0, 1])
def test_a_window_appears_when_its_end_is_as_old_as_the_retention(tmp_path_factory, unit, seconds):
    now = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    settings = settings_of(tmp_path_factory, unit, now, 30)
    ends_at_cutoff = datetime(2026, 3, 1, tzinfo=UTC) - timedelta(days=30)
    last = window_containing(unit, ends_at_cutoff - timedelta(seconds=1), first=settings.first_window)
    assert (last.key in partition_keys(settings, now)) == (seconds >= 0)


@pytest.mark.parametrize("unit", UNITS)
def test_a_table_younger_than_its_retention_has_no_partition(tmp_path, unit):
    young = config_of(tmp_path, database("d", table(window=str(unit), first_window="2026-01-01", retention_days=365)))
    assert partition_keys(young.tables[0], datetime(2026, 2, 1, tzinfo=UTC)) == []


NAMES = ["audit logs", 'au"dit', "audit.logs", "audit-logs", "audit_logs", "Журнал", "日誌", "Audit_Logs", "a" * 63]


def test_odd_names_become_valid_ones_that_stay_apart(tmp_path):
    config = config_of(
        tmp_path,
        database("my-shop", *(table(name) for name in NAMES)),
        database("my.shop", *(table(name, schema='sch"ema') for name in NAMES)),
    )
    location = build_definitions(config)
    ops = [op for asset in assets(config) for node in asset.node_def.nodes for op in [node.definition.name]]
    ops += [node.definition.name for asset in restored_assets(config) for node in asset.node_def.nodes]
    assert len(ops) == len(set(ops)) == 2 * (len(NAMES) * len(STEPS) + 3)
    sensors = [sensor.name for sensor in location.sensors]
    assert len(set(sensors)) == 2 * 2
    assert not [name for name in (*ops, *sensors) if not VALID_NAME.fullmatch(name)]
    dg.Definitions.validate_loadable(location)


def test_many_tables_load(tmp_path):
    config = config_of(tmp_path, database("orders", *(table(f"audit_{n}") for n in range(300))))
    location = build_definitions(config)
    dg.Definitions.validate_loadable(location)
    assert len(assets(config)) == 300


def assets(config):
    found = build_definitions(config).assets
    assert found is not None
    return [asset for asset in found if isinstance(asset, dg.AssetsDefinition) and asset.key.path[1:] != ["restored"]]


def restored_assets(config):
    """The assets of rows that were brought back, one per database."""
    found = build_definitions(config).assets
    assert found is not None
    return [asset for asset in found if isinstance(asset, dg.AssetsDefinition) and asset.key.path[1:] == ["restored"]]


def settings_of(tmp_path_factory, unit: WindowUnit, now: datetime, retention_days: int) -> TableSettings:
    """A table whose first window lies some windows before the cutoff."""
    first = (now - timedelta(days=retention_days + SHOWN_DAYS[unit])).date()
    reason = "windows of every length, short ones too"
    days = {"retention_days": retention_days, "retention_floor_override": reason}
    configured = table(window=str(unit), first_window=first.isoformat(), **days)
    return config_of(tmp_path_factory.getbasetemp(), database("d", configured)).tables[0]


def partition_keys(settings: TableSettings, now: datetime) -> list[str]:
    return list(partitions_of(settings).get_partition_keys(current_time=now))


def due_windows(settings: TableSettings, now: datetime) -> Iterator[Window]:
    """What the engine takes: every window from the first to the end of what is eligible."""
    unit = WindowUnit(settings.window)
    end = end_of_eligible(unit, now, settings.retention_days)
    window = window_containing(unit, datetime(2000, 1, 1, tzinfo=UTC), first=settings.first_window)
    while window.end <= end:
        yield window
        window = window_starting(unit, window.end, first=settings.first_window)
