"""The whole path, from rows in a table to proved objects, for the tables people really have."""

import pytest

from archiver_pipeline.config.enums import ObjectFormat, VacuumStrategy
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, YOUNG_ROWS

FORMATS = list(ObjectFormat)
pytestmark = pytest.mark.matrix


@pytest.mark.parametrize("data_format", FORMATS)
def test_every_old_row_is_archived_and_every_young_row_stays(archiving, audit, data_format):
    report = archiving.archive(format=data_format, vacuum_strategy=VacuumStrategy.STANDARD)
    audit.account_all_archived()
    assert report.rows == OLD_ROWS
    assert report.left_behind_rows == 0
    assert report.stopped_reason == ""
    assert len(audit.table_rows()) == YOUNG_ROWS
    assert report.vacuum == "standard"


def test_a_second_run_finds_nothing_and_says_so(archiving, audit):
    archiving.archive()
    before = audit.objects()
    report = archiving.archive()
    assert (report.rows, report.windows, report.vacuum) == (0, (), "nothing to vacuum")
    assert audit.objects() == before
