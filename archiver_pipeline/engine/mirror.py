"""A legal hold on a table, mirrored to its archives: S3 Object Lock's own legal hold on the objects."""

import threading

from archiver_pipeline.domain.table import TableShape
from archiver_pipeline.engine.archived import list_stored
from archiver_pipeline.engine.recording import record_mirrored
from archiver_pipeline.engine.session import ArchiveSession
from archiver_pipeline.engine.work import run_all
from archiver_pipeline.storage.s3 import S3Store

_THREADS = 8


def mirror_holds(session: ArchiveSession, shape: TableShape) -> int:
    """Put the store's legal hold on the data object of every archive of a table that is wholly under hold; how many
    there are. 0 when it is not, or `mirror_to_object_lock` is off: which objects hold a held row is not looked for.

    Takes no hold off, ever: a person may have placed it. Safe to repeat. Raises StoreError without Object Lock.
    """
    if not (session.database.holds.mirror_to_object_lock and shape.holds.is_whole):
        return 0
    found = list_stored(session.store, session.name)
    keys = tuple(one.data_key for one in found if one.is_archive and one.data_key)
    store = S3Store(session.store_settings, connections=_THREADS)
    run_all(keys, store.place_legal_hold, _THREADS, threading.Event(), cancel=lambda: None)
    record_mirrored(session, shape.holds, len(keys))
    return len(keys)
