"""Data objects in cold classes: whether they can be read, how long their retrieval takes, what it costs.

`GLACIER` is what AWS calls S3 Glacier Flexible Retrieval. Waiting times and prices are in `prices`, with their sources.
"""

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum

from archiver_pipeline.domain.layout import COLD_CLASSES
from archiver_pipeline.domain.prices import AWS, BYTES_PER_GIB, DOCUMENTS_CLASS, RETRIEVAL_TERMS, PriceList
from archiver_pipeline.domain.restore import RetrievalTier

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
    """What retrieving objects of these sizes costs at AWS's prices; see `retrieval_dollars_of`."""
    return retrieval_dollars_of(sum(objects_bytes), len(objects_bytes), storage_class, tier, days)


def retrieval_dollars_of(
    total_bytes: float,
    objects: float,
    storage_class: str,
    tier: RetrievalTier,
    days: int,
    *,
    prices: PriceList = AWS,
) -> float:
    """What retrieving so many objects costs, with `days` of their copies in STANDARD.

    The store keeps copies to the end of their last day (UTC), so up to one day more is charged. Reading them, and
    their way out of AWS, is not in it. Raises KeyError for a tier the class lacks.
    """
    terms = prices.retrieval[storage_class][tier]
    gib = total_bytes / BYTES_PER_GIB
    copies = gib * prices.classes[DOCUMENTS_CLASS].gib_month * days / _DAYS_PER_MONTH
    return gib * terms.gib + objects / 1000 * terms.thousand_requests + copies
