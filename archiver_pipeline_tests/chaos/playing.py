"""Cases on servers of one process alone."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from archiver_pipeline.sandbox.postgres_server import PostgresServer
from archiver_pipeline.sandbox.s3_server import S3Server
from archiver_pipeline_tests.chaos.cases import Case, Scene, case_of, open_scene, play
from archiver_pipeline_tests.cli.workplace import open_workshop
from archiver_pipeline_tests.plugins.servers import fresh_bucket, fresh_database

Played = tuple[Case, bool, str]


def play_seeds(seeds: Iterable[int]) -> list[Played]:
    """The cases of these seeds: each with whether its fault happened, and what went wrong, empty when nothing did."""
    with own_scene() as scene:
        return [_played(scene, case_of(seed)) for seed in seeds]


@contextmanager
def own_scene() -> Iterator[Scene]:
    """A scene on servers that are nobody else's: they are killed and started again."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="archiver-chaos-")))
        # What it committed survives its own end, though not the machine's, without durability too.
        postgres = stack.enter_context(PostgresServer(durable=False))
        s3 = stack.enter_context(S3Server())
        database = stack.enter_context(fresh_database(postgres))
        bucket = stack.enter_context(fresh_bucket(s3))
        for name in ("workshop", "workplace"):
            (folder / name).mkdir()
        shops = stack.enter_context(closing(open_workshop(folder / "workshop")))
        yield stack.enter_context(open_scene(folder / "workplace", database, bucket, next(shops), postgres, s3))


def _played(scene: Scene, case: Case) -> Played:
    try:
        return case, play(scene, case), ""
    except AssertionError as error:
        return case, True, str(error)
