"""Restores as Dagster runs them: from the UI's config, from its commands, and by the sensor when archives were cold."""

import json
import os
import string
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from archiver_pipeline.config.loading import load_config
from archiver_pipeline.domain.layout import DataFormat, batch_stem, batch_stem_of, data_key
from archiver_pipeline.domain.restore import ConflictStrategy, RestoreRequest, RetrievalTier, SchemaStrategy
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.watermark import RestoredBatch
from archiver_pipeline.domain.windows import WindowUnit, window_of_key
from archiver_pipeline.engine.progress import SilentProgress
from archiver_pipeline.engine.watermark import Watermark
from archiver_pipeline.errors import ConfigError
from archiver_pipeline.orchestration import ops
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.restoring import (
    CONTINUES_TAG,
    RETRIEVAL_TAG,
    RestoreConfig,
    config_of,
    request_of,
    restore_run_config,
    retrieval_sensor,
)
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline.sandbox.s3_server import S3Server
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.cli.workplace import SECRET_VARIABLE
from archiver_pipeline_tests.engine.running import put
from archiver_pipeline_tests.engine.test_store_damage import flipped
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS
from archiver_pipeline_tests.storage.cold_store import cold_store

KEY = dg.AssetKey(["appdb", "restored"])
OBJECTS = 6
NAMES = st.text(string.ascii_letters + "_.é日 -", min_size=1, max_size=12)
DAYS = st.none() | st.dates(date(1990, 1, 1), date(2040, 1, 1))


@pytest.fixture
def archived(workplace):
    """The old rows are in the store; `before` is what the table held."""
    workplace.before = rows(workplace)
    assert workplace.run("run", "--direct").code == 0
    return workplace


def rows(workplace):
    return Counter(text for (text,) in workplace.database.execute("SELECT t::text FROM audit_logs t"))


def written(config):
    """Run config as a person writes it in the launchpad."""
    return {"ops": {"appdb__restored": {"ops": {"select": {"config": config}}}}}


def run_job(workplace, instance, config, *, progress=None, tags=None):
    """The job of the first database, as the UI launches it."""
    definitions = build_definitions(workplace.loaded(), progress=lambda: progress or SilentProgress())
    job = definitions.resolve_job_def("restore_appdb")
    return job.execute_in_process(instance=instance, run_config=written(config), tags=tags, raise_on_error=False)


def failure_of(result):
    assert not result.success
    [failed] = [event for event in result.all_events if event.is_step_failure]
    return failed.step_failure_data.user_failure_data


def test_a_run_shows_what_became_of_every_archive(archived, instance):
    result = run_job(archived, instance, {"table": "audit_logs"})
    assert result.success
    assert rows(archived) == archived.before
    [found] = result.asset_materializations_for_node("appdb__restored")
    assert found.asset_key == KEY
    shown = {name: value.value for name, value in found.metadata.items()}
    assert shown["restored_rows"] == shown["dagster/row_count"] == OLD_ROWS
    zeros = ("objects_failed", "objects_waiting", "objects_restored_before", "replaced_rows", "skipped_rows")
    assert [shown[name] for name in (*zeros, "filtered_rows", "failed_rows")] == [0] * 7
    assert shown["source"] == shown["target"] == "appdb.public.audit_logs"
    assert shown["objects"] == OBJECTS
    assert "UTC" in shown["protected_until"] or "+00:00" in shown["protected_until"]
    lines = [record.data for record in found.metadata["per_object"].records]
    assert [line["key"] for line in lines] == archived.keys_like(".jsonl.gz")
    assert {line["outcome"] for line in lines} == {"restored"}
    assert sum(line["restored"] for line in lines) == OLD_ROWS
    again = run_job(archived, instance, {"table": "audit_logs"})
    [found] = again.asset_materializations_for_node("appdb__restored")
    assert (found.metadata["objects_restored_before"].value, found.metadata["objects"].value) == (OBJECTS, 0)


def test_a_failed_archive_fails_the_run_and_the_others_stay(archived, instance):
    key = archived.keys_like(".jsonl.gz")[3]
    whole = archived.bucket.read(key)
    put(archived.bucket, key, flipped(whole))
    data = failure_of(run_job(archived, instance, {"table": "audit_logs"}))
    assert f"1 of {OBJECTS} archives could not be restored; the others stay restored" in data.description
    assert data.metadata["objects_failed"].value == 1
    first = data.metadata["per_object"].records[0].data
    assert (first["key"], first["outcome"]) == (key, "failed")
    assert first["reason"]
    assert rows(archived).total() == archived.before.total() - data.metadata["failed_rows"].value
    put(archived.bucket, key, whole)
    assert run_job(archived, instance, {"table": "audit_logs"}).success
    assert rows(archived) == archived.before


MISTAKES = [
    ({}, "neither table nor s3_key"),
    ({"s3_key": "nonsense"}, "not the key of a batch's object"),
    ({"table": "audit_logs", "start_date": "yesterday"}, "start_date 'yesterday' is no day"),
    ({"table": "audit_logs", "start_date": "2026-01-02", "end_date": "2026-01-01"}, "is before start_date"),
    ({"table": "audit_logs", "conflict_strategy": "merge"}, "conflict_strategy"),
    ({"table": "audit_logs", "schema_stratgy": "strict"}, "schema_stratgy"),
    ({"table": "audit_logs", "retrieval_days": 0}, "retrieval_days"),
    ({"table": "audit_logs", "protect_days": -1}, "protect_days"),
    ({"table": "no_such_table"}, "there is no such table"),
    ({"table": "audit_logs", "to_table": "nowhere"}, "there is no such table"),
    ({"table": "audit_logs", "where": "id = 1; DROP TABLE x"}, "not a predicate"),
]


def test_a_config_that_makes_no_sense_restores_nothing_and_says_why(archived, instance):
    before = rows(archived)
    for config, told in MISTAKES:
        assert told in refusal(archived, instance, config)
    assert rows(archived) == before


def refusal(archived, instance, config):
    """Why a run with this config failed, or was not begun."""
    try:
        return failure_of(run_job(archived, instance, config)).description
    except dg.DagsterInvalidConfigError as error:
        return str(error)


def test_a_key_of_another_table_than_the_config_names(archived, instance):
    key = archived.keys_like(".jsonl.gz")[0]
    data = failure_of(run_job(archived, instance, {"table": "others", "s3_key": key}))
    assert "s3_key is an archive of appdb.public.audit_logs" in data.description
    assert "to_table" in data.description
    assert run_job(archived, instance, {"s3_key": key}).success


def test_options_reach_the_engine(archived, instance):
    archived.database.execute("CREATE TABLE copy (LIKE audit_logs INCLUDING ALL)")
    config = {"table": "audit_logs", "to_table": "copy", "where": "id <= 3", "conflict_strategy": "upsert"}
    result = run_job(archived, instance, config)
    [found] = result.asset_materializations_for_node("appdb__restored")
    assert archived.database.execute("SELECT id FROM copy ORDER BY 1") == [(1,), (2,), (3,)]
    assert (found.metadata["restored_rows"].value, found.metadata["filtered_rows"].value) == (3, OLD_ROWS - 3)
    assert found.metadata["protected_until"].value == "not protected"


def test_dagster_s_commands_restore(archived):
    """What a person types who has no UI."""
    archived.environment["ARCHIVER_CONFIG"] = str(archived.config_path)
    first = written({"table": "audit_logs", "where": "id <= 10"})
    module = ["-m", "archiver_pipeline.definitions"]
    select = ["--select", 'key:"appdb/restored"', "--config-json", json.dumps(first)]
    dagster = [sys.executable, "-m", "dagster"]
    found = archived.end(archived.start_program([*dagster, "asset", "materialize", *select, *module]))
    assert found.code == 0, found.stderr
    assert archived.database.execute("SELECT count(*) FROM audit_logs WHERE id < 100000") == [(10,)]
    path = archived.folder / "restore.yaml"
    path.write_text(json.dumps(written({"table": "audit_logs"})))
    job = ["job", "execute", "-j", "restore_appdb", "-c", str(path), *module]
    found = archived.end(archived.start_program([*dagster, *job]))
    assert found.code == 0, found.stderr
    assert rows(archived) == archived.before


@dataclass
class StopsAfterSomeObjects(SilentProgress):
    """Stops the store when the first object is restored, and starts it when the step is to be tried again."""

    server: S3Server
    retries: int = 0
    objects: int = 0

    def batch_finished(self, table, step, batch):
        self.objects += 1
        if self.objects == 2:
            self.server.stop()

    def step_retrying(self, table, error, wait_seconds):
        self.retries += 1
        self.server.restart()


@pytest.mark.parametrize("strategy", ["skip", "fail", "overwrite"])
def test_a_step_is_tried_again_and_tells_of_every_archive_once(workplace, own_store, instance, monkeypatch, strategy):
    """The store goes away amid the restore: what was restored before that is neither taken again nor forgotten."""
    monkeypatch.setattr(ops, "_FIRST_RETRY_SECONDS", 0.1)
    workplace.write(workers=1)
    before = rows(workplace)
    assert workplace.run("run", "--direct").code == 0
    listener = StopsAfterSomeObjects(own_store)
    config = {"table": "audit_logs", "conflict_strategy": strategy}
    result = run_job(workplace, instance, config, progress=listener)
    assert result.success, [event.message for event in result.all_events if event.is_failure]
    assert listener.retries == 1
    [found] = result.asset_materializations_for_node("appdb__restored")
    shown = {name: value.value for name, value in found.metadata.items()}
    assert (shown["restored_rows"], shown["skipped_rows"], shown["replaced_rows"]) == (OLD_ROWS, 0, 0)
    assert (shown["objects"], shown["objects_failed"]) == (OBJECTS, 0)
    assert rows(workplace) == before
    again = run_job(workplace, instance, config)
    [found] = again.asset_materializations_for_node("appdb__restored")
    assert found.metadata["objects_restored_before"].value == OBJECTS


def test_a_run_of_the_queue_waits_for_the_lock_and_a_command_s_does_not(archived, instance, monkeypatch):
    monkeypatch.setattr(ops, "_LOCK_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(ops, "_LOCK_TRIES", 2)
    before = rows(archived)
    with archived.hold_lock():
        queued = run_job(archived, instance, {"table": "audit_logs"})
        command = run_job(archived, instance, {"table": "audit_logs"}, tags={"archiver/process": "some/1/0"})
    assert [sum(event.is_step_up_for_retry for event in run.all_events) for run in (queued, command)] == [2, 0]
    assert failure_of(command).metadata["error"].value == "LockHeldError"
    assert not queued.success
    assert rows(archived) == before


def test_a_store_that_stays_away_fails_the_run(archived, instance, monkeypatch):
    monkeypatch.setattr(ops, "_FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(ops, "_MAX_RETRIES", 1)
    archived.document["databases"][0]["port"] = free_port()
    archived.write()
    assert failure_of(run_job(archived, instance, {"table": "audit_logs"})).metadata["error"].value == "NetworkError"


def restore_job_of_environment():
    """The job of the database of the configuration that ARCHIVER_CONFIG names, where a re-execution finds it."""
    config = load_config(None, environ=os.environ, cwd=Path.cwd())
    return build_definitions(config).resolve_job_def("restore_appdb")


def test_a_re_execution_goes_on_with_the_selection_of_the_failed_run(archived, instance, monkeypatch):
    for name, value in archived.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ARCHIVER_CONFIG", str(archived.config_path))
    job = dg.reconstructable(restore_job_of_environment)
    config, tags = written({"table": "audit_logs"}), {"archiver/process": "some/1/0"}
    with archived.hold_lock(), dg.execute_job(job, instance, run_config=config, tags=tags) as failed:
        assert not failed.success
    options = dg.ReexecutionOptions.from_failure(failed.run_id, instance)
    with dg.execute_job(job, instance, reexecution_options=options, tags=tags) as again:
        assert again.success
        done = {event.step_key for event in again.all_events if event.is_step_success}
    assert done == {"appdb__restored.restore", "appdb__restored.report"}
    [record] = instance.fetch_materializations(KEY, limit=1).records
    assert record.asset_materialization.metadata["restored_rows"].value == OLD_ROWS
    assert rows(archived) == archived.before


def test_a_run_leaves_no_connection(archived, instance):
    run_job(archived, instance, {"table": "audit_logs"})
    assert archived.sessions() == 0


@st.composite
def requests(draw):
    source = draw(st.builds(TableName, NAMES, st.just("public") | NAMES, NAMES))
    window = window_of_key(WindowUnit.day, "2026-01-31", first=date(2020, 1, 1))
    key = data_key(batch_stem("archives", source, window, "0123456789abcdef0123"), DataFormat.parquet)
    start, end = draw(st.tuples(DAYS, DAYS).filter(lambda days: None in days or days[0] <= days[1]))
    return RestoreRequest(
        source=source,
        target=draw(st.builds(TableName, st.just("appdb"), NAMES, NAMES)),
        data_key=draw(st.sampled_from([None, key])),
        start=start,
        end=end,
        conflict=draw(st.sampled_from(ConflictStrategy)),
        schema=draw(st.sampled_from(SchemaStrategy)),
        where=draw(st.none() | NAMES),
        allow_lossy_casts=draw(st.booleans()),
        ignore_watermark=draw(st.booleans()),
        protect_days=draw(st.none() | st.integers(0, 999)),
        retrieval_tier=draw(st.sampled_from(RetrievalTier)),
        retrieval_days=draw(st.integers(1, 365)),
        only_keys=draw(st.lists(NAMES, max_size=3).map(tuple)),
    )


@given(requests())
def test_a_request_survives_its_way_through_the_run_config(request):
    config = json.loads(json.dumps(restore_run_config(SimpleNamespace(id="appdb"), config_of(request))))
    select = dict(config["ops"]["appdb__restored"]["ops"]["select"]["config"])
    assert request_of(RestoreConfig(**select), "appdb", "archives") == request


def test_a_request_of_nothing():
    with pytest.raises(ConfigError, match="neither table nor s3_key"):
        request_of(RestoreConfig(), "appdb", "archives")


@pytest.fixture
def cold(workplace):
    """The old rows are in GLACIER, and their retrievals stay under way until the test ends them."""
    with cold_store() as store:
        workplace.environment[SECRET_VARIABLE] = "moto"
        settings = store.settings
        workplace.document["s3"] |= {
            "endpoint": settings.endpoint,
            "bucket": settings.bucket,
            "prefix": settings.prefix,
            "region": settings.region,
            "access_key_id": settings.access_key_id,
            "storage_class": "GLACIER",
        }
        workplace.write()
        workplace.before = rows(workplace)
        assert workplace.run("run", "--direct").code == 0
        hold_retrievals(store)
        yield store


def hold_retrievals(store):
    """moto would take two steps to the end of a retrieval, the first of which it shows as the end."""
    for key in cold_keys(store):
        inside(store, key).status = "IN_PROGRESS"


def inside(store, key):
    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[store.settings.bucket].keys[key]


def make_warm_and_damaged(store, key):
    store.put(key, flipped(inside(store, key).value), "STANDARD")


def cold_keys(store):
    listed = store.client.list_objects_v2(Bucket=store.settings.bucket)["Contents"]
    return [item["Key"] for item in listed if item["StorageClass"] == "GLACIER"]


def tick(workplace, instance):
    """The run requests of one evaluation of the sensor, and why there is none."""
    config = workplace.loaded()
    answer = retrieval_sensor(config, config.databases[0])(dg.build_sensor_context(instance=instance))
    return list(answer.run_requests or []), answer.skip_reason and answer.skip_reason.skip_message


def run_requested(workplace, instance, request):
    """Run what the sensor asks for, as the daemon would."""
    job = build_definitions(workplace.loaded()).resolve_implicit_global_asset_job_def()
    return job.get_subset(asset_selection=set(request.asset_selection)).execute_in_process(
        instance=instance,
        run_config=request.run_config,
        tags=request.tags | {"dagster/run_key": request.run_key},
        raise_on_error=False,
    )


def retrieval_tag(instance, result):
    return instance.get_run_by_id(result.run_id).tags.get(RETRIEVAL_TAG)


def test_cold_archives_are_retrieved_and_then_restored(workplace, cold, instance):
    keys = cold_keys(cold)
    assert len(keys) == OBJECTS
    young = rows(workplace)
    first = run_job(workplace, instance, {"table": "audit_logs", "retrieval_days": 3})
    assert first.success
    [found] = first.asset_materializations_for_node("appdb__restored")
    shown = {name: value.value for name, value in found.metadata.items()}
    assert (shown["objects_waiting"], shown["restored_rows"]) == (OBJECTS, 0)
    assert shown["retrieval_dollars"] > 0
    assert shown["ready_at"].startswith("20")
    assert retrieval_tag(instance, first) == "waiting"
    assert all(cold.restore_header(key) for key in keys)
    assert rows(workplace) == young

    assert tick(workplace, instance) == ([], f"restore {first.run_id} waits for {OBJECTS} archives")
    cold.finish_retrievals()
    [request], _ = tick(workplace, instance)
    # The daemon asks again when the request got lost, and does not run the same key twice.
    assert tick(workplace, instance)[0] == [request]
    second = run_requested(workplace, instance, request)
    assert second.success
    assert rows(workplace) == workplace.before
    requests, reason = tick(workplace, instance)
    assert (requests, reason) == ([], f"restore {first.run_id} goes on in run {second.run_id}")
    assert retrieval_tag(instance, first) == "continued"
    assert tick(workplace, instance) == ([], "no restore waits for its archives")
    assert instance.get_run_by_id(second.run_id).tags[CONTINUES_TAG] == first.run_id


def test_the_sensor_takes_what_was_waited_for_and_nothing_else(workplace, cold, instance):
    """Nobody has asked for the retrieval of archives that came later; and to ignore the watermark is still meant."""
    config = {"table": "audit_logs", "ignore_watermark": True}
    remember_everything(workplace, instance, cold)
    first = run_job(workplace, instance, config)
    assert retrieval_tag(instance, first) == "waiting"
    with workplace.database.connect() as connection:
        connection.execute("INSERT INTO audit_logs SELECT 5000, now() - interval '50 days', 'late'")
    workplace.write(restore_protection_days=0)
    waited_for = cold_keys(cold)
    assert workplace.run("run", "--direct").code == 0
    [late] = set(cold_keys(cold)) - set(waited_for)
    hold_retrievals(cold)
    cold.finish_retrievals()
    [request], _ = tick(workplace, instance)
    second = run_requested(workplace, instance, request)
    assert second.success
    assert rows(workplace) == workplace.before
    assert cold.restore_header(late) is None


def remember_everything(workplace, instance, cold):
    """All archives were restored once, without protection, and the rows are gone again; the copies are too."""
    store = S3Store(workplace.loaded().store)
    config = workplace.loaded()
    for key in cold_keys(cold):
        batch = RestoredBatch(batch_stem_of(key).rpartition("_")[2], key, 1)
        with workplace.database.connect() as connection:
            name = TableName("appdb", "public", "audit_logs")
            watermark = Watermark(store, config.watermark, name, name, "earlier")
            watermark.remember_in_transaction(connection, batch)
            watermark.remember(batch)
            watermark.flush(force=True)


def test_an_expired_copy_ends_the_wait_and_is_said(workplace, cold, instance):
    first = run_job(workplace, instance, {"table": "audit_logs"})
    keys = cold_keys(cold)
    cold.finish_retrievals()
    assert all(cold.restore_header(key) for key in keys)
    cold.expire(keys[2], datetime.now(UTC) - timedelta(seconds=1))
    requests, reason = tick(workplace, instance)
    assert requests == []
    assert "waits in vain: retrieved copies expired" in reason
    assert retrieval_tag(instance, first) == "expired"
    assert tick(workplace, instance) == ([], "no restore waits for its archives")


def test_a_store_that_is_down_is_not_nothing_to_do(workplace, cold, instance):
    first = run_job(workplace, instance, {"table": "audit_logs"})
    workplace.document["s3"]["endpoint"] = f"http://127.0.0.1:{free_port()}"
    workplace.write()
    with pytest.raises(dg.Failure, match=f"could not ask for the archives: restore {first.run_id}"):
        tick(workplace, instance)
    assert retrieval_tag(instance, first) == "waiting"


def test_a_failed_archive_does_not_keep_the_cold_ones_waiting(workplace, cold, instance):
    warm = cold_keys(cold)[0]
    make_warm_and_damaged(cold, warm)
    first = run_job(workplace, instance, {"table": "audit_logs"})
    assert failure_of(first).metadata["objects_waiting"].value == OBJECTS - 1
    assert retrieval_tag(instance, first) == "waiting"
    cold.finish_retrievals()
    [request], _ = tick(workplace, instance)
    second = run_requested(workplace, instance, request)
    [found] = second.asset_materializations_for_node("appdb__restored")
    assert found.metadata["objects"].value == OBJECTS - 1
    assert warm not in json.dumps(request.run_config)


def test_the_command_says_when_to_come_back_and_what_it_costs(workplace, cold):
    dry = workplace.run("restore", "--restore-all", "--dry-run")
    assert dry.code == 0
    assert f"{OBJECTS} archives in a cold class: {OBJECTS} retrievals would be started, for about $0.0" in dry.stdout
    assert not any(cold.restore_header(key) for key in cold_keys(cold))
    found = workplace.run("restore", "--restore-all")
    assert found.code == 1
    assert f"{OBJECTS} archives being retrieved from a cold class (about $0.0" in found.stdout
    assert "run the same command again after 20" in found.stdout
    assert "the sensor retrieved_appdb" in found.stdout
    cold.finish_retrievals()
    again = workplace.run("restore", "--restore-all")
    assert again.code == 0
    assert rows(workplace) == workplace.before


@pytest.fixture
def own_store(workplace, tmp_path):
    """A store of this test alone, which it may stop; the workplace points at it."""
    with S3Server(tmp_path / "own-store", bucket=workplace.bucket.bucket) as server:
        server.start()
        workplace.environment[SECRET_VARIABLE] = server.secret_access_key
        workplace.document["s3"] |= {"endpoint": server.endpoint, "access_key_id": server.access_key_id}
        workplace.write()
        yield server
