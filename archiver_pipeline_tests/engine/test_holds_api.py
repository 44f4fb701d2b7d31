"""Legal holds from an HTTP API: what is asked, what is understood, and that nothing is deleted on any other answer."""

import gzip
import json
import time
from contextlib import suppress

import pytest

from archiver_pipeline.engine.archive import archive_windows
from archiver_pipeline.errors import ArchiverError, ConfigError, HoldsError, NetworkError, PermissionDeniedError
from archiver_pipeline.holds.api import MOST_ANSWER_BYTES, HoldsApi
from archiver_pipeline_tests.engine.faults import POINTS, place
from archiver_pipeline_tests.engine.test_holds import HELD_IDS, WHERE, every_window, old_ids
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS
from archiver_pipeline_tests.plugins.hold_api import PATH, TOKEN, drip, send
from archiver_pipeline_tests.plugins.restoring import Restoring

NAME = Restoring.name()
HOLD = {"reason": "case 9", "requestor": "court"}


def archive(archiving, settings):
    session = archiving.session(holds=settings)
    try:
        return archive_windows(session, every_window(session))
    finally:
        session.close()


def refusing(archiving, audit, hold_api, kind, **settings):
    """Archive, be refused, and see that nothing was deleted; the error."""
    with pytest.raises(kind) as caught:
        archive(archiving, hold_api.settings(**{"api_timeout_seconds": 1.0} | settings))
    assert type(caught.value) is kind
    assert "nothing is deleted" in caught.value.message
    assert TOKEN not in str(caught.value)
    audit.account()
    assert (len(old_ids(audit)), audit.objects()) == (OLD_ROWS, [])
    return caught.value


def test_a_table_without_holds_is_archived(archiving, audit, hold_api):
    archive(archiving, hold_api.settings())
    audit.account_all_archived()
    assert set(hold_api.requests) == {(PATH, f"Bearer {TOKEN}")}


def test_rows_under_hold_stay(archiving, audit, hold_api):
    hold_api.holds = [HOLD | {"where": WHERE}]
    report = archive(archiving, hold_api.settings())
    audit.account()
    assert old_ids(audit) == HELD_IDS
    assert f"case 9, requested by court (API https://localhost:{hold_api.port}/v1)" in report.held_reason


@pytest.mark.parametrize(
    ("hold", "is_held"),
    [
        ({}, True),
        ({"where": None, "start": None, "expiry": None, "requestor": None}, True),
        ({"start": "2020-01-01T00:00:00Z", "expiry": "9999-01-01T00:00:00+02:00"}, True),
        ({"start": "9999-01-01T00:00:00Z"}, False),
        ({"expiry": "2020-01-01T00:00:00Z"}, False),
        ({"where": "no_such_column = 1"}, True),
    ],
)
def test_which_holds_are_in_force(archiving, audit, hold_api, hold, is_held):
    hold_api.holds = [HOLD | hold]
    assert archive(archiving, hold_api.settings()).rows == (0 if is_held else OLD_ROWS)
    audit.account()


def test_an_end_that_has_passed_can_be_ignored(archiving, audit, hold_api):
    hold_api.holds = [HOLD | {"expiry": "2020-01-01T00:00:00Z"}]
    assert archive(archiving, hold_api.settings(check_expiration=False)).rows == 0


MALFORMED = {
    "empty": b"",
    "text": b"OK",
    "a page": b"<html>sign in</html>",
    "cut short": b'{"database": "appdb", "schema": "public", "table": "audit_logs", "holds": [',
    "a list": b"[]",
    "null": b"null",
    "not UTF-8": b'{"database": "\xff"}',
    "deep": b"[" * 100_000,
    "too long": b" " * (MOST_ANSWER_BYTES + 1),
    "no holds": {"holds": ...},
    "holds are null": {"holds": None},
    "holds are a mapping": {"holds": {}},
    "another table": {"table": "audit_log"},
    "another database": {"database": "other"},
    "an unknown key": {"next_page": 2},
    "no reason": {"holds": [{"requestor": "court"}]},
    "an empty reason": {"holds": [HOLD | {"reason": ""}]},
    "an empty predicate": {"holds": [HOLD | {"where": ""}]},
    "an unknown key in a hold": {"holds": [HOLD | {"scope": "row"}]},
    "a time without offset": {"holds": [HOLD | {"expiry": "2020-01-01T00:00:00"}]},
    "a day": {"holds": [HOLD | {"expiry": "2020-01-01"}]},
    "a number for a time": {"holds": [HOLD | {"expiry": 1}]},
    "a list for a predicate": {"holds": [HOLD | {"where": ["id = 1"]}]},
}


@pytest.mark.parametrize("what", MALFORMED)
def test_nothing_is_deleted_on_a_malformed_answer(archiving, audit, hold_api, what):
    wrong = MALFORMED[what]
    if isinstance(wrong, dict):
        document = {key: value for key, value in (hold_api.document() | wrong).items() if value is not ...}
        wrong = json.dumps(document).encode()
    hold_api.answer = lambda request: send(request, wrong)
    refusing(archiving, audit, hold_api, HoldsError)


def test_a_repeated_key_is_malformed(hold_api):
    """The second list would hide the first."""
    body = json.dumps(hold_api.document() | {"holds": [HOLD]})[:-1] + ', "holds": []}'
    hold_api.answer = lambda request: send(request, body.encode())
    with pytest.raises(HoldsError, match="a key is repeated"):
        HoldsApi(hold_api.settings()).read(NAME, None)


def test_a_small_answer_that_unpacks_to_a_large_one_is_refused(hold_api):
    body = gzip.compress(b" " * (50 << 20))
    hold_api.answer = lambda request: send(request, body, Content_Encoding="gzip")
    with pytest.raises(HoldsError, match="more than"):
        HoldsApi(hold_api.settings()).read(NAME, None)


@pytest.mark.parametrize(
    ("code", "kind", "tries"),
    [
        (204, HoldsError, 1),
        (301, HoldsError, 1),
        (307, HoldsError, 1),
        (400, HoldsError, 1),
        (401, PermissionDeniedError, 1),
        (403, PermissionDeniedError, 1),
        (404, HoldsError, 1),
        (429, NetworkError, 3),
        (500, NetworkError, 3),
        (503, NetworkError, 3),
    ],
)
def test_nothing_is_deleted_on_another_code(archiving, audit, hold_api, code, kind, tries):
    body = b"" if code == 204 else json.dumps(hold_api.document()).encode()
    hold_api.answer = lambda request: send(
        request, body, code=code, Location=f"https://localhost:{hold_api.port}{PATH}"
    )
    refusing(archiving, audit, hold_api, kind, api_timeout_seconds=3.0)
    assert len(hold_api.requests) == tries


def hang(request):
    time.sleep(3)


def hang_up(request):
    request.connection.close()


def cut(request):
    send(request, b"{", Content_Length="1000")
    request.connection.close()


@pytest.mark.parametrize("misbehave", [hang, hang_up, cut, drip])
def test_nothing_is_deleted_without_a_whole_answer_in_time(archiving, audit, hold_api, misbehave):
    hold_api.answer = misbehave
    begun = time.monotonic()
    refusing(archiving, audit, hold_api, NetworkError, api_timeout_seconds=0.6)
    assert time.monotonic() - begun < 5


def test_a_moment_of_trouble_is_tried_again(archiving, audit, hold_api):
    def fail_once(request):
        hold_api.answer = None
        send(request, b"", code=503)

    hold_api.answer = fail_once
    archive(archiving, hold_api.settings())
    audit.account_all_archived()


def test_nothing_is_deleted_when_nobody_listens(archiving, audit, hold_api):
    refusing(archiving, audit, hold_api, NetworkError, api_endpoint="https://localhost:1/v1")


def test_a_certificate_that_is_not_trusted_is_refused(archiving, audit, hold_api, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    error = refusing(archiving, audit, hold_api, HoldsError)
    assert "is not trusted" in str(error)
    assert hold_api.requests == []


def test_a_certificate_of_another_name_is_refused(archiving, audit, hold_api):
    refusing(archiving, audit, hold_api, HoldsError, api_endpoint=f"https://127.0.0.1:{hold_api.port}")
    assert hold_api.requests == []


def test_http_is_not_taken_for_https(archiving, audit, hold_api):
    refusing(archiving, audit, hold_api, NetworkError, api_endpoint=f"http://localhost:{hold_api.port}")


def test_an_endpoint_that_is_not_written_is_the_configurations_mistake(archiving, audit, hold_api):
    refusing(archiving, audit, hold_api, ConfigError, api_endpoint="")


def test_passwords_of_netrc_are_not_sent(hold_api, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    HoldsApi(hold_api.settings(api_token=None)).read(NAME, None)
    assert hold_api.requests == [(PATH, None)]


@pytest.mark.parametrize("point", ["plan", "verify", "after a manifest", "in a delete transaction"])
def test_an_api_that_fails_during_the_run_stops_the_next_delete(archiving, audit, hold_api, monkeypatch, point):
    def fail():
        hold_api.answer = lambda request: send(request, b"", code=500)

    place(POINTS[point], fail, monkeypatch.setattr)
    session = archiving.session(holds=hold_api.settings(), workers=1)
    with pytest.raises(NetworkError):
        archive_windows(session, every_window(session))
    session.close()
    deleted = OLD_ROWS - len(old_ids(audit))
    assert deleted == sum(len(audit.rows_of(found)) for found in audit.receipted())
    audit.account()
    hold_api.answer = None
    archive(archiving, hold_api.settings())
    audit.account_all_archived()


@pytest.mark.parametrize("where", [WHERE, None])
@pytest.mark.parametrize("point", ["plan", "verify", "after a manifest", "in a delete transaction"])
def test_a_hold_placed_during_the_run_wins(archiving, audit, hold_api, monkeypatch, point, where):
    """Also one that the API learns of between the DELETE and the last look before COMMIT."""
    kept = []

    def hold():
        hold_api.holds = [HOLD | {"where": where}]
        kept.extend(n for n in old_ids(audit) if where is None or n in HELD_IDS)

    place(POINTS[point], hold, monkeypatch.setattr)
    session = archiving.session(holds=hold_api.settings(), workers=1)
    archive_windows(session, every_window(session))
    audit.account()
    assert kept
    assert old_ids(audit) == kept


def test_the_token_is_in_no_error(hold_api):
    for code in (401, 500):
        hold_api.answer = lambda request, code=code: send(request, TOKEN.encode(), code=code)
        with suppress(ArchiverError):
            HoldsApi(hold_api.settings(api_timeout_seconds=1.0)).read(NAME, None)
    assert TOKEN not in repr(hold_api.settings())
