"""Legal holds from an HTTP API: `GET {endpoint}/legal-holds/{database}/{schema}/{table}`.

Whatever is not a whole, well-formed answer about this very table is an error, because a hold may be in what is missing.
"""

import json
import queue
import threading
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Annotated, Any
from urllib.parse import quote

import requests
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_exponential

from archiver_pipeline.config.effective import HoldSettings
from archiver_pipeline.domain.holds import LegalHold
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.errors import ArchiverError, ConfigError, HoldsError, NetworkError, PermissionDeniedError
from archiver_pipeline.secret_sources.secret import with_current_secret

MOST_ANSWER_BYTES = 1 << 20
_ATTEMPTS = 3
_FIRST_PAUSE_SECONDS = 0.2
_BLOCK_BYTES = 1 << 16
_OK = 200
_REDIRECTS = range(300, 400)
_SERVER_ERRORS = range(500, 600)
_DENIED = (401, 403)
_BUSY = (408, 429)
_NOTHING = "so nothing is deleted"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _AnsweredHold(_Strict):
    reason: Annotated[str, Field(min_length=1)]
    requestor: str | None = None
    start: AwareDatetime | None = None
    expiry: AwareDatetime | None = None
    where: Annotated[str, Field(min_length=1)] | None = None


class _Answer(_Strict):
    """All holds on the table, in force or not. The names say that the answer is about the table that was asked for."""

    database: str
    table: str
    schema_name: Annotated[str, Field(alias="schema")]
    holds: list[_AnsweredHold]


class HoldsApi:
    """The API as configured. Safe for use by many threads. No error holds the token or a value of the answer."""

    def __init__(self, settings: HoldSettings) -> None:
        self._settings = settings

    def read(self, name: TableName, now: datetime) -> list[LegalHold]:
        """The holds on a table that are in force at `now`, the source's time.

        Takes no longer than `api_timeout_seconds`, retries included. Raises NetworkError when there is no answer in
        time, PermissionDeniedError when the token is refused, HoldsError for any other answer that isn't understood.
        """
        if not self._settings.api_endpoint:
            raise ConfigError(f"legal holds can't be read: legal_holds.api_endpoint is not written, {_NOTHING}")
        source = f"API {self._settings.api_endpoint}"
        address = _address(self._settings.api_endpoint, name)
        answer = _understood(
            with_current_secret(self._settings.api_token, lambda: self._ask_again(address)), name, source
        )
        return [_hold(found, source) for found in answer.holds if self._is_in_force(found, now)]

    def _is_in_force(self, found: _AnsweredHold, now: datetime) -> bool:
        is_over = self._settings.check_expiration and found.expiry is not None and found.expiry <= now
        return not is_over and (found.start is None or found.start <= now)

    def _ask_again(self, address: str) -> bytes:
        """The answer's body, after retries of what a retry may mend."""
        end = monotonic() + self._settings.api_timeout_seconds
        for attempt in Retrying(
            retry=retry_if_exception_type(NetworkError),
            stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(self._settings.api_timeout_seconds),
            wait=wait_exponential(multiplier=_FIRST_PAUSE_SECONDS),
            reraise=True,
        ):
            with attempt:
                return _in_time(lambda seconds: self._ask(address, seconds), end - monotonic())
        raise NetworkError(f"legal holds can't be read: {address} did not answer, {_NOTHING}")

    def _ask(self, address: str, seconds: float) -> bytes:
        try:
            with (
                requests.Session() as http,
                http.get(
                    address,
                    auth=self._authorize,
                    headers={"Accept": "application/json"},
                    allow_redirects=False,
                    stream=True,
                    timeout=seconds,
                    verify=True,
                ) as answer,
            ):
                _require_ok(answer, address)
                return _body(answer, address)
        except requests.exceptions.SSLError:
            raise HoldsError(
                f"legal holds can't be read: the certificate of {address} is not trusted, {_NOTHING}",
                hint="mend the certificate, or name your own authority's in REQUESTS_CA_BUNDLE",
            ) from None
        except requests.exceptions.RequestException as error:
            raise NetworkError(
                f"legal holds can't be read: {address} did not answer ({type(error).__name__}), {_NOTHING}",
                hint="check legal_holds.api_endpoint and that the server is running",
            ) from None

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Also without a token: else a password for this host would be taken from the user's .netrc."""
        if self._settings.api_token is not None:
            request.headers["Authorization"] = f"Bearer {self._settings.api_token.get_secret_value()}"
        return request


def _address(endpoint: str, name: TableName) -> str:
    parts = (quote(part, safe="") for part in (name.database, name.schema, name.table))
    return "/".join([endpoint, "legal-holds", *parts])


def _in_time(ask: Callable[[float], bytes], seconds: float) -> bytes:
    """What `ask` returns or raises, unless it takes longer: timeouts of sockets count from one byte to the next, and a
    delete must not wait for an answer that drips."""
    outcome: queue.SimpleQueue[bytes | ArchiverError] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcome.put(ask(max(seconds, 0.001)))
        except ArchiverError as error:
            outcome.put(error)

    threading.Thread(target=work, daemon=True, name="legal holds").start()
    try:
        found = outcome.get(timeout=max(seconds, 0.001))
    except queue.Empty:
        raise NetworkError(
            f"legal holds can't be read: no whole answer in time, {_NOTHING}",
            hint="see legal_holds.api_timeout_seconds",
        ) from None
    if isinstance(found, ArchiverError):
        raise found
    return found


def _require_ok(answer: requests.Response, address: str) -> None:
    code = answer.status_code
    if code == _OK:
        return
    said = f"legal holds can't be read: {address} answered {code}"
    if code in _DENIED:
        raise PermissionDeniedError(f"{said}, {_NOTHING}", hint="check legal_holds.api_token and what it may read")
    if code in _REDIRECTS:
        raise HoldsError(f"{said}, a redirect, which is not followed; {_NOTHING}", hint="write the final api_endpoint")
    if code in _BUSY or code in _SERVER_ERRORS:
        raise NetworkError(f"{said}, {_NOTHING}", hint="look at the API's own logs")
    raise HoldsError(f"{said}, {_NOTHING}", hint="a table without holds is answered with 200 and an empty list")


def _body(answer: requests.Response, address: str) -> bytes:
    body = bytearray()
    for block in answer.iter_content(_BLOCK_BYTES):
        body += block
        if len(body) > MOST_ANSWER_BYTES:
            raise HoldsError(
                f"legal holds can't be read: {address} answered more than {MOST_ANSWER_BYTES} bytes, {_NOTHING}"
            )
    return bytes(body)


def _understood(body: bytes, name: TableName, source: str) -> _Answer:
    try:
        json.loads(body, object_pairs_hook=_without_repetition)
        answer = _Answer.model_validate_json(body, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, RecursionError) as error:
        problem = str(error) if isinstance(error, _RepeatedKeyError) else "it is no JSON"
    else:
        if (answer.database, answer.schema_name, answer.table) == (name.database, name.schema, name.table):
            return answer
        problem = f"it is about another table than {name}"
    raise HoldsError(
        f"legal holds can't be read: the answer of {source} is not understood ({problem}), {_NOTHING}",
        hint="docs/legal-holds.md shows what is expected",
    )


class _RepeatedKeyError(ValueError):
    """The parser would silently take the last one."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RepeatedKeyError("a key is repeated")
    return found


def _hold(found: _AnsweredHold, source: str) -> LegalHold:
    return LegalHold(
        source=source,
        reason=found.reason,
        requestor=found.requestor or "",
        starts=found.start.isoformat() if found.start else "",
        ends=found.expiry.isoformat() if found.expiry else "",
        predicate=found.where,
    )
