"""Threads and connections of one run: order is kept, the first error stops the rest, nothing broken is reused."""

import threading
import time

import pytest

from archiver_pipeline.engine.pool import Pool
from archiver_pipeline.errors import SourceError


class Connection:
    """Counts what is done to it."""

    def __init__(self, opened):
        opened.append(self)
        self.closed = self.cancelled = 0

    def close(self):
        self.closed += 1

    def cancel(self):
        self.cancelled += 1


@pytest.fixture
def opened():
    return []


@pytest.fixture
def pool(opened):
    return Pool(lambda: Connection(opened))


def test_a_free_item_is_used_again(pool, opened):
    for _ in range(3):
        with pool.take():
            pass
    assert len(opened) == 1
    pool.close()
    pool.close()
    assert opened[0].closed == 1


def test_an_item_whose_use_failed_is_closed_and_never_used_again(pool, opened):
    with pytest.raises(SourceError), pool.take():
        raise SourceError("broken")
    with pool.take() as item:
        assert item is opened[1]
    assert opened[0].closed == 1


def test_two_at_a_time_never_share(pool, opened):
    with pool.take() as one, pool.take() as other:
        assert one is not other
    assert len(opened) == 2


def test_only_what_is_in_use_is_cancelled(pool, opened):
    with pool.take(), pool.take():
        pass
    with pool.take() as used:
        pool.cancel_all()
    assert sorted(item.cancelled for item in opened) == [0, 1]
    assert used.cancelled == 1


def test_results_come_in_the_order_of_the_items(archiving):
    session = archiving.session(workers=4)

    def work(item):
        time.sleep(0.02 * (item % 3))
        return item * 10

    assert session.for_each(tuple(range(20)), work) == tuple(range(0, 200, 10))


def test_the_first_error_stops_the_rest(archiving):
    session = archiving.session(workers=2)
    begun = []

    def work(item):
        begun.append(item)
        if item == 3:
            raise SourceError("the third")
        time.sleep(0.05)

    with pytest.raises(SourceError, match="the third"):
        session.for_each(tuple(range(100)), work)
    assert len(begun) < 10
    # The session goes on to be usable.
    assert session.for_each((1, 2), lambda item: item) == (1, 2)


def test_an_error_cancels_statements_that_run(archiving):
    """Nobody waits for a query of an hour because another batch has failed."""
    session = archiving.session(workers=2)
    running = threading.Event()

    def work(item):
        if item == "slow":
            with session.connections.take() as connection:
                running.set()
                connection.execute("SELECT pg_sleep(60)")
        running.wait()
        time.sleep(0.3)
        raise SourceError("stop")

    started = time.monotonic()
    with pytest.raises(SourceError, match="stop"):
        session.for_each(("slow", "failing"), work)
    assert time.monotonic() - started < 20
    sleeping = archiving.database.execute(
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND state = 'active' AND pid <> pg_backend_pid()"
    )
    assert sleeping == []


def test_a_session_gives_everything_back(archiving, audit):
    session = archiving.session(workers=3)
    archiving.archive(workers=3)
    session.close()
    session.close()
    [(connections,)] = archiving.database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert connections == 0


def test_no_more_connections_than_the_pool_may_have(archiving, audit):
    session = archiving.session(workers=50, connection_pool_size=5)
    assert session.workers <= 3


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a-b", "c"), ("a", "b-c")), (("public", "Audit"), ("public", "audit")), (("a/b", "c"), ("a", "b"))],
)
def test_no_two_tables_share_a_staging_folder(archiving, one, other):
    """A run removes what earlier attempts on its table left there."""
    folders = [
        archiving.session(schema=schema, table=table).staging_folder("attempt") for schema, table in (one, other)
    ]
    assert folders[0] != folders[1]
    assert not folders[0].is_relative_to(folders[1].parent)
    assert not folders[1].is_relative_to(folders[0].parent)
