"""The size of batches moves between bounds with what was measured, and rows are archived once whatever it is."""

import contextlib

import pytest

from archiver_pipeline.domain.batch_size import BatchBounds, DeletePace
from archiver_pipeline.domain.throttle import Signal, ThrottleSettings
from archiver_pipeline.engine.archive import archive_windows

BOUNDS = BatchBounds(min_rows=5, max_rows=20, target_seconds=1.0, max_bytes=1 << 20)


def archive(archiving, pace=None, **settings):
    with contextlib.closing(archiving.session(adaptive_batch_size=BOUNDS, **settings)) as session:
        session.known_pace = pace
        return archive_windows(session, archiving.windows(session))


@pytest.mark.parametrize(
    ("pace", "rows", "batches"),
    [
        (None, 10, 6),
        (DeletePace(15, 1.0, 15), 15, 4),
        (DeletePace(1, 1.0, 15), 5, 10),
        (DeletePace(900_000, 1.0, 15), 20, 4),
    ],
)
def test_it_follows_the_last_pace_between_the_bounds(archiving, audit, pace, rows, batches):
    report = archive(archiving, pace)
    audit.account_all_archived()
    assert report.batch_rows == rows
    assert report.batch_size_reason
    assert sum(window.batches for window in report.windows) == batches
    assert report.pace.rows == 48
    assert report.pace.seconds > 0
    assert report.pace.batch_rows == rows


def test_under_pressure_it_is_half(archiving, audit):
    near = ThrottleSettings(((Signal.probe, 100.0),), probe="SELECT 80")
    report = archive(archiving, throttle=near)
    assert report.batch_rows == 5
    assert "under pressure" in report.batch_size_reason
    audit.account_all_archived()


def test_without_bounds_it_is_what_is_configured(archiving, audit):
    report = archiving.archive()
    assert (report.batch_rows, report.batch_size_reason) == (10, "batch_size")
