"""What the restore tests share: tables that were archived, the accounting of a report, and rows as text."""

from collections import Counter

from archiver_pipeline.domain.restore import RestoredObject, RestoreOutcome, RestoreReport
from archiver_pipeline_tests.ledger import EXACT_TEXT, Ledger
from archiver_pipeline_tests.plugins.archiving import Archiving
from archiver_pipeline_tests.plugins.servers import Database


def archived(archiving: Archiving, ledger: Ledger, **overrides: object) -> Counter[str]:
    """Archive what is old; returns all rows that were in the table before."""
    before = Counter(ledger.table_rows())
    archiving.archive(**overrides)
    assert len(ledger.table_rows()) < before.total()
    return before


def rows_of(database: Database, query: str) -> Counter[str]:
    """The rows of a query as exact text, each as often as it is there."""
    with database.connect(options=EXACT_TEXT) as connection:
        rows = connection.execute(f"SELECT q::text FROM ({query}) AS q".encode()).fetchall()
    return Counter(row for (row,) in rows)


def value(database: Database, query: str) -> object:
    """The single value of a query."""
    [(found,)] = database.execute(query)
    return found


def account_report(report: RestoreReport) -> RestoreReport:
    """Assert that every row of every object is counted once."""
    for item in report.objects:
        counted = item.restored_rows + item.skipped_rows + item.filtered_rows + item.failed_rows
        assert counted == (0 if item.outcome is RestoreOutcome.waiting else item.rows), item
        assert item.replaced_rows <= item.restored_rows
        assert bool(item.reason) == (item.outcome is not RestoreOutcome.restored), item
    return report


def failed(report: RestoreReport) -> list[RestoredObject]:
    return [item for item in report.objects if item.outcome is RestoreOutcome.failed]


def key_of_row(ledger: Ledger, row_id: int, name: str = "id") -> str:
    """The key of the data object that holds the row."""
    return next(
        found.data_key
        for found in ledger.receipted()
        if any(f'"{name}":{row_id},' in line.replace('": ', '":') for line in ledger.lines_of(found))
    )
