"""A cluster in small: the processes of docker-compose.yml, with its very commands, on this machine.

Storage is PostgreSQL and S3, and no two processes share a DAGSTER_HOME, as no two containers do. What differs from the
files: addresses and ports, and how often Dagster looks.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import yaml

from archiver_pipeline.config.loading import LoadedConfig, load_config
from archiver_pipeline.orchestration.names import asset_key
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline_tests.cli.faulty_store import HoldingStore, holding_store
from archiver_pipeline_tests.cli.workplace import wait_until
from archiver_pipeline_tests.deployment.files import DEPLOY, compose_services, health_command
from archiver_pipeline_tests.ledger import Ledger
from archiver_pipeline_tests.orchestration.running import RANGE_END, RANGE_START
from archiver_pipeline_tests.plugins.archiving import RETENTION_DAYS, create_audit_table
from archiver_pipeline_tests.plugins.servers import Bucket, Database

SERVICES = ("code-server", "webserver", "daemon", "monitor")
START_SECONDS = 90
RUN_SECONDS = 90
_OFTEN = {
    "run_monitoring": {"poll_interval_seconds": 1, "free_slots_after_run_end_seconds": 1},
    "run_queue": {"dequeue_interval_seconds": 1},
}
_LAUNCH = """
mutation($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on InvalidSubsetError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
_TERMINATE = """
mutation($run: String!) {
  terminateRun(runId: $run, terminatePolicy: SAFE_TERMINATE) {
    __typename
    ... on TerminateRunFailure { message }
    ... on PythonError { message }
  }
}"""


@dataclass
class Cluster:
    """`databases` and the store behind `store` are what the runs work on; `processes` are by service."""

    folder: Path
    databases: dict[str, Database]
    bucket: Bucket
    store: HoldingStore
    environment: dict[str, str]
    ports: dict[str, int]
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @cached_property
    def instance(self) -> dg.DagsterInstance:
        """An instance on the cluster's storage. Its settings name variables, which this process then has too."""
        os.environ |= {name: value for name, value in self.environment.items() if name.startswith("DAGSTER_PG_")}
        return dg.DagsterInstance.from_config(str(self.home("test")))

    def config(self) -> LoadedConfig:
        return load_config(None, environ=self.environment, cwd=self.folder)

    def ledger(self, database_id: str) -> Ledger:
        database = self.databases[database_id]
        return Ledger(database, self.bucket, database_id, "public", "audit_logs", "created_at", RETENTION_DAYS)

    def home(self, service: str) -> Path:
        return self.folder / "homes" / service

    def start(self, service: str) -> None:
        """Start a service with the command that docker-compose.yml has for it."""
        with (self.folder / f"{service}.log").open("ab") as log:
            self.processes[service] = subprocess.Popen(
                self._own(compose_services()[service]["command"]),
                cwd=self.folder,
                env=self._environment(service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, service: str) -> None:
        """End a service and all that it started, at once, as the end of a container does."""
        process = self.processes.pop(service)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def health(self, service: str) -> "subprocess.CompletedProcess[str]":
        """Run a service's health check of docker-compose.yml."""
        return subprocess.run(
            self._own(health_command(service)),
            check=False,
            cwd=self.folder,
            env=self._environment(service),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text(errors="replace")

    def get(self, path: str) -> bytes:
        """What the webserver answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['webserver']}{path}", timeout=30) as answer:
            return answer.read()

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        url = f"http://127.0.0.1:{self.ports['webserver']}/graphql"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        return found["data"]

    def launch(self, database_id: str, **tags: str) -> str:
        """Launch a run over every due window of a database's table, as the UI does; its id. In the names of `tags`,
        two underscores stand for a slash."""
        [table] = self.config().database(database_id).tables
        days = self.databases[database_id].execute(
            "SELECT to_char(d AT TIME ZONE 'UTC', 'YYYY-MM-DD') FROM (SELECT min(created_at), max(created_at)"
            " FROM audit_logs WHERE id < 100000) AS f(a, b), unnest(ARRAY[a, b]) AS d"
        )
        [first], [last] = days
        selector = {
            "repositoryLocationName": "archiver_pipeline",
            "repositoryName": "__repository__",
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": list(asset_key(table).path)}],
        }
        named = {RANGE_START: first, RANGE_END: last} | {key.replace("__", "/"): value for key, value in tags.items()}
        metadata = {"tags": [{"key": key, "value": value} for key, value in named.items()]}
        params = {"selector": selector, "mode": "default", "executionMetadata": metadata, "runConfigData": {}}
        answer = self.graphql(_LAUNCH, {"params": params})["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def terminate(self, run_id: str) -> None:
        """Terminate a run as the UI does."""
        answer = self.graphql(_TERMINATE, {"run": run_id})["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    @contextmanager
    def daemon_looking_away(self) -> Iterator[None]:
        """The daemon stands still until the end of the block.

        A daemon that meets a run's failure between the event and the run's new status takes it for a run that needs no
        retry, and never looks again (Dagster issue 33741). In the block, a run's failure is told as a whole.
        """
        daemon = psutil.Process(self.processes["daemon"].pid)
        daemon.suspend()
        try:
            yield
        finally:
            daemon.resume()

    def kill_worker(self, run_id: str) -> None:
        """SIGKILL the process of a run, once it is sure that it is that process."""
        records = self.instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records
        events = [record.event_log_entry.dagster_event for record in records]
        [pid] = {int(event.engine_event_data.metadata["pid"].value) for event in events if _names_process(event)}
        server = psutil.Process(self.processes["code-server"].pid)
        [worker] = [child for child in server.children(recursive=True) if child.pid == pid]
        worker.kill()
        worker.wait(timeout=20)

    def lose_disks(self) -> None:
        """What was on the local disks of the machines is gone: staged files and files of Dagster."""
        shutil.rmtree(self.folder / "staging", ignore_errors=True)
        for home in (self.folder / "homes").iterdir():
            shutil.rmtree(home / "storage", ignore_errors=True)

    def retry_of(self, run_id: str) -> str:
        """The id of the run that Dagster launched in a run's place, once it is there."""
        found: list[dg.DagsterRun] = []

        def look() -> bool:
            found.extend(self.retries_of(run_id))
            return bool(found)

        wait_until(look, what=f"a retry of {run_id}", seconds=RUN_SECONDS)
        return found[0].run_id

    def retries_of(self, run_id: str) -> Sequence[dg.DagsterRun]:
        return self.instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run_id}))

    def is_to_be_retried(self, run_id: str) -> bool:
        """Whether Dagster has said of a run that it failed and will be retried."""
        return self.instance.get_run_by_id(run_id).tags.get("dagster/will_retry") == "true"

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        return self.instance.get_run_by_id(run_id).status

    def wait_for_end(self, run_id: str) -> dg.DagsterRunStatus:
        wait_until(lambda: self.status(run_id) in _ENDED, what=f"the end of {run_id}", seconds=RUN_SECONDS)
        return self.status(run_id)

    def steps(self, run_id: str) -> set[str]:
        """The names of the steps that a run executed."""
        return {step.step_key.rpartition(".")[2] for step in self.instance.get_run_step_stats(run_id)}

    def _own(self, command: Sequence[str]) -> list[str]:
        """A command of the files, on this machine's addresses and ports."""
        here = {
            "0.0.0.0": "127.0.0.1",
            "4000": str(self.ports["code-server"]),
            "3000": str(self.ports["webserver"]),
            "/opt/dagster/workspace.yaml": str(DEPLOY / "workspace.yaml"),
        }
        words = [here.get(word, word).replace(":3000/", f":{self.ports['webserver']}/") for word in command]
        words = [word.replace("8001", str(self.ports["monitor"])) for word in words]
        return [str(Path(sys.executable).with_name(words[0])), *words[1:]]

    def _environment(self, service: str) -> dict[str, str]:
        return self.environment | {"DAGSTER_HOME": str(self.home(service))}


_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def _names_process(event: dg.DagsterEvent) -> bool:
    return (event.message or "").startswith("Started process for run")


@contextmanager
def running_cluster(
    folder: Path, storage: Database, databases: dict[str, Database], bucket: Bucket
) -> Iterator[Cluster]:
    """The cluster until the end of the block, with everything it started gone afterwards."""
    with ExitStack() as undo:
        store = undo.enter_context(holding_store(bucket.endpoint))
        ports = {service: free_port() for service in SERVICES}
        cluster = Cluster(folder, databases, bucket, store, _environment(folder, storage, bucket, ports), ports)
        _write_files(cluster)
        undo.callback(_stop_all, cluster)
        _start_all(cluster)
        undo.enter_context(cluster.instance)
        yield cluster


def _write_files(cluster: Cluster) -> None:
    settings = yaml.safe_load((DEPLOY / "dagster-cluster.yaml").read_text())
    for section, changes in _OFTEN.items():
        settings[section] = settings.get(section, {}) | changes
    for service in (*SERVICES, "test"):
        cluster.home(service).mkdir(parents=True)
        (cluster.home(service) / "dagster.yaml").write_text(yaml.safe_dump(settings))
    (cluster.folder / "archiver.yaml").write_text(yaml.safe_dump(_document(cluster)))


def _start_all(cluster: Cluster) -> None:
    """The code server first, as docker-compose.yml has it: processes that meet on an empty storage all make its tables,
    and Dagster lets those fail that come second."""
    first, *others = SERVICES
    cluster.start(first)
    wait_until(lambda: _listens(cluster, first), what=f"the {first} listens", seconds=START_SECONDS)
    for service in others:
        assert first in compose_services()[service]["depends_on"]
        cluster.start(service)
    wait_until(lambda: _answers(cluster), what="the webserver has loaded the code", seconds=START_SECONDS)


def _listens(cluster: Cluster, service: str) -> bool:
    assert cluster.processes[service].poll() is None, cluster.log(service)
    with suppress(OSError), socket.create_connection(("127.0.0.1", cluster.ports[service]), 1):
        return True
    return False


def _answers(cluster: Cluster) -> bool:
    for service, process in cluster.processes.items():
        assert process.poll() is None, cluster.log(service)
    with suppress(OSError):
        entries = cluster.graphql(
            "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }", {}
        )["workspaceOrError"]["locationEntries"]
        return [entry["locationOrLoadError"]["__typename"] for entry in entries] == ["RepositoryLocation"]
    return False


def _stop_all(cluster: Cluster) -> None:
    for service in list(cluster.processes):
        cluster.kill(service)


def _environment(folder: Path, storage: Database, bucket: Bucket, ports: dict[str, int]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "AWS_PROFILE")}
    return own | {
        "ARCHIVER_CONFIG": str(folder / "archiver.yaml"),
        "ARCHIVER_S3_BUCKET": bucket.bucket,
        "ARCHIVER_CODE_SERVER_HOST": "127.0.0.1",
        "ARCHIVER_CODE_SERVER_PORT": str(ports["code-server"]),
        "AWS_ACCESS_KEY_ID": bucket.access_key_id,
        "AWS_SECRET_ACCESS_KEY": bucket.secret_access_key,
        "AWS_REGION": bucket.region,
        "AWS_ENDPOINT_URL_S3": bucket.endpoint,
        "SOURCE_PASSWORD": storage.password,
        "DAGSTER_PG_HOST": storage.host,
        "DAGSTER_PG_PORT": str(storage.port),
        "DAGSTER_PG_DB": storage.name,
        "DAGSTER_PG_USERNAME": storage.user,
        "DAGSTER_PG_PASSWORD": storage.password,
        "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _document(cluster: Cluster) -> dict[str, Any]:
    bucket = cluster.bucket
    return {
        "version": "1",
        "s3": {
            "bucket": bucket.bucket,
            "endpoint": cluster.store.endpoint,
            "prefix": bucket.prefix,
            "region": bucket.region,
            "storage_class": "STANDARD",
        },
        "defaults": {
            "retention_days": RETENTION_DAYS,
            "batch_size": 5,
            "workers": 2,
            "vacuum_strategy": "none",
            "staging_dir": str(cluster.folder / "staging"),
        },
        "databases": [
            {
                "id": database_id,
                "name": database.name,
                "host": database.host,
                "port": database.port,
                "user": database.user,
                "password_env": "SOURCE_PASSWORD",
                # Long enough for a test to meet a delete while it waits for a row.
                "lock_timeout_ms": 60_000,
                "sleep_between_batches": 0.2,
                "tables": [{"name": "audit_logs", "timestamp_column": "created_at"}],
            }
            for database_id, database in cluster.databases.items()
        ],
        "dagster": {"step_outputs": "store"},
        "monitoring": {"health_check_enabled": True, "health_check_port": cluster.ports["monitor"]},
    }


def fill(databases: dict[str, Database], bucket: Bucket) -> None:
    """A fresh audit table in every database, and nothing of an earlier one in the store."""
    for key in bucket.keys():  # noqa: SIM118 - it is no mapping
        bucket.client.delete_object(Bucket=bucket.bucket, Key=key)
    for database in databases.values():
        database.execute("DROP TABLE IF EXISTS audit_logs")
        create_audit_table(database)
