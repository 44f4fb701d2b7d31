"""The whole archive of some windows of one table, as a paragraph."""

from collections.abc import Sequence

from archiver_pipeline.domain.windows import Window
from archiver_pipeline.engine.compress import compress_batches
from archiver_pipeline.engine.delete import delete_batches
from archiver_pipeline.engine.extract import extract_batches
from archiver_pipeline.engine.plan import plan_archive
from archiver_pipeline.engine.report import ArchiveReport, report_archive
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.upload import upload_batches
from archiver_pipeline.engine.verify import verify_batches


def archive_windows(
    session: ArchiveSession, windows: Sequence[Window], *, limit_rows: int | None = None, ignore_hours: bool = False
) -> ArchiveReport:
    """Archive what `max_staged_bytes` and `limit_rows` allow of the windows' eligible rows.

    Safe to repeat after any interruption: the next call settles what this one left open.
    """
    plan = plan_archive(session, windows, limit_rows=limit_rows, ignore_hours=ignore_hours)
    extraction = extract_batches(session, plan)
    encoding = compress_batches(session, extraction)
    upload = upload_batches(session, encoding)
    verification = verify_batches(session, upload)
    deletion = delete_batches(session, verification)
    return report_archive(session, deletion)
