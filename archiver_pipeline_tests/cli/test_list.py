"""`archiver list`: every state a batch can be in."""

from archiver_pipeline_tests.cli.test_interruption import delete_in_wait, lock_on_a_row
from archiver_pipeline_tests.cli.workplace import wait_until
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS


def test_no_archives(workplace):
    found = workplace.run("list")
    assert (found.code, found.stdout.strip()) == (0, "appdb.public.audit_logs: no archives found")
    assert workplace.run("list", "--json").json == []


def test_archives_that_are_proved(workplace):
    assert workplace.run("run").code == 0
    listed = workplace.run("list", "--json").json
    assert {batch["state"] for batch in listed} == {"receipted"}
    assert sum(batch["receipt"]["rows"] for batch in listed) == OLD_ROWS
    assert [batch["data_key"] for batch in listed] == workplace.keys_like(".jsonl.gz")
    text = workplace.run("list").stdout
    for window in {batch["window"] for batch in listed}:
        assert any(window in line and "receipted" in line for line in text.splitlines())


def test_a_batch_that_was_interrupted_amid_its_delete(workplace):
    with lock_on_a_row(workplace), delete_in_wait(workplace) as process:
        process.kill()
        process.wait()
    wait_until(lambda: workplace.sessions() == 0, what="the server has noticed")
    states = states_of(workplace)
    assert states.count("pending") == 1
    assert set(states) == {"pending", "orphaned"}


def test_a_batch_whose_row_was_locked_is_superseded(workplace):
    with lock_on_a_row(workplace):
        assert workplace.run("run").code == 1
    states = states_of(workplace)
    assert states.count("superseded") == 1
    assert set(states) == {"superseded", "receipted"}


def test_a_store_that_cannot_be_listed_is_not_an_empty_one(workplace):
    workplace.document["s3"]["bucket"] = "no-such-bucket"
    workplace.write()
    found = workplace.run("list")
    assert (found.code, found.stdout) == (3, "")


def states_of(workplace):
    """The state of every batch in JSON, all of which the text shows as well."""
    states = [batch["state"] for batch in workplace.run("list", "--json").json]
    text = workplace.run("list").stdout
    assert not [state for state in states if state not in text]
    return states
