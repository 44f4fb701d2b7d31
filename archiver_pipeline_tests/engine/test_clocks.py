"""The clock of this machine is wrong by years: what is eligible is for the database's clock alone to say."""

from datetime import UTC, datetime, timedelta

import botocore.auth
import pytest
import time_machine

from archiver_pipeline.errors import PreflightError

YEAR = timedelta(days=365)


@pytest.fixture(params=[-20 * YEAR, -YEAR, YEAR, 20 * YEAR], ids=lambda wrong_by: f"{wrong_by.days} days")
def wrong_now(request):
    return datetime.now(UTC) + request.param


@pytest.fixture
def tolerant_store(monkeypatch):
    """Signatures bear the right time, as if the store did not care: only the program's own clock is wrong."""

    def right(remove_tzinfo=True):
        hatch = time_machine.escape_hatch
        now = hatch.datetime.datetime.now(UTC) if hatch.is_travelling() else datetime.now(UTC)
        return now.replace(tzinfo=None) if remove_tzinfo else now

    monkeypatch.setattr(botocore.auth, "get_current_datetime", right)


@pytest.mark.usefixtures("tolerant_store")
def test_what_is_eligible_does_not_change(archiving, audit, wrong_now):
    with time_machine.travel(wrong_now):
        archiving.archive()
    audit.account_all_archived()


def test_a_store_that_compares_clocks_says_which_is_wrong(archiving, audit, wrong_now):
    with time_machine.travel(wrong_now), pytest.raises(PreflightError) as refused:
        archiving.archive()
    assert "clock of this machine" in (refused.value.hint or "")
    assert audit.archived_rows() == []
    audit.account()
