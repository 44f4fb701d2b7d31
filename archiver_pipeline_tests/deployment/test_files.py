"""The deployment files, held against their own tools' schemas and against each other. No container is started."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config_schema
from dagster_docker import DockerRunLauncher
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import DagsterK8sJobConfig, construct_dagster_k8s_job
from kubernetes.client import ApiClient

from archiver_pipeline.cli.main import app
from archiver_pipeline.config.loading import load_config
from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.engine.inventory import DateRange, eligible_windows
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.postgres.catalog import inspect_table
from archiver_pipeline_tests.deployment.files import COMPOSE, DEPLOY, compose_services
from archiver_pipeline_tests.docs.reading import ROOT
from archiver_pipeline_tests.ledger import Ledger

KUBERNETES_VERSION = "1.30"
CLUSTER = yaml.safe_load((DEPLOY / "dagster-cluster.yaml").read_text())
VALUES = yaml.safe_load((DEPLOY / "kubernetes" / "values.yaml").read_text())
CRONJOB = yaml.safe_load((DEPLOY / "kubernetes" / "cronjob.yaml").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
SHARED_SECTIONS = ("concurrency", "run_monitoring", "run_retries")
# Of the chart's values, read in its own models (helm/dagster/schema in dagster-io/dagster): they forbid any other key.
CHART_KEYS = {
    "global", "postgresql", "generatePostgresqlPasswordSecret", "dagster-user-deployments", "runLauncher",
    "computeLogManager", "dagsterWebserver", "dagsterDaemon", "additionalInstanceConfig", "telemetry", "rabbitmq",
    "redis",
}  # fmt: skip
USER_DEPLOYMENT_KEYS = {
    "name", "image", "dagsterApiGrpcArgs", "port", "includeConfigInLaunchedRuns", "env", "envSecrets", "volumes",
    "volumeMounts", "podSecurityContext", "securityContext", "resources",
}  # fmt: skip
SERVICE_KEYS = {"image", "envSecrets", "podSecurityContext", "securityContext"}
DAEMON_KEYS = SERVICE_KEYS | {"runCoordinator", "runMonitoring", "runRetries"}
RUN_LAUNCHER_KEYS = {"failPodOnRunFailure", "runK8sConfig"}
RUN_K8S_KEYS = {"podSpecConfig", "containerConfig", "jobSpecConfig"}
S3_LOG_KEYS = {"bucket", "prefix", "region", "skipEmptyFiles", "uploadInterval"}
SECRET = re.compile(r"(?im)^\s*[\w-]*(?:password|secret|token|access_key)\s*[:=]\s*['\"]?(?!false|[\s${\[])\S{4,}$")


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def succeed(*command: str) -> None:
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_follows_its_schema():
    succeed(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE))


def test_the_dockerfile_has_nothing_that_its_linter_minds():
    succeed(tool("hadolint"), str(DEPLOY / "Dockerfile"))


def test_the_image_starts_and_checks_what_compose_does():
    stages = DOCKERFILE.split("\nFROM ")
    service = compose_services()["code-server"]
    [command] = re.findall(r"^CMD (\[.*\])$", stages[-1], re.MULTILINE)
    [health] = re.findall(r"^    CMD (\[.*\])$", stages[-1], re.MULTILINE)
    assert yaml.safe_load(command) == service["command"]
    assert yaml.safe_load(health) == service["healthcheck"]["test"][1:]
    assert re.findall(r"^USER (.*)$", stages[-1], re.MULTILINE) == ["10001:10001"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [built] = re.findall(r"^ARG EXTRAS=(.*)$", DOCKERFILE, re.MULTILINE)
    assert set(built.split(",")) <= set(extras)


def test_everything_that_the_image_is_built_from_is_sent_to_the_builder():
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)]
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for path in (path for paths in copied for path in paths):
        assert (ROOT / path).exists(), path
        assert path.split("/")[0] in sent, path


@pytest.mark.parametrize("path", [COMPOSE, *sorted(p for p in DEPLOY.rglob("*") if p.is_file())], ids=lambda p: p.name)
def test_no_secret_is_written_down(path):
    if path.name != "demo.env":
        assert not [match[0] for match in SECRET.finditer(path.read_text())]


def test_settings_of_a_cluster_are_those_of_one_machine():
    single = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    for section in SHARED_SECTIONS:
        assert CLUSTER[section] == single[section] == VALUES["additionalInstanceConfig"][section], section


def test_dagster_takes_the_settings():
    require_config(dagster_instance_config_schema(), CLUSTER)
    require_config(dagster_instance_config_schema(), VALUES["additionalInstanceConfig"])


def test_the_launcher_of_docker_takes_its_settings():
    [settings] = yaml.safe_load((DEPLOY / "dagster-docker.yaml").read_text()).values()
    assert (settings["module"], settings["class"]) == ("dagster_docker", DockerRunLauncher.__name__)
    require_config(DockerRunLauncher.config_type(), settings["config"])


def test_values_use_only_keys_that_the_chart_has():
    require_keys(VALUES, CHART_KEYS)
    [deployment] = VALUES["dagster-user-deployments"]["deployments"]
    require_keys(deployment, USER_DEPLOYMENT_KEYS)
    require_keys(VALUES["dagsterWebserver"], SERVICE_KEYS)
    require_keys(VALUES["dagsterDaemon"], DAEMON_KEYS)
    require_keys(VALUES["runLauncher"]["config"]["k8sRunLauncher"], RUN_LAUNCHER_KEYS)
    require_keys(VALUES["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"], RUN_K8S_KEYS)
    require_keys(VALUES["computeLogManager"]["config"]["s3ComputeLogManager"], S3_LOG_KEYS)
    versions = (ROOT / "constraints.txt").read_text()
    [chart] = re.findall(r"--version (\S+)", (DEPLOY / "kubernetes" / "values.yaml").read_text())
    assert f"\ndagster=={chart}\n" in versions


def test_a_run_is_a_pod_that_kubernetes_takes():
    """The job that Dagster's launcher makes of the values, as far as the chart hands them on."""
    job = run_job()
    kubernetes_validate.validate(job, KUBERNETES_VERSION, strict=True)
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert job["spec"]["backoffLimit"] == 0
    assert container["envFrom"][-1]["secretRef"] == {"name": "archiver-secrets"}
    assert {"name": "ARCHIVER_CONFIG", "value": "/etc/archiver/archiver.yaml"} in container["env"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/etc/archiver", "/var/lib/archiver"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_kubernetes_takes_the_cron_job():
    kubernetes_validate.validate(CRONJOB, KUBERNETES_VERSION, strict=True)
    assert cronjob_container()["securityContext"]["readOnlyRootFilesystem"] is True


def test_systemd_takes_the_units(tmp_path):
    """By systemd itself where it is installed, with a program and an account that this machine has."""
    service = (DEPLOY / "systemd" / "archiver.service").read_text()
    [command] = re.findall(r"^ExecStart=(.*)$", service, re.MULTILINE)
    assert shlex.split(command)[1:] == ["run"]
    if shutil.which("systemd-analyze") is None:
        require_sections(service, {"Unit", "Service", "Install"})
        return
    here = re.sub(r"^(ExecStart)=\S+", rf"\1={tool('archiver')}", service, flags=re.MULTILINE)
    here = re.sub(r"^(User|Group)=.*$", r"\1=root", here, flags=re.MULTILINE)
    here = re.sub(r"^Documentation=.*$", "", here, flags=re.MULTILINE)
    (tmp_path / "archiver.service").write_text(here)
    shutil.copy(DEPLOY / "systemd" / "archiver.timer", tmp_path)
    units = [str(tmp_path / name) for name in ("archiver.service", "archiver.timer")]
    done = subprocess.run(["systemd-analyze", "verify", *units], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_archiver_command_in_the_files_parses():
    commands = [service["command"] for service in compose_services().values() if "command" in service]
    commands = [command for command in commands if command[0] == "archiver"]
    commands.append(cronjob_container()["command"])
    known = typer.main.get_command(app).commands
    for _, name, *arguments in commands:
        known[name].make_context(name, arguments, resilient_parsing=False)


def test_the_command_of_the_cron_job_archives(workplace):
    ledger = workplace.ledger()
    done = workplace.run(*cronjob_container()["command"][1:])
    assert done.code == 0, done.stderr
    assert sum(report["rows"] for report in done.json["reports"]) == len(ledger.archived_rows()) > 0
    ledger.account_all_archived()


def test_the_line_of_cron_archives(workplace, tmp_path):
    """The shell line of the crontab, with its files and `logger` on this machine."""
    ledger = workplace.ledger()
    text = (DEPLOY / "cron" / "archiver").read_text()
    line = re.search(r"^0 2 \* \* \*\s+archiver\s+(.*)$", text, re.MULTILINE)[1]
    secrets = tmp_path / "environment"
    secrets.write_text("".join(f"{name}='{workplace.environment.pop(name)}'\n" for name in secret_variables(workplace)))
    secrets.chmod(0o600)
    logger = tmp_path / "bin" / "logger"
    logger.parent.mkdir()
    logger.write_text('#!/bin/sh\nexec cat > "$LOGGED"\n')
    logger.chmod(0o755)
    workplace.environment |= {
        "PATH": os.pathsep.join([str(logger.parent), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "LOGGED": str(tmp_path / "logged"),
    }
    done = workplace.end(workplace.start_program(["sh", "-c", line.replace("/etc/archiver/environment", str(secrets))]))
    secrets.unlink()
    assert (done.code, done.stderr) == (0, "")
    assert "audit_logs" in (tmp_path / "logged").read_text()
    ledger.account_all_archived()


def test_the_demo_of_compose_archives(database, bucket, tmp_path, monkeypatch):
    """Its table and its configuration, on this machine's servers; a part of its rows is enough."""
    sql = (DEPLOY / "demo" / "audit_log.sql").read_text().replace("200000", "2000")
    with database.connect() as connection:
        for statement in sql.split(";\n"):
            connection.execute(statement.encode())
    ledger = Ledger(database, bucket, "shop", "public", "audit_log", "occurred_at", 90)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.secret_access_key)
    config = load_config(DEPLOY / "demo" / "archiver.yaml", environ=demo_environment(database, bucket), cwd=tmp_path)
    [table] = config.tables
    session = ArchiveSession(table, config.databases[0], config.store, run_id="demo")
    try:
        windows = list(eligible_windows(session, inspect_table(session.connection, table), DateRange()))
        report = archive_windows(session, windows)
    finally:
        session.close()
        shutil.rmtree(session.staging_root, ignore_errors=True)
    assert report.rows > 900
    ledger.account()


def require_config(schema: Any, settings: dict[str, Any]) -> None:
    checked = validate_config(schema, settings)
    assert checked.success, checked.errors


def require_keys(section: dict[str, Any], known: set[str]) -> None:
    assert set(section) <= known


def require_sections(unit: str, sections: set[str]) -> None:
    assert set(re.findall(r"^\[(\w+)\]$", unit, re.MULTILINE)) == sections


def run_job() -> dict[str, Any]:
    [deployment] = VALUES["dagster-user-deployments"]["deployments"]
    launcher = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
    run = {
        "pod_spec_config": launcher["runK8sConfig"]["podSpecConfig"],
        "container_config": launcher["runK8sConfig"]["containerConfig"],
        "job_spec_config": launcher["runK8sConfig"]["jobSpecConfig"],
    }
    require_config(K8sRunLauncher.config_type()["run_k8s_config"].config_type, run)
    handed_on = {
        "image_pull_policy": deployment["image"]["pullPolicy"],
        "env_secrets": [secret["name"] for secret in deployment["envSecrets"]],
        "env_vars": [f"{name}={value}" for name, value in deployment["env"].items()],
        "volumes": deployment["volumes"],
        "volume_mounts": deployment["volumeMounts"],
        "resources": deployment["resources"],
        "run_k8s_config": run,
    }
    context = K8sContainerContext.create_from_config({"k8s": handed_on})
    settings = DagsterK8sJobConfig(
        job_image="{repository}:{tag}".format(**deployment["image"]),
        dagster_home=VALUES["global"]["dagsterHome"],
        instance_config_map="archiver-dagster-instance",
        postgres_password_secret=VALUES["global"]["postgresqlSecretName"],
    )
    job = construct_dagster_k8s_job(settings, ["dagster"], "run", context.run_k8s_config)
    return ApiClient().sanitize_for_serialization(job)


def cronjob_container() -> dict[str, Any]:
    [container] = CRONJOB["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return container


def secret_variables(workplace) -> list[str]:
    return [name for name, value in workplace.environment.items() if value in workplace.secrets]


def demo_environment(database, bucket) -> dict[str, str]:
    """The demo's own variables, with this machine's servers in them."""
    lines = [line for line in (DEPLOY / "demo" / "demo.env").read_text().splitlines() if "=" in line]
    own = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    servers = {
        "ARCHIVER_S3_BUCKET": bucket.bucket,
        "AWS_ENDPOINT_URL_S3": bucket.endpoint,
        "DEMO_DB_HOST": database.host,
        "DEMO_DB_PORT": str(database.port),
        "DEMO_DB_NAME": database.name,
        "DEMO_DB_USER": database.user,
        "DEMO_DB_PASSWORD": database.password,
    }
    assert set(servers) - {"DEMO_DB_HOST", "DEMO_DB_PORT", "DEMO_DB_NAME", "DEMO_DB_USER"} <= set(own)
    return own | servers
