"""What is kept elsewhere opens the real things: it is read when it is first needed, and again after it was rotated."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from archiver_pipeline.config.loading import parse_config
from archiver_pipeline.domain.lock import LockName
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.engine.preflight import Level, preflight
from archiver_pipeline.errors import AlertError, ConfigError, NetworkError, PermissionDeniedError
from archiver_pipeline.holds.api import HoldsApi
from archiver_pipeline.locks.redis_lock import acquire_redis_lock
from archiver_pipeline.notify.channel import open_channels
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.postgres.connection import connect
from archiver_pipeline.postgres.copy_out import RowStream
from archiver_pipeline.secret_sources.reference import parse_reference
from archiver_pipeline.secret_sources.secret import FRESH_SECONDS, ReferencedSecret
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.config.conftest import MINIMAL, with_database
from archiver_pipeline_tests.notify.alerts import FAILED
from archiver_pipeline_tests.plugins.hold_api import TOKEN, send

NAME = TableName("appdb", "public", "audit_logs")
KEPT = ReferencedSecret(parse_reference("vault:secret/app#value", Path("/")))


@pytest.fixture
def keep(at_vault, clock):
    """Keep a value in Vault, and let the one before it be no longer fresh."""

    def keep(value: str) -> None:
        at_vault.secrets["secret/", "app"] = {"value": value}
        clock.seconds += FRESH_SECONDS

    return keep


@pytest.fixture
def role(archiving):
    archiving.database.execute("CREATE ROLE rotated LOGIN PASSWORD 'first'")
    yield "rotated"
    archiving.database.execute("DROP ROLE rotated")


def test_a_rotated_database_password(archiving, keep, role, at_vault):
    source = archiving.source(user=role, password=KEPT)
    keep("first")
    connect(source).close()
    asked = len(at_vault.asked)
    archiving.database.execute("ALTER ROLE rotated PASSWORD 'second'")
    keep("second")
    connect(source).close()
    archiving.database.execute("ALTER ROLE rotated PASSWORD 'third'")
    keep("third")
    RowStream(source).close()
    assert len(at_vault.asked) == asked + 4
    keep("wrong")
    archiving.database.execute("ALTER ROLE rotated PASSWORD 'fourth'")
    with pytest.raises(PermissionDeniedError, match="password authentication failed"):
        connect(source)


def test_a_database_whose_password_can_not_be_read(archiving, at_vault):
    at_vault.failure = 503
    with pytest.raises(NetworkError, match="secret vault:secret/app#value can't be read"):
        connect(archiving.source(password=KEPT))


def test_rotated_store_keys(archiving, keep, bucket):
    keep("wrong")
    settings = replace(archiving.store_settings(), secret_access_key=KEPT)
    store = S3Store(settings)
    with pytest.raises(PermissionDeniedError):
        store.require_bucket()
    keep(bucket.secret_access_key)
    with pytest.raises(PermissionDeniedError):
        store.require_bucket()
    store.require_bucket()


def test_a_store_opens_when_it_is_used(archiving, tmp_path):
    """A monitor starts although the key can't be read yet."""
    missing = ReferencedSecret(parse_reference("file:none", tmp_path))
    store = S3Store(replace(archiving.store_settings(), access_key_id=missing, secret_access_key=missing))
    with pytest.raises(ConfigError, match="there is no such file"):
        store.require_bucket()


def test_a_rotated_url_of_redis(redis_server, keep):
    url = redis_server.url.get_secret_value()
    name = LockName(NAME, "bucket", "")
    keep(url.replace(redis_server.password, "wrong"))
    with pytest.raises(PermissionDeniedError):
        acquire_redis_lock(KEPT, name, "run", ttl_seconds=30)
    keep(url)
    acquire_redis_lock(KEPT, name, "run", ttl_seconds=30).release()
    keep("no URL but canary")
    with pytest.raises(PermissionDeniedError) as refused:
        acquire_redis_lock(SecretStr(url.replace(redis_server.password, "wrong")), name, "run", ttl_seconds=30)
    assert redis_server.password not in str(refused.value)


def test_a_rotated_token_of_the_hold_api(hold_api, keep):
    def answer(request) -> None:
        is_right = request.headers["Authorization"] == f"Bearer {TOKEN}"
        hold_api.answer = None if is_right else answer
        send(request, b"{}", code=403) if not is_right else type(request).do_GET(request)

    hold_api.answer = answer
    api = HoldsApi(hold_api.settings(api_token=KEPT))
    keep("wrong")
    with pytest.raises(PermissionDeniedError):
        api.read(NAME, datetime.now(UTC))
    keep(TOKEN)
    assert api.read(NAME, datetime.now(UTC)) == []
    assert [header for _, header in hold_api.requests[:3]] == ["Bearer wrong"] * 2 + [f"Bearer {TOKEN}"]


def written(folder: Path, more: str, minimal: str = MINIMAL):
    return parse_config(f"{minimal}{more}".encode(), folder / "archiver.yaml", {})


def test_a_webhook_that_is_kept_elsewhere(tmp_path, listener):
    (tmp_path / "hook").write_text(f"{listener.hook}\n")
    (tmp_path / "hook").chmod(0o600)
    for channel in ("slack", "teams"):
        loaded = written(tmp_path, f"notifications: {{enabled: true, {channel}: {{webhook_url_from: 'file:hook'}}}}\n")
        assert loaded.warnings == ()
        [sender] = open_channels(loaded.notifications)
        sender.send(FAILED)
        (tmp_path / "hook").write_text("canary, not a URL")
        with pytest.raises(AlertError, match="no URL that begins with https://") as refused:
            sender.send(FAILED)
        assert "canary" not in str(refused.value)
        (tmp_path / "hook").write_text(listener.hook)
    assert len(listener.posted) == 2


def test_check_reads_each_and_names_its_key(tmp_path, at_vault):
    at_vault.secrets["secret/", "db"] = {"p": "canary-1"}
    (tmp_path / "token").write_text("canary-2")
    (tmp_path / "token").chmod(0o600)
    loaded = written(
        tmp_path,
        "lock: {redis_url_from: 'vault:secret/none#p'}\n"
        "legal_holds: {enabled: true, source: config, api_token_from: 'file:token'}\n"
        "notifications: {enabled: false, slack: {webhook_url_from: 'file:unused'}}\n",
        with_database("password_from: vault:secret/db#p\nread_replica: {host: r, password_from: 'file:nowhere'}"),
    )
    build_definitions(loaded)
    assert at_vault.asked == [], "nothing is read while the file or Dagster's code location is"
    found = [one for one in preflight(loaded, (), datetime.now(UTC)) if one.subject.startswith("secret ")]
    assert [(one.subject, one.level, one.exit_code) for one in found] == [
        ("secret databases[0].password_from", Level.ok, 0),
        ("secret databases[0].read_replica.password_from", Level.failed, 3),
        ("secret legal_holds.api_token_from", Level.ok, 0),
        ("secret lock.redis_url_from", Level.failed, 3),
    ]
    assert "canary" not in str(found)
    assert "canary" not in repr(loaded)
