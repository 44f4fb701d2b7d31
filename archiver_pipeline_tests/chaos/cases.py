"""One case: a run with one fault, runs without any until all is settled, and an account of every row."""

import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from psycopg.errors import LockNotAvailable

from archiver_pipeline.sandbox.postgres_server import PostgresServer
from archiver_pipeline.sandbox.s3_server import S3Server
from archiver_pipeline_tests.chaos.relay import KILLS, Fault, Plan, Relay, relay_to
from archiver_pipeline_tests.cli.workplace import Workplace, Workshop, open_workplace
from archiver_pipeline_tests.ledger import Ledger
from archiver_pipeline_tests.plugins.archiving import CREATE_AUDIT_TABLE, FILL_AUDIT_TABLE, OLD_ROWS, YOUNG_ROWS
from archiver_pipeline_tests.plugins.servers import Bucket, Database

DATABASE_FAULTS = (
    Fault.cut_before,
    Fault.cut_after,
    Fault.cut_all,
    Fault.kill_before,
    Fault.kill_after,
    Fault.kill_late,
    Fault.terminate,
    Fault.stop_server,
    Fault.half,
    Fault.drip,
)
STORE_FAULTS = (*DATABASE_FAULTS, Fault.busy, Fault.broken)
_PAIRS = (*(("database", fault) for fault in DATABASE_FAULTS), *(("store", fault) for fault in STORE_FAULTS))
CASES = len(_PAIRS)
"""So many seeds in a row play every fault at every server once."""
SETTLE_SECONDS = 60
LATE_SECONDS = 5
_PARTITIONED_SHARE = 0.4
_CREATE_PARTITIONED = """
CREATE TABLE {table} (id bigint, created_at timestamptz NOT NULL, actor text NOT NULL, changes jsonb,
    tags text[] NOT NULL DEFAULT '{{}}', amount numeric, PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at);
CREATE TABLE {table}_rest PARTITION OF {table} DEFAULT;
DO $$
DECLARE day timestamptz := date_trunc('day', now()) - interval '43 days';
BEGIN
    FOR n IN 0..3 LOOP
        EXECUTE format('CREATE TABLE {table}_%s PARTITION OF {table} FOR VALUES FROM (%L) TO (%L)',
            n, day + n * interval '1 day', day + (n + 1) * interval '1 day');
    END LOOP;
END $$;
"""
"""The partitions of each day with old rows, and one that takes what comes late for those that are gone."""
_APPLICATION_PATIENCE_MS = 3_000
_APPLICATION = (
    "UPDATE public.audit_logs SET actor = 'changed'"
    " WHERE id IN (SELECT id FROM public.audit_logs WHERE id < 100000 ORDER BY id LIMIT 2)",
    "DELETE FROM public.audit_logs"
    " WHERE id IN (SELECT id FROM public.audit_logs WHERE id < 100000 ORDER BY id DESC LIMIT 1)",
    "INSERT INTO public.audit_logs SELECT 5000 + n, now() - interval '41 days', 'late', NULL, '{}', NULL"
    " FROM generate_series(1, 3) AS n",
)


@dataclass(frozen=True)
class Case:
    """Reproduced by its seed, as far as threads allow: what happens at which moment of which connection."""

    seed: int
    server: str
    fault: Fault
    share: float
    with_application: bool
    with_partitions: bool
    """Whether the table is partitioned, and partitions that are wholly old are dropped."""

    def __str__(self) -> str:
        beside = ", with an application" if self.with_application else ""
        beside += ", with partitions" if self.with_partitions else ""
        return f"seed {self.seed}: {self.server}, {self.fault}, at {self.share:.0%} of the run{beside}"


@dataclass
class Scene:
    """Servers with a relay before each, and a workplace whose configuration names the relays."""

    workplace: Workplace
    relays: dict[str, Relay]
    servers: dict[str, PostgresServer | S3Server]
    moments: dict[str, int]


def case_of(seed: int) -> Case:
    """The case of a seed: all pairs of server and fault in turn, everything else at random."""
    server, fault = _PAIRS[seed % CASES]
    chance = random.Random(seed)
    return Case(seed, server, fault, chance.random(), chance.random() < 0.5, chance.random() < _PARTITIONED_SHARE)


@contextmanager
def open_scene(
    folder: Path, database: Database, bucket: Bucket, workshop: Workshop, postgres: PostgresServer, s3: S3Server
) -> Iterator[Scene]:
    """A scene, with the number of moments of a run without a fault counted."""
    with relay_to(postgres.host, postgres.port) as before_database, relay_to("127.0.0.1", s3.port) as before_store:
        for workplace in open_workplace(folder, database, bucket, workshop):
            relays = {"database": before_database, "store": before_store}
            workplace.document["databases"][0]["port"] = before_database.port
            workplace.document["s3"]["endpoint"] = f"http://127.0.0.1:{before_store.port}"
            scene = Scene(workplace, relays, {"database": postgres, "store": s3}, {})
            _prepare(scene, "without-fault")
            for relay in relays.values():
                relay.arm(None)
            assert workplace.run("run", "--direct", "--json").code == 0
            scene.moments = {name: relay.seen for name, relay in relays.items()}
            yield scene


def play(scene: Scene, case: Case) -> bool:
    """Play a case; whether its fault happened. Raises AssertionError when a row is lost or doubled, when a run shows a
    traceback, or when what the fault left is not settled in time."""
    _prepare(scene, f"case-{case.seed}", with_partitions=case.with_partitions)
    ledger = scene.workplace.ledger()
    relay = scene.relays[case.server]
    plan = Plan(case.fault, 1 + int(case.share * scene.moments[case.server]), lambda fault: _act(scene, case, fault))
    relay.arm(plan)
    first = scene.workplace.run("run", "--direct", "--json")
    relay.arm(None)
    if case.fault in KILLS and plan.is_done:
        assert first.code == -signal.SIGKILL, first
    changes = _change(ledger, _APPLICATION) if case.with_application else ()
    if relay.late:
        # What is under way may hold locks, and then nobody else gets on: such a run waits, and is killed too.
        scene.workplace.run("run", "--direct", "--json", within_seconds=LATE_SECONDS)
        relay.deliver_late()
        assert not _change(ledger, changes), "the table stays locked"
    _settle(scene)
    ledger.account_all_archived()
    return plan.is_done


def _change(ledger: Ledger, changes: Sequence[str]) -> Sequence[str]:
    """Let an application change rows; returns the changes that it could not make because the table was locked."""
    for position, change in enumerate(changes):
        try:
            ledger.execute(change, patience_ms=_APPLICATION_PATIENCE_MS)
        except LockNotAvailable:
            return changes[position:]
    return ()


def _prepare(scene: Scene, prefix: str, *, with_partitions: bool = False) -> None:
    """The table as it was at first, and a place in the bucket of its own."""
    create = (_CREATE_PARTITIONED if with_partitions else CREATE_AUDIT_TABLE).format(table="audit_logs")
    fill = FILL_AUDIT_TABLE.format(table="audit_logs", old=OLD_ROWS, young=YOUNG_ROWS)
    with scene.workplace.database.connect() as connection:
        for statement in ("DROP TABLE audit_logs", create, fill):
            connection.execute(statement.encode())
    table = scene.workplace.document["databases"][0]["tables"][0]
    table["partitions"] = "drop" if with_partitions else "rows"
    shutil.rmtree(scene.workplace.folder / "staging", ignore_errors=True)
    scene.workplace.document["s3"]["prefix"] = prefix
    scene.workplace.bucket = replace(scene.workplace.bucket, prefix=prefix)
    scene.workplace.write()


def _settle(scene: Scene) -> None:
    """Run until there is nothing left to do. The server may need a moment to notice that a killed run is gone."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (found := scene.workplace.run("run", "--direct", "--json")).code != 0:
        assert time.monotonic() < deadline, f"not settled within {SETTLE_SECONDS} s: {found}"
        time.sleep(0.2)


def _act(scene: Scene, case: Case, fault: Fault) -> None:
    """What the fault does besides to the bytes."""
    if fault in KILLS:
        _signal_run(scene, signal.SIGKILL)
    elif fault is Fault.terminate:
        _signal_run(scene, signal.SIGTERM)
    elif fault is Fault.stop_server:
        scene.servers[case.server].restart(immediate=True)


def _signal_run(scene: Scene, number: signal.Signals) -> None:
    for child in psutil.Process(scene.workplace.preloaded.pid).children():
        child.send_signal(number)
