"""What the sensor and the nightly schedule request, and what they say when they request nothing."""

from datetime import UTC, datetime

import dagster as dg
import pytest

from archiver_pipeline.orchestration import sensors
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.names import asset_key
from archiver_pipeline.orchestration.sensors import due_sensor, nightly_schedule, run_tags
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.cli.workplace import not_now
from archiver_pipeline_tests.orchestration.running import due_keys, materialize
from archiver_pipeline_tests.plugins.archiving import create_audit_table

both_faces = pytest.mark.parametrize("face", ["sensor", "schedule"])


@both_faces
def test_the_oldest_due_windows_are_requested_in_order(workplace, instance, face):
    requests, _ = tick(workplace, instance, face)
    config = workplace.loaded()
    due = due_keys(workplace)
    assert len(due) > 4
    assert [request.partition_key for request in requests] == (due[:4] if face == "sensor" else due)
    for request in requests:
        assert request.asset_selection == [asset_key(config.tables[0])]
        assert request.tags.items() >= {"archiver/database": "appdb", "archiver/table": "public.audit_logs"}.items()


@both_faces
def test_what_is_requested_can_be_run(workplace, instance, face):
    ledger = workplace.ledger()
    requests, _ = tick(workplace, instance, face)
    partitions = build_definitions(workplace.loaded()).resolve_assets_def(requests[0].asset_selection[0]).partitions_def
    for request in requests:
        assert partitions.has_partition_key(request.partition_key)
    assert materialize(workplace, instance, requests[0].partition_key).success
    ledger.account()
    again, _ = tick(workplace, instance, face)
    due = due_keys(workplace)
    assert [request.partition_key for request in again] == (due[:4] if face == "sensor" else due)


@both_faces
def test_nothing_due_says_that_the_tables_were_asked(workplace, instance, face):
    workplace.database.execute("DELETE FROM audit_logs WHERE id < 100000")
    requests, reason = tick(workplace, instance, face)
    assert requests == []
    assert "asked 1 of 1 tables of appdb: nothing is older than retention" in reason


@both_faces
def test_a_table_outside_its_hours_is_left_alone(workplace, instance, face):
    create_audit_table(workplace.database, "others")
    workplace.add_table("others")
    workplace.tables[0]["allowed_hours"] = not_now()
    workplace.write()
    requests, _ = tick(workplace, instance, face)
    assert {request.tags["archiver/table"] for request in requests} == {"public.others"}
    workplace.tables[1]["allowed_hours"] = not_now()
    workplace.write()
    requests, reason = tick(workplace, instance, face)
    assert requests == []
    assert "asked 0 of 2 tables of appdb" in reason
    assert "2 are outside their allowed_hours" in reason


@pytest.mark.parametrize(
    ("status", "is_tagged"), [(dg.DagsterRunStatus.NOT_STARTED, True), (dg.DagsterRunStatus.STARTED, False)]
)
@both_faces
def test_a_table_with_a_run_under_way_is_left_alone(workplace, instance, face, status, is_tagged):
    """Also when a person launched it in the UI, where no tag of ours is given."""
    create_audit_table(workplace.database, "others")
    workplace.add_table("others")
    workplace.write()
    add_run(instance, workplace.loaded().tables[0], status, is_tagged=is_tagged)
    requests, _ = tick(workplace, instance, face)
    assert {request.asset_selection[0].path[2] for request in requests} == {"others"}


@both_faces
def test_a_finished_run_does_not_hold_its_table_back(workplace, instance, face):
    table = workplace.loaded().tables[0]
    for status in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED):
        add_run(instance, table, status)
    assert tick(workplace, instance, face)[0]


@both_faces
def test_a_database_that_is_down_is_not_nothing_due(workplace, instance, face):
    port = free_port()
    workplace.document["databases"][0]["port"] = port
    workplace.write()
    with pytest.raises(dg.Failure, match=f"could not look for due rows: appdb: 127.0.0.1:{port}"):
        tick(workplace, instance, face)


@both_faces
def test_a_broken_table_does_not_hold_the_others_back(workplace, instance, face):
    workplace.tables.insert(0, {"name": "gone", "timestamp_column": "created_at"})
    workplace.write()
    requests, _ = tick(workplace, instance, face)
    assert {request.asset_selection[0].path[2] for request in requests} == {"audit_logs"}


@both_faces
def test_a_broken_table_is_told_when_nothing_else_is_due(workplace, instance, face):
    """A green tick must not hide for months that one table cannot be asked."""
    workplace.database.execute("DELETE FROM audit_logs WHERE id < 100000")
    workplace.add_table("gone")
    workplace.write()
    with pytest.raises(dg.Failure, match=r"public\.gone"):
        tick(workplace, instance, face)


@both_faces
def test_a_tick_leaves_no_connection_and_takes_no_lock(workplace, instance, face):
    with workplace.hold_lock():
        assert tick(workplace, instance, face)[0]
    assert workplace.sessions() == 0
    assert workplace.keys_like("") == []


@pytest.mark.parametrize("face", ["sensor"])
def test_the_next_tick_goes_on_where_the_last_one_ended(workplace, instance, face, monkeypatch):
    """Nothing is run in between, and there is room for one window of age and one in turn."""
    monkeypatch.setattr(sensors, "_RUNS_AT_MOST", 2)
    for name in ("b", "c", "d"):
        create_audit_table(workplace.database, name)
        workplace.add_table(name)
    workplace.write()
    config, cursor, seen = workplace.loaded(), None, []
    for _ in range(3):
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        answer = due_sensor(config, config.databases[0])(context)
        seen.append([request.asset_selection[0].path[2] for request in answer.run_requests])
        cursor = answer.cursor
    [oldest] = set.intersection(*map(set, seen))
    assert sorted(name for names in seen for name in names if name != oldest) == sorted(
        {"audit_logs", "b", "c", "d"} - {oldest}
    )


@pytest.mark.parametrize("face", ["sensor"])
def test_a_sensor_waits_while_many_of_its_runs_are_not_finished(workplace, instance, face):
    table = workplace.loaded().tables[0]
    for _ in range(sensors._RUNS_AT_MOST // 2 + 1):
        add_run(instance, table, dg.DagsterRunStatus.NOT_STARTED)
    requests, reason = tick(workplace, instance, face)
    assert requests == []
    assert reason == "9 runs of appdb are not finished yet"


def add_run(instance, table, status, *, is_tagged=True):
    """A run of the table as the sensor launches it, or as the UI does."""
    instance.add_run(
        dg.DagsterRun(
            job_name="__ASSET_JOB",
            status=status,
            tags=run_tags(table) if is_tagged else {},
            asset_selection=frozenset({asset_key(table)}),
        )
    )


def tick(workplace, instance, face):
    """The run requests of one evaluation, and why there is none."""
    config = workplace.loaded()
    if face == "sensor":
        answer = due_sensor(config, config.databases[0])(dg.build_sensor_context(instance=instance))
        return list(answer.run_requests or []), answer.skip_reason and answer.skip_reason.skip_message
    moment = datetime(2026, 1, 1, 2, tzinfo=UTC)
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=moment)
    answer = nightly_schedule(config, config.databases[0])(context)
    return ([], answer.skip_message) if isinstance(answer, dg.SkipReason) else (answer, None)
