"""The asset check of archives on a real Dagster instance: green, red, yellow, never green for what it did not see."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from archiver_pipeline.domain.validation import ValidationRequest
from archiver_pipeline.engine.progress import SilentProgress
from archiver_pipeline.orchestration import ops
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.launch import run_validation_in_process
from archiver_pipeline.orchestration.validation import ValidateConfig, request_of, validate_run_config
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.engine.running import put
from archiver_pipeline_tests.engine.test_store_damage import drop, flipped
from archiver_pipeline_tests.orchestration.running import due_keys, materialize
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, create_audit_table

NOW = datetime(2026, 5, 4, 3, 2, tzinfo=UTC)
OP = "appdb__public__audit_logs__archives_archives_valid"


@pytest.fixture
def archived(workplace, instance):
    keys = due_keys(workplace)
    assert materialize(workplace, instance, keys[0], keys[-1]).success
    return workplace


def run_job(workplace, instance, config=None):
    """The job of the first database, as the UI launches it."""
    job = build_definitions(workplace.loaded()).resolve_job_def("validate_appdb")
    run_config = {"ops": {OP: {"config": config}}} if config else {}
    return job.execute_in_process(instance=instance, run_config=run_config, raise_on_error=False)


def check_of(result):
    [evaluation] = result.get_asset_check_evaluations()
    return evaluation


def test_valid_archives_pass_with_figures(archived, instance):
    result = run_job(archived, instance)
    assert result.success
    check = check_of(result)
    assert (check.passed, check.check_name, check.asset_key.path) == (
        True,
        "archives_valid",
        ["appdb", "public", "audit_logs", "archives"],
    )
    shown = {name: value.value for name, value in check.metadata.items()}
    assert shown["archived_rows"] == shown["read_rows"] == shown["audited_rows"] == OLD_ROWS
    assert (shown["read_share"], shown["findings_count"], shown["findings"]) == (1, 0, "none")


def test_the_job_archives_nothing(archived, instance):
    before = archived.bucket.archive_keys()
    assert run_job(archived, instance).success
    assert archived.bucket.archive_keys() == before
    names = {node.name for node in build_definitions(archived.loaded()).resolve_job_def("validate_appdb").nodes}
    assert names == {OP}


def test_an_archive_run_does_not_read_all_archives_back(workplace, instance):
    """Dagster adds the checks of an asset to every run that materializes it; this one costs as much as a restore."""
    result = materialize(workplace, instance, due_keys(workplace)[0])
    assert result.success
    names = {check.check_name for check in result.get_asset_check_evaluations()}
    assert names == {"verified", "nothing_left_behind"}


def test_a_finding_is_an_error_with_a_table_of_what_to_do(archived, instance):
    key = archived.keys_like(".jsonl.gz")[0]
    put(archived.bucket, key, flipped(archived.bucket.read(key)))
    check = check_of(run_job(archived, instance))
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    rows = [line for line in check.metadata["findings"].value.splitlines() if key in line]
    assert len(rows) == 1
    assert rows[0].startswith("| damaged |")
    assert "bring the object back" in rows[0]


def test_no_archives_is_a_warning_and_no_pass(workplace, instance):
    check = check_of(run_job(workplace, instance))
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "no archives found" in check.description


@pytest.mark.parametrize("server", ["database", "store"])
def test_a_server_that_is_down_fails_the_run_and_passes_nothing(archived, instance, server, monkeypatch):
    monkeypatch.setattr(ops, "_FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(ops, "_MAX_RETRIES", 1)
    if server == "database":
        archived.document["databases"][0]["port"] = free_port()
    else:
        archived.document["s3"]["bucket"] = "no-such-bucket"
    archived.write()
    result = run_job(archived, instance)
    assert not result.success
    assert result.get_asset_check_evaluations() == []
    [failure] = [event for event in result.all_events if event.is_step_failure]
    data = failure.step_failure_data.user_failure_data
    assert data.metadata["error"].value == {"database": "NetworkError", "store": "PreflightError"}[server]


def test_config_reaches_the_engine(archived, instance):
    windows = sorted({key.rsplit("_", 2)[1] for key in archived.keys_like(".jsonl.gz")})
    config = {"start_date": windows[0], "end_date": windows[0], "sample_percent": 50, "day": "2026-01-01"}
    shown = check_of(run_job(archived, instance, config)).metadata
    assert 0 < shown["archived_rows"].value < OLD_ROWS
    config["day"] = "2026-01-02"
    other = check_of(run_job(archived, instance, config)).metadata
    objects = [key for key in archived.keys_like(".jsonl.gz") if key.rsplit("_", 2)[1] == windows[0]]
    assert shown["read_objects"].value + other["read_objects"].value == len(objects)


@pytest.mark.parametrize("config", [{"sample_percent": 0}, {"start_date": "yesterday"}, {"smaple": 5}])
def test_a_config_that_makes_no_sense_validates_nothing(archived, instance, config):
    try:
        result = run_job(archived, instance, config)
    except dg.DagsterInvalidConfigError:
        return
    assert not result.success
    assert result.get_asset_check_evaluations() == []


def test_requests_survive_their_way_through_the_run_config(workplace):
    table = workplace.loaded().tables[0]
    for request in (
        ValidationRequest(now=NOW, day=date(2026, 1, 2)),
        ValidationRequest(
            now=NOW,
            day=date(2026, 1, 2),
            sample_percent=5,
            start=date(2025, 1, 1),
            end=date(2025, 2, 1),
            data_key="a/b",
            offline=True,
            repair=True,
        ),
    ):
        assert request_of(ValidateConfig(**validate_run_config(table, request)[OP]["config"]), NOW) == request
    assert request_of(ValidateConfig(), NOW).day == NOW.date()


def test_the_nightly_schedule_reads_another_share_every_night(archived, instance):
    create_audit_table(archived.database, "others")
    archived.add_table("others")
    archived.write()
    definitions = build_definitions(archived.loaded())
    schedule = definitions.resolve_schedule_def("validate_nightly_appdb")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    night = datetime(2026, 3, 1, 4, tzinfo=UTC)
    read = 0
    for nights in range(20):
        context = dg.build_schedule_context(instance, scheduled_execution_time=night + timedelta(days=nights))
        [request] = schedule.evaluate_tick(context).run_requests
        assert set(request.run_config["ops"]) == {OP, OP.replace("audit_logs", "others")}
        assert request.run_config["ops"][OP]["config"]["sample_percent"] == 5
        if nights < 2:
            job = definitions.resolve_job_def(schedule.job_name)
            result = job.execute_in_process(instance=instance, run_config=request.run_config, raise_on_error=False)
            assert result.success
        day = date.fromisoformat(request.run_config["ops"][OP]["config"]["day"])
        asked = ValidationRequest(now=NOW, day=day, sample_percent=5)
        read += sum(asked.reads(key.rsplit("_", 1)[1].split(".")[0]) for key in archived.keys_like(".jsonl.gz"))
    assert read == len(archived.keys_like(".jsonl.gz"))


def test_a_command_s_run_is_recorded_and_keeps_the_sensor_at_work(archived, instance):
    config = archived.loaded()
    request = ValidationRequest(now=datetime.now(UTC), day=date(2026, 1, 1))
    reports = []

    class Listener(SilentProgress):
        def validation_reported(self, report):
            reports.append(report)

    definitions = build_definitions(config, progress=Listener)
    drop(archived.bucket, archived.keys_like(".manifest.json")[0])
    assert run_validation_in_process(definitions, instance, config.tables[0], request, log_level="CRITICAL")
    assert [len(report.findings) for report in reports] == [1]
    newest = instance.get_run_records(limit=1)[0].dagster_run
    assert newest.status is dg.DagsterRunStatus.SUCCESS
    assert "archiver/table" not in newest.tags
    assert newest.tags["archiver/database"] == "appdb"


def test_a_run_leaves_no_connection(archived, instance):
    run_job(archived, instance, {"repair": True})
    assert archived.sessions() == 0
