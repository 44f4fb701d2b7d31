"""How processes end by signals is what these tests are about, so none may begin with signals blocked or ignored."""

import signal
from collections.abc import Iterator

import pytest

STOPPING = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def signals_as_a_shell_leaves_them() -> Iterator[None]:
    """Children inherit what is blocked and what is ignored: from other tests, or from whoever started the run."""
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    before = {number: signal.getsignal(number) for number in STOPPING}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
