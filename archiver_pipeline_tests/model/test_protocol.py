"""Every state of the protocol within these scopes keeps the invariant; protocols with a known mistake do not."""

import pytest

from archiver_pipeline_tests.model.protocol import Mistake, Scope, ViolationError, explore

SCOPES = {
    "an insert, a kill, a lost session": Scope(changes=("+b",), kills=1, cuts=1),
    "an update, two kills, runs that go on": Scope(changes=("a>A",), starts=2, kills=2),
    "two rows, one deleted by an application, two kills": Scope(table="ab", changes=("-a",), kills=2, cuts=1),
    "three runs, an insert, two kills": Scope(changes=("+b",), runs=3, kills=2),
    "the trail, an insert, receipts that come late": Scope(
        changes=("+b",), runs=3, kills=2, late_marks=True, trail=True
    ),
    "two lies of the store, a kill, an insert": Scope(changes=("+b",), runs=3, kills=1, lies=2),
    "the trail, two lies of the store, a kill, an update": Scope(changes=("a>A",), runs=3, kills=1, lies=2, trail=True),
    "the trail, a lost session, receipts that come late": Scope(runs=3, kills=1, cuts=1, late_marks=True, trail=True),
}
# The least that shows each mistake.
COSTS = {
    Mistake.delete_by_key: ("lost", Scope(changes=("a>A",), runs=1, kills=0)),
    Mistake.delete_without_look_at_lock: ("lost", Scope(kills=0, cuts=1)),
    Mistake.receipt_before_commit: ("doubled", Scope(runs=1, kills=0)),
    Mistake.receipt_without_look_at_lock: ("doubled", Scope(runs=3, kills=1, cuts=1)),
    Mistake.receipt_outside_settle_lock: ("doubled", Scope(runs=3, kills=1, cuts=1)),
    Mistake.fate_read_without_settle_lock: ("lost", Scope(kills=1)),
    Mistake.receipt_beside_another: ("doubled", Scope(runs=3, kills=1)),
    Mistake.superseded_for_any_shared_row: ("lost", Scope(changes=("+b",), runs=3, kills=2)),
    Mistake.superseded_for_rows_that_are_gone: ("lost", Scope(kills=1)),
    Mistake.fate_without_reading_trail: ("doubled", Scope(runs=3, kills=2, late_marks=True, trail=True)),
    Mistake.manifest_not_read_back: ("lost", Scope(runs=1, kills=0, lies=1)),
    Mistake.document_of_another_batch_believed: ("lost", Scope(table="a", changes=("+b",), runs=3, kills=1, lies=1)),
    Mistake.link_again_without_look: ("doubled", Scope(runs=3, kills=1, cuts=1, late_marks=True, trail=True)),
}


@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
def test_no_row_version_is_lost_or_doubled_in_any_state(scope):
    assert explore(scope).states > 1_000


@pytest.mark.parametrize("mistake", Mistake, ids=lambda mistake: mistake.name)
def test_a_protocol_with_a_known_mistake_is_found_out(mistake):
    what, scope = COSTS[mistake]
    explore(scope)
    with pytest.raises(ViolationError, match=rf"^{what}: "):
        explore(Scope(**(vars(scope) | {"mistake": mistake})))


def test_without_the_trail_the_case_that_the_documentation_names_is_left():
    """A receipt that arrives after its run is gone and another has settled a stray batch of the same rows."""
    with pytest.raises(ViolationError, match=r"^doubled: ") as found:
        explore(Scope(runs=3, kills=2, late_marks=True))
    assert str(found.value).count("receipt of batch") == 2
