"""Short waits, so that tests of retries take no time."""

import pytest

from archiver_pipeline.notify import attempts, email, slack, teams

SHORT_SECONDS = 0.3


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_FIRST_WAIT_SECONDS", 0.01)
    for module in (slack, teams, email):
        monkeypatch.setattr(module, "TIMEOUT_SECONDS", SHORT_SECONDS)
