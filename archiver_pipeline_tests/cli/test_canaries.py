"""A secret is planted in every place that one can come from; then everything is done that can be done, well and badly,
and every byte that comes out is searched.

    make test PYTEST_ARGS="-n 0 -s archiver_pipeline_tests/cli/test_canaries.py"     prints sources by places
"""

import copy
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import psutil
import pytest
from moto.server import ThreadedMotoServer

from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.postgres.connection import connect
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.canaries import AWKWARD, Search, canary, spellings
from archiver_pipeline_tests.cli.faulty_store import damaging_store
from archiver_pipeline_tests.cli.workplace import SECRET_VARIABLE, Workplace, wait_until
from archiver_pipeline_tests.plugins import hold_api as hold_api_module
from archiver_pipeline_tests.plugins import listening
from archiver_pipeline_tests.plugins.hold_api import send
from archiver_pipeline_tests.plugins.vault import VaultServer

DATABASES = ("env", "plain", "file", "aws", "vault", "pgpassword")
HOOKS = ("slack", "teams")
SERVER_SECONDS = 60
_LAUNCH = """
mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on PythonError { message stack } } }"""
_METADATA = """label description ... on TextMetadataEntry { text } ... on JsonMetadataEntry { jsonString }
  ... on MarkdownMetadataEntry { mdStr } ... on PathMetadataEntry { path } ... on UrlMetadataEntry { url }"""
_ERROR = "error { message stack errorChain { error { message stack } } }"
_RUN = f"""
query($run: ID!) {{ runOrError(runId: $run) {{ __typename ... on Run {{ status runConfigYaml tags {{ key value }}
  stepStats {{ stepKey status }}
  eventConnection {{ events {{ __typename ... on MessageEvent {{ message level stepKey }}
    ... on MaterializationEvent {{ description metadataEntries {{ {_METADATA} }} }}
    ... on ExecutionStepFailureEvent {{ {_ERROR} failureMetadata {{ metadataEntries {{ {_METADATA} }} }} }}
    ... on RunFailureEvent {{ {_ERROR} }} }} }} }} }} }}"""
_LOCATION = f"""
query {{ assetNodes {{ id opNames description metadataEntries {{ {_METADATA} }} configField {{ name }} }}
  repositoriesOrError {{ ... on RepositoryConnection {{ nodes {{ name
    allTopLevelResourceDetails {{ name description }} schedules {{ name }} sensors {{ name description }}
    jobs {{ name description }} }} }} }}
  workspaceOrError {{ ... on Workspace {{ locationEntries {{ name displayMetadata {{ key value }} }} }} }} }}"""


@pytest.fixture(scope="module")
def moto():
    server = ThreadedMotoServer(port=0)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


class Planted:
    """A workplace in which every secret is a canary."""

    def __init__(self, workplace: Workplace, search: Search) -> None:
        self.workplace, self.search = workplace, search
        self.sources: set[Path] = {workplace.config_path}
        """Files that hold secrets because a person put them there."""

    def put_file(self, name: str, content: str) -> str:
        path = self.workplace.folder / name
        path.write_text(content)
        path.chmod(0o600)
        self.sources.add(path)
        return f"file:{name}"

    def run(self, *arguments: str, code: int | tuple[int, ...] = 0, **environment: str) -> None:
        """A command, whose output is searched; `environment` for this once."""
        kept = dict(self.workplace.environment)
        self.workplace.environment |= environment
        finished = self.workplace.run(*arguments)
        self.workplace.environment.clear()
        self.workplace.environment.update(kept)
        place = f"archiver {' '.join(arguments)}"
        assert finished.code in (code if isinstance(code, tuple) else (code,)), (place, finished)
        self.search.look("stdout of commands", place, finished.stdout)
        self.search.look("stderr of commands", place, finished.stderr)

    def other_config(self, name: str, change: Any) -> str:
        """The configuration with something made wrong; its path."""
        document = copy.deepcopy(self.workplace.document)
        change(document)
        path = self.workplace.folder / f"{name}.yaml"
        path.write_text(json.dumps(document))
        self.sources.add(path)
        return str(path)

    def look_at_files(self) -> None:
        for path in sorted(self.workplace.folder.rglob("*")):
            if path.is_file() and path not in self.sources:
                inside = path.relative_to(self.workplace.folder).parts[0]
                kind = "Dagster's storage and compute logs" if inside == "dagster" else "staging, fallback, other files"
                self.search.look(kind, str(path), path.read_bytes())
        for key in self.workplace.bucket.keys():  # noqa: SIM118 - not a mapping
            kind = "audit trail" if "/_audit/" in key else "objects in the bucket"
            self.search.look(kind, key, key.encode() + self.workplace.bucket.read(key))


@pytest.fixture
def planted(
    workplace, hold_api, redis_server, listener, certificate, vault, moto, monkeypatch, postgres_server
) -> Planted:
    search = Search()
    planted = Planted(workplace, search)
    document, environment, database = workplace.document, workplace.environment, workplace.database
    original = document["databases"][0]
    environment.pop("TEST_DB_PASSWORD")
    _make_databases(planted, original)
    _keep_elsewhere(planted, vault, moto, certificate)
    environment[SECRET_VARIABLE] = search.plant("S3 secret key, variable", workplace.bucket.secret_access_key)
    _plant_holds(planted, hold_api, monkeypatch)
    url = redis_server.url.get_secret_value()
    search.plant("Redis URL, variable", redis_server.password)
    environment["CANARY_REDIS"] = url
    document["lock"] = {"redis_url_env": "CANARY_REDIS"}
    document["defaults"] |= {"lock_type": "redis", "workers": 1}
    document["s3"]["local_fallback_dir"] = str(workplace.folder / "fallback")
    document["restore_watermark"] = {"storage_type": "both"}
    _plant_alerts(planted, listener, certificate, vault, monkeypatch)
    document["monitoring"] = {"health_check_enabled": True, "metrics_enabled": True}
    document["monitoring"] |= {"health_check_port": free_port(), "metrics_port": free_port()}
    key = "".join(certificate.read_text().split("-----")[2].split())
    search.plant("private key in a PEM file", key[40:80])
    workplace.write()
    # Planted secrets are looked for by their own search, which tells where.
    monkeypatch.setattr(Workplace, "secrets", ())
    yield planted
    for role in [f"canary_{name}" for name in (*DATABASES, "replica")]:
        database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def _make_databases(planted: Planted, original: dict[str, Any]) -> None:
    """One entry for each way to a password: another role and another table of one database."""
    database, search = planted.workplace.database, planted.search
    planted.workplace.document["databases"] = []
    for name in (*DATABASES, "replica"):
        password = search.plant(f"database password, {name}")
        quoted = password.replace("'", "''")
        database.execute(f"CREATE ROLE canary_{name} LOGIN PASSWORD '{quoted}' IN ROLE pg_read_all_stats")
        database.execute(f"GRANT TEMPORARY ON DATABASE {database.name} TO canary_{name}")
        if name == "replica":
            database.execute("GRANT SELECT ON t_env TO canary_replica")
            continue
        database.execute(f"CREATE TABLE t_{name} AS SELECT * FROM audit_logs WHERE id <= 3")
        database.execute(f"UPDATE t_{name} SET created_at = date_trunc('day', now()) - interval '40 days'")
        database.execute(f"ALTER TABLE t_{name} ADD PRIMARY KEY (id)")
        database.execute(f"CREATE INDEX ON t_{name} (created_at)")
        database.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON t_{name} TO canary_{name}")
        database.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO canary_{name}")
        entry = {key: original[key] for key in ("name", "host", "port", "application_name")}
        entry |= {"id": name, "user": f"canary_{name}"}
        entry["tables"] = [{"name": f"t_{name}", "timestamp_column": "created_at"}]
        planted.workplace.document["databases"].append(entry)
    database.execute("DROP TABLE audit_logs")


def _keep_elsewhere(planted: Planted, vault: VaultServer, moto: str, certificate: Path) -> None:
    env, plain, file, aws, in_vault, _ = planted.workplace.document["databases"]
    search, environment = planted.search, planted.workplace.environment
    secret = {name: search.planted[f"database password, {name}"] for name in (*DATABASES, "replica")}
    env["password_env"], environment["CANARY_PASSWORD"] = "CANARY_PASSWORD", secret["env"]
    env["read_replica"] = {"host": env["host"], "user": "canary_replica", "password_env": "CANARY_REPLICA"}
    environment["CANARY_REPLICA"] = secret["replica"]
    plain["password"] = secret["plain"]
    file["password_from"] = planted.put_file("db-password", f"{secret['file']}\n")
    aws["password_from"] = "aws-secretsmanager:canary/db#password"
    in_vault["password_from"] = "vault:secret/canary/db#password"
    environment["PGPASSWORD"] = secret["pgpassword"]
    vault.secrets["secret/", "canary/db"] = {"password": secret["vault"]}
    vault.token = search.plant("Vault's token", awkward=False)
    environment |= vault.environment
    environment |= {
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": moto,
        "AWS_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "AKIDCANARY",
        "AWS_SECRET_ACCESS_KEY": search.plant("AWS_SECRET_ACCESS_KEY", awkward=False),
        "AWS_SESSION_TOKEN": search.plant("AWS_SESSION_TOKEN", awkward=False),
    }
    client = boto3.client(
        "secretsmanager", "eu-central-1", endpoint_url=moto, aws_access_key_id="a", aws_secret_access_key="b"
    )
    with suppress(client.exceptions.ResourceExistsException):
        client.create_secret(Name="canary/db", SecretString="{}")
    client.put_secret_value(SecretId="canary/db", SecretString=json.dumps({"password": secret["aws"]}))


def _plant_holds(planted: Planted, hold_api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    token = planted.search.plant("hold API's token", hold_api_module.TOKEN)
    planted.workplace.environment |= {"CANARY_HOLDS": token, "REQUESTS_CA_BUNDLE": str(hold_api.certificate)}
    planted.workplace.document["legal_holds"] = {
        "enabled": True,
        "source": "api",
        "api_endpoint": f"https://localhost:{hold_api.port}/v1",
        "api_token_env": "CANARY_HOLDS",
    }

    def answer(request: Any) -> None:
        if request.headers["Authorization"] != f"Bearer {token}":
            send(request, f"bad token {request.headers['Authorization']}".encode(), code=403)
            return
        database, schema, table = request.path.split("/")[-3:]
        body = {"database": database, "schema": schema, "table": table, "holds": []}
        send(request, json.dumps(body).encode())

    hold_api.answer = answer


def _plant_alerts(
    planted: Planted, listener: Any, certificate: Path, vault: VaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = planted.search
    hook = {name: search.plant(f"{name} webhook", awkward=False) for name in HOOKS}
    planted.workplace.environment["CANARY_SLACK"] = f"{listener.url}/services/{hook['slack']}"
    teams = planted.put_file("teams-hook", f"{listener.url}/workflows/{hook['teams']}?sig={hook['teams']}")
    monkeypatch.setattr(listening, "PASSWORD", search.plant("SMTP password", canary("SMTP", awkward=False) + "/+%\"'"))
    smtp = listening.SmtpListener(certificate)
    planted.smtp = smtp
    vault.secrets["secret/", "canary/mail"] = {"password": search.planted["SMTP password"]}
    planted.workplace.document["notifications"] = {
        "enabled": True,
        "send_on_start": True,
        "slack": {"webhook_url_env": "CANARY_SLACK"},
        "teams": {"webhook_url_from": teams},
        "email": {
            "smtp_host": "127.0.0.1",
            "smtp_port": smtp.port,
            "ca_file": str(certificate),
            "username": listening.USER,
            "password_from": "vault:secret/canary/mail#password",
            "from": "archiver@example.com",
            "to": "you@example.com",
        },
    }


def test_no_secret_comes_out_anywhere(planted, listener, hold_api, vault, capsys):
    web = WebServer(planted)
    try:
        monitor = start_monitor(planted)
        succeed(planted)
        fail(planted, vault, hold_api)
        look_at_monitor(planted, monitor)
        web.launch_and_look()
    finally:
        web.stop()
        planted.smtp.stop()
    look_at_python(planted)
    for posted in listener.posted:
        planted.search.look("alerts that were sent", posted.path.split("/")[1], posted.text)
    assert {posted.path.split("/")[1] for posted in listener.posted} == {"services", "workflows"}
    for message in planted.smtp.received:
        planted.search.look("alerts that were sent", "mail", message.as_bytes())
    assert planted.smtp.received, "the password from Vault was right"
    planted.look_at_files()
    with capsys.disabled():
        sys.stdout.write(f"\n{planted.search.table()}\n")
    assert planted.search.leaks == {}


def succeed(planted: Planted) -> None:
    """Everything that an archive goes through, with the right secrets."""
    planted.run("check", "--json")
    planted.run("run", "-d", "env", "--log-format", "json", "--log-level", "debug")
    planted.run("run", "--direct", "--log-format", "json", "--log-level", "debug")
    planted.run("run", "-d", "env", "--dry-run", "--json")
    planted.run("list", "--json")
    planted.run("restore", "-d", "env", "--restore-all", "--log-format", "json")
    planted.run("validate", "-d", "env", "--json")
    planted.run("status", "--json")
    planted.run("hold", "list")
    planted.run("alert", "test")
    planted.run("upload-pending")
    assert planted.workplace.keys_like("receipt.json")


def fail(planted: Planted, vault: VaultServer, hold_api: Any) -> None:
    """What is wrong is a canary, too: libraries like to quote what they could not use."""
    search, document = planted.search, planted.workplace.document

    def again(name: str) -> None:
        planted.workplace.database.execute(
            f"INSERT INTO t_{name} SELECT -n, date_trunc('day', now()) - interval '50 days', 'x', NULL, '{{}}'"
            " FROM generate_series(1, 2) n ON CONFLICT DO NOTHING"
        )

    wrong = search.plant("wrong database password")
    planted.run("run", "-d", "env", code=5, CANARY_PASSWORD=wrong)
    planted.run("run", "-d", "pgpassword", "--direct", "--json", code=5, PGPASSWORD=wrong)
    with_pgpass(planted)
    again("env")
    wrong = search.plant("wrong S3 key")
    planted.run("run", "-d", "env", "--log-format", "json", code=(5, 2), **{SECRET_VARIABLE: wrong})
    closed = free_port()

    def damaging(changed: dict[str, Any]) -> None:
        changed["s3"]["endpoint"] = damaged

    def nowhere(changed: dict[str, Any]) -> None:
        changed["s3"]["endpoint"] = f"http://127.0.0.1:{closed}"

    def no_bucket(changed: dict[str, Any]) -> None:
        changed["s3"]["bucket"] = "no-such-bucket"

    def refused(changed: dict[str, Any]) -> None:
        for one in changed["databases"]:
            one["port"] = closed

    def by_chain(changed: dict[str, Any]) -> None:
        for name in ("access_key_id", "secret_access_key_env"):
            changed["s3"].pop(name)

    path = planted.other_config("nowhere", nowhere)
    unreachable = planted.workplace.start("run", "-d", "aws", "--direct", "-c", path)
    again("plain")
    with damaging_store(document["s3"]["endpoint"]) as damaged:
        planted.run("run", "-d", "plain", "--direct", "-c", planted.other_config("damaging", damaging), code=(1, 2))
    for change, code in ((no_bucket, 3), (refused, 7), (by_chain, (5, 2, 7))):
        planted.run("run", "-d", "env", "--direct", "-c", planted.other_config(change.__name__, change), code=code)
    hook = search.plant("webhook that is not there", awkward=False)
    planted.run("alert", "test", code=7, CANARY_SLACK=f"http://127.0.0.1:{closed}/{hook}")
    token = search.plant("wrong token of the hold API")
    planted.run("run", "-d", "env", "--direct", code=(5, 2), CANARY_HOLDS=token.encode("ascii", "ignore").decode())
    url = f"redis://:{quote(search.plant('wrong password of Redis'), safe='')}@127.0.0.1"
    port = planted.workplace.environment["CANARY_REDIS"].rpartition(":")[2]
    planted.run("run", "-d", "env", "--direct", code=5, CANARY_REDIS=f"{url}:{port}")
    planted.run("check", code=(5, 7), CANARY_REDIS=f"{url}:{closed}/0")
    planted.run("run", "-d", "env", code=3, CANARY_REDIS=f"redis//{search.planted['wrong password of Redis']}")
    vault.failure = 500
    planted.run("run", "-d", "vault", "--direct", code=7)
    vault.failure = 0
    planted.run("run", "-d", "vault", "--direct", code=5, VAULT_TOKEN=search.plant("wrong Vault token", awkward=False))
    planted.run("check", "--json", code=(3, 5), AWS_SECRET_ACCESS_KEY="x", AWS_REGION="eu-west-1")
    finished = planted.workplace.end(unreachable)
    assert finished.code == 7, finished
    search.look("stdout of commands", "archiver run without a store", finished.stdout)
    search.look("stderr of commands", "archiver run without a store", finished.stderr)


def with_pgpass(planted: Planted) -> None:
    """The password comes from .pgpass, first a wrong one, then the right one."""
    database, environment = planted.workplace.database, planted.workplace.environment
    for name in (".pgpass with a wrong password", ".pgpass"):
        secret = planted.search.plant(name, canary("pgpass", awkward=False))
        passfile = planted.put_file("pgpass", f"*:*:*:canary_pgpassword:{secret}\n").removeprefix("file:")
        if name == ".pgpass":
            database.execute(f"ALTER ROLE canary_pgpassword PASSWORD '{secret}'")
        kept = environment.pop("PGPASSWORD")
        try:
            place = str(planted.workplace.folder / passfile)
            planted.run("run", "-d", "pgpassword", "--direct", code=0 if name == ".pgpass" else 5, PGPASSFILE=place)
        finally:
            environment["PGPASSWORD"] = kept


def start_monitor(planted: Planted) -> "subprocess.Popen[str]":
    return planted.workplace.start("monitor")


def look_at_monitor(planted: Planted, process: "subprocess.Popen[str]") -> None:
    written = planted.workplace.document["monitoring"]
    addresses = [f"http://127.0.0.1:{written['health_check_port']}/health"]
    addresses += [f"http://127.0.0.1:{written['metrics_port']}/metrics"]
    for address in addresses:
        planted.search.look("/health and /metrics", address, asked(address))
    look_at_processes(planted, process.pid)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=20)
    planted.search.look("stdout of commands", "archiver monitor", stdout)
    planted.search.look("stderr of commands", "archiver monitor", stderr)


def asked(address: str) -> bytes:
    def ask() -> bytes | None:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            return error.read()
        except OSError:
            return None

    deadline = time.monotonic() + SERVER_SECONDS
    while (found := ask()) is None:
        assert time.monotonic() < deadline, address
        time.sleep(0.1)
    return found


def look_at_processes(planted: Planted, *parents: int) -> None:
    """What everybody on the machine may see: the command lines of all processes of ours."""
    for parent in parents:
        with suppress(psutil.Error):
            process = psutil.Process(parent)
            for one in (process, *process.children(recursive=True)):
                planted.search.look("command lines of processes", str(one.pid), "\0".join(one.cmdline()))


class WebServer:
    """Dagster's webserver over the planted configuration, started at once, because it takes a while."""

    def __init__(self, planted: Planted) -> None:
        self._planted, self._port = planted, free_port()
        home = planted.workplace.dagster_home / "dagster.yaml"
        coordinator = "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\n"
        home.write_text(home.read_text() + coordinator)
        program = Path(sys.executable).with_name("dagster-webserver")
        command = [str(program), "-m", "archiver_pipeline.definitions", "-h", "127.0.0.1", "-p", str(self._port)]
        self._log = planted.workplace.folder / "dagster" / "webserver.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                cwd=planted.workplace.folder,
                env=planted.workplace.environment
                | {"ARCHIVER_CONFIG": str(planted.workplace.config_path), "PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def launch_and_look(self) -> None:
        """A run that goes well and one whose database is not there, launched as from the UI; and what the UI shows."""
        database = self._planted.workplace.database
        database.execute(
            "INSERT INTO t_plain SELECT n, date_trunc('day', now()) - interval '45 days', 'x', NULL, '{}'"
            " FROM generate_series(90, 92) n"
        )
        asked(f"http://127.0.0.1:{self._port}/server_info")
        look = self._planted.search.look
        look("UI (GraphQL)", "code location", json.dumps(self._query(_LOCATION, {})))
        broken = "ALTER ROLE canary_file PASSWORD 'another'"
        database.execute(broken)
        runs = {self._launch("plain"): "SUCCESS", self._launch("file"): "FAILURE"}
        look_at_processes(self._planted, self._process.pid)
        for run, status in runs.items():
            wait_until(lambda run=run: self._status(run) in ("SUCCESS", "FAILURE"), what=f"run {run} ends")
            shown = self._query(_RUN, {"run": run})
            assert shown["runOrError"]["status"] == status, json.dumps(shown)[-3000:]
            look("UI (GraphQL)", f"run {run}", json.dumps(shown))
            look("UI (GraphQL)", f"run {run}", json.dumps(shown, ensure_ascii=False))

    def _launch(self, name: str) -> str:
        [(day,)] = self._planted.workplace.database.execute(
            f"SELECT to_char(coalesce(min(created_at), now() - interval '40 days'), 'YYYY-MM-DD') FROM t_{name}"
        )
        selector = {
            "repositoryLocationName": "archiver_pipeline.definitions",
            "repositoryName": "__repository__",
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": [name, "public", f"t_{name}"]}],
        }
        metadata = {"tags": [{"key": "dagster/partition", "value": day}]}
        params = {"selector": selector, "mode": "default", "executionMetadata": metadata, "runConfigData": {}}
        answer = self._query(_LAUNCH, {"params": params})["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def _status(self, run: str) -> str:
        return self._query("query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }", {"run": run})[
            "runOrError"
        ]["status"]

    def _query(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        address = f"http://127.0.0.1:{self._port}/graphql"
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read()) from None
        assert "errors" not in found, found["errors"]
        return found["data"]

    def stop(self) -> None:
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        self._process.wait(timeout=20)
        for child in children:
            with suppress(psutil.Error):
                child.kill()
        self._planted.search.look("Dagster's storage and compute logs", "webserver.log", self._log.read_bytes())


def look_at_python(planted: Planted) -> None:
    """What a traceback, a debugger or a careless print would show."""
    loaded = planted.workplace.loaded()
    for shown in (repr(loaded), str(loaded), str(loaded.config.model_dump()), "\n".join(loaded.warnings)):
        planted.search.look("repr() of settings", "LoadedConfig", shown)
    for database in loaded.databases:
        with suppress(ArchiverError):
            try:
                connect(database.primary, client_encoding="nonsense")
            except ArchiverError as error:
                planted.search.look("exceptions", database.id, "".join(traceback.format_exception(error)))
                planted.search.look("exceptions", database.id, repr(vars(error)))
                raise
    store = S3Store(loaded.store)
    planted.search.look("repr() of settings", "S3Store", repr(vars(store)))


@pytest.mark.parametrize("index", range(len(spellings(canary("any")))))
def test_the_search_finds_each_spelling(index):
    search = Search()
    secret = search.plant("any secret")
    spelling = sorted(spellings(secret))[index % len(spellings(secret))]
    search.look("kind", "elsewhere", b"nothing of it, but " + AWKWARD.encode())
    assert search.leaks == {}
    search.look("kind", "here", b"before " + spelling + b" after")
    assert search.leaks == {("any secret", "kind"): ["here"]}
    assert "canaries planted 1, places searched 2, canaries leaked 1" in search.table()
