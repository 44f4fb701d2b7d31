"""Sending with a few tries in a short, bounded time."""

from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity.stop import stop_base
from tenacity.wait import wait_base, wait_exponential_jitter

from archiver_pipeline.errors import AlertError

TIMEOUT_SECONDS = 5
"""Longest wait for a connection, and for each answer."""

_TOTAL_SECONDS = 15.0
_MOST_ATTEMPTS = 3
_FIRST_WAIT_SECONDS = 0.5
_CLIENT_ERROR, _TOO_MANY_REQUESTS, _SERVER_ERROR = 400, 429, 500


class PassingAlertError(AlertError):
    """Trying again may help. `retry_after_seconds` is what the other side asked for, None when it did not."""

    transient = True

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class _AsAsked(wait_base):
    """As long as the other side asks, else a little longer each time."""

    def __init__(self) -> None:
        self._unasked = wait_exponential_jitter(multiplier=_FIRST_WAIT_SECONDS, max=4, jitter=_FIRST_WAIT_SECONDS)

    def __call__(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_seconds if isinstance(error, PassingAlertError) else None
        return self._unasked(state) if asked is None else asked


class _AsksTooLong(stop_base):
    """The next try would come after all the time there is."""

    def __call__(self, state: RetryCallState) -> bool:
        return (state.seconds_since_start or 0.0) + state.upcoming_sleep > _TOTAL_SECONDS


def with_attempts(send: Callable[[], None]) -> None:
    """Send, and again after errors that may pass. Raises the last AlertError."""
    attempts = Retrying(
        retry=retry_if_exception_type(PassingAlertError),
        wait=_AsAsked(),
        stop=stop_after_attempt(_MOST_ATTEMPTS) | _AsksTooLong(),
        reraise=True,
    )
    attempts(send)


def require_taken(name: str, status: int, retry_after: str | None, detail: str = "") -> None:
    """Raise for an HTTP status that is no success. `detail` is shown, so it must be safe to show."""
    if status < 300:
        return
    text = f"{name} answered with HTTP {status}{f' ({detail})' if detail else ''}"
    if status == _TOO_MANY_REQUESTS:
        raise PassingAlertError(f"{text}: too many messages", retry_after_seconds=_seconds(retry_after))
    if status >= _SERVER_ERROR:
        raise PassingAlertError(text, retry_after_seconds=_seconds(retry_after))
    raise AlertError(text, hint=_hint(status))


def _hint(status: int) -> str:
    if status in (401, 403, 404, 410):
        return "the webhook or token is wrong, revoked or expired: make a new one"
    return "the message was refused" if status >= _CLIENT_ERROR else "it redirects: the URL is no webhook"


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds; a date is not honoured."""
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None
