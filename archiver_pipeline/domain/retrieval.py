"""Data objects in cold classes: whether they can be read, how long their retrieval takes, what it costs.

`GLACIER` is what AWS calls S3 Glacier Flexible Retrieval. Waiting times are the "typically finish within" of
https://docs.aws.amazon.com/AmazonS3/latest/userguide/restoring-objects-retrieval-options.html; prices are US dollars,
AWS S3 us-east-1, as listed on https://aws.amazon.com/s3/pricing/ (both looked up 2026-11; prices change, so an
estimate says its date). That page itself could not be opened then. Standard from GLACIER and Expedited requests were
confirmed on AWS's https://repost.aws/knowledge-center/s3-manage-data-retrieval, free Bulk from GLACIER in its user
guide; Expedited per GiB and DEEP_ARCHIVE only by tables that others publish, some of which differ.
"""

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum

from archiver_pipeline.domain.layout import COLD_CLASSES
from archiver_pipeline.domain.prices import BYTES_PER_GIB, CLASS_PRICES
from archiver_pipeline.domain.restore import RetrievalTier

RETRIEVAL_PRICES_AS_OF = "2026-11"
_DAYS_PER_MONTH = 30
_RESTORE_HEADER = re.compile(r'ongoing-request="(?P<ongoing>true|false)"(?:, *expiry-date="(?P<expiry>[^"]+)")?')


class Readiness(StrEnum):
    """Whether an object can be read."""

    readable = "readable"
    """Its class is not cold, or a retrieved copy is there."""
    retrieving = "retrieving"
    """Its retrieval was started and has not ended."""
    cold = "cold"
    """It must be retrieved first, and nobody has asked for that."""


@dataclass(frozen=True, slots=True)
class RetrievalState:
    """What the store says of one object. `readable_until` is when the retrieved copy goes away, aware UTC, exclusive;
    None when there is no such copy."""

    storage_class: str
    readiness: Readiness
    readable_until: datetime | None = None

    def at(self, now: datetime) -> "RetrievalState":
        """The state at `now`: a copy that has expired may still be there, but nothing can be built on it."""
        if self.readable_until is None or now < self.readable_until:
            return self
        return replace(self, readiness=Readiness.cold)


@dataclass(frozen=True, slots=True)
class RetrievalTerms:
    """One tier of one class: the most hours it typically takes, dollars per GiB and per thousand objects."""

    most_hours: float
    gib: float
    thousand_requests: float


RETRIEVAL_TERMS: dict[str, dict[RetrievalTier, RetrievalTerms]] = {
    "GLACIER": {
        RetrievalTier.Expedited: RetrievalTerms(5 / 60, 0.03, 10.0),
        RetrievalTier.Standard: RetrievalTerms(5, 0.01, 0.05),
        RetrievalTier.Bulk: RetrievalTerms(12, 0.0, 0.0),
    },
    "DEEP_ARCHIVE": {
        RetrievalTier.Standard: RetrievalTerms(12, 0.02, 0.10),
        RetrievalTier.Bulk: RetrievalTerms(48, 0.0025, 0.025),
    },
}


def retrieval_state_of(storage_class: str, restore_header: str | None) -> RetrievalState:
    """The state that `x-amz-storage-class` and `x-amz-restore` of an object tell.

    Raises ValueError for a header in another form: what is not understood is not taken for readable.
    """
    if storage_class not in COLD_CLASSES:
        return RetrievalState(storage_class, Readiness.readable)
    if restore_header is None:
        return RetrievalState(storage_class, Readiness.cold)
    found = _RESTORE_HEADER.fullmatch(restore_header.strip())
    if found is None:
        raise ValueError(f"x-amz-restore is {restore_header!r}")
    if found["ongoing"] == "true":
        return RetrievalState(storage_class, Readiness.retrieving)
    until = parsedate_to_datetime(found["expiry"] or "")
    if until.tzinfo is None:
        raise ValueError(f"x-amz-restore is {restore_header!r}")
    return RetrievalState(storage_class, Readiness.readable, until)


def expected_at(started_at: datetime, storage_class: str, tier: RetrievalTier) -> datetime:
    """When a retrieval started then should be done at the latest. Raises KeyError for a tier the class lacks."""
    return started_at + timedelta(hours=RETRIEVAL_TERMS[storage_class][tier].most_hours)


def retrieval_dollars(objects_bytes: list[int], storage_class: str, tier: RetrievalTier, days: int) -> float:
    """What retrieving objects of these sizes costs, with `days` of their copies in STANDARD.

    The store keeps copies to the end of their last day (UTC), so up to one day more is charged. Reading them, and
    their way out of AWS, is not in it. Raises KeyError for a tier the class lacks.
    """
    terms = RETRIEVAL_TERMS[storage_class][tier]
    gib = sum(objects_bytes) / BYTES_PER_GIB
    requests = len(objects_bytes) / 1000 * terms.thousand_requests
    return gib * terms.gib + requests + gib * CLASS_PRICES["STANDARD"].gib_month * days / _DAYS_PER_MONTH
