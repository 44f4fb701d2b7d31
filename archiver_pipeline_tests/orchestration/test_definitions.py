"""The code location as Dagster's own commands load it, and the repository's Dagster files."""

import shutil
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
VALIDATE = [sys.executable, "-m", "dagster", "definitions", "validate"]


@pytest.fixture
def configured(workplace):
    workplace.environment["ARCHIVER_CONFIG"] = str(workplace.config_path)
    return workplace


def test_a_valid_configuration_loads(configured):
    found = configured.end(configured.start_program([*VALIDATE, "-m", "archiver_pipeline.definitions"]))
    assert found.code == 0, found.stderr


def test_the_repository_s_workspace_loads(configured):
    shutil.copy(REPOSITORY / "workspace.yaml", configured.folder)
    found = configured.end(configured.start_program([*VALIDATE, "-w", "workspace.yaml"]))
    assert found.code == 0, found.stderr


def test_an_invalid_configuration_is_told_with_every_problem(configured):
    configured.document["s3"]["bukket"] = "x"
    configured.write(batch_size=0)
    process = configured.start_program([*VALIDATE, "-m", "archiver_pipeline.definitions"])
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    for told in (str(configured.config_path), "s3.bukket", "defaults.batch_size"):
        assert told in stdout + stderr


def test_the_repository_s_dagster_yaml_loads_and_limits(tmp_path, monkeypatch):
    shutil.copy(REPOSITORY / "dagster.yaml", tmp_path)
    (tmp_path / ".dagster").mkdir()
    monkeypatch.chdir(tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_retries_enabled
        assert instance.get_settings("run_retries")["retry_on_asset_or_op_failure"] is False
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_max_resume_run_attempts == 0
        assert not instance.telemetry_enabled
        assert instance.global_op_concurrency_default_limit == 2
    assert list((tmp_path / ".dagster").iterdir())


def test_one_run_per_table_at_a_time():
    settings = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())
    limits = {limit["key"]: limit["limit"] for limit in settings["concurrency"]["runs"]["tag_concurrency_limits"]}
    assert limits["archiver/table"] == 1
