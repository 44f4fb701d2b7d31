"""The job that expires archives, and that no run's config can shorten a retention."""

from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.names import asset_key
from archiver_pipeline_tests.orchestration.documents import config_of, database, table


def launch(workplace, instance, **config):
    job = build_definitions(workplace.loaded()).resolve_job_def("expire_appdb")
    run_config = {"ops": {"appdb__expire": {"config": config}}}
    return job.execute_in_process(instance=instance, run_config=run_config, raise_on_error=False)


def observed(result):
    found = [event.asset_observation_data.asset_observation for event in result.get_asset_observation_events()]
    return [{name: value.value for name, value in one.metadata.items()} for one in found]


def test_a_launched_job_shows_and_removes_only_when_told(workplace, instance):
    workplace.write(retention_days=6, retention_floor_override="a reason that is told", archive_retention_days=39)
    assert workplace.run("run").code == 0
    told = instance.get_latest_materialization_event(asset_key(workplace.loaded().tables[0])).asset_materialization
    assert told.metadata["retention_floor_override"].value == "a reason that is told"
    data = workplace.keys_like(".jsonl.gz")
    shown = launch(workplace, instance)
    assert shown.success
    [told] = observed(shown)
    assert (told["applied"], told["expired_batches"]) == (False, 0)
    assert all(key in told["archives"] for key in data)
    assert workplace.keys_like(".jsonl.gz") == data
    assert not launch(workplace, instance, apply=True, table="audit_log").success
    assert launch(workplace, instance, apply=True, before_date="2020-01-01").success
    assert workplace.keys_like(".jsonl.gz") == data
    [told] = observed(launch(workplace, instance, apply=True, table="public.audit_logs"))
    assert (told["applied"], told["expired_batches"], told["blocked_batches"]) == (True, len(data), 0)
    assert workplace.keys_like(".jsonl.gz") == []


def test_nothing_launches_it_by_itself_and_no_run_config_shortens_a_retention(tmp_path):
    definitions = build_definitions(config_of(tmp_path, database("orders", table(), table("events"))))
    schedules = {schedule.job_name for schedule in definitions.schedules or ()}
    targets = {target.job_name for sensor in definitions.sensors or () for target in sensor.targets}
    assert "expire_orders" not in schedules | targets
    repository = definitions.get_repository_def()
    fields = {name for job in repository.get_all_jobs() for name in _fields(job.run_config_schema.config_type)}
    assert {"limit_rows", "before_date", "apply"} <= fields
    assert not {name for name in fields if "retention" in name}


def _fields(config_type):
    for name, field in getattr(config_type, "fields", {}).items():
        yield name
        yield from _fields(field.config_type)
