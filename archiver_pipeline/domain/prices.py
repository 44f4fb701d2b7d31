"""What a store charges: the one home of every price.

US dollars, AWS S3 us-east-1, first tier of each price, without tax, free tier, discounts and data leaving AWS. Looked
up 2026-11. AWS's own list, https://aws.amazon.com/s3/pricing/, is what you are charged by; it could not be opened then,
so each figure was read on the pages named, which quote it:

- storage per GiB and month, and the fee of INTELLIGENT_TIERING per object: [1] [2] [3]
- PUT, COPY and GET requests: [4] for all but DEEP_ARCHIVE; its PUT: [5] ([4] gives one price for both cold classes)
- reading from STANDARD_IA and GLACIER_IR, per GiB: [3] [4]
- least days: [3] and AWS's user guide [6]; least billed object of 128 KiB: [6]
- 32 KiB at the class's price and 8 KiB at STANDARD's for every object in GLACIER and DEEP_ARCHIVE: [5] [6]
- retrieval: Standard from GLACIER and Expedited requests on AWS's [7], free Bulk from GLACIER in its user guide [8];
  Expedited per GiB and DEEP_ARCHIVE only on tables that others publish, some of which differ. Waiting times: [8]
- disk of a database, as Amazon RDS for PostgreSQL charges gp3 storage: [9]

[1] https://www.usage.ai/blogs/aws/storage-cost/s3/cost-calculator/ (2026-06)
[2] https://www.cloudroutehq.com/cost-optimization/s3-intelligent-tiering (2026)
[3] https://techlama.blog/posts/s3-storage-classes-cost.html
[4] https://c3x.dev/blog/s3-request-fees-explained
[5] https://gist.github.com/casouri/56e1e634e50d1ae023f3bb8ea4d053de
[6] https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-class-intro.html#sc-compare
[7] https://repost.aws/knowledge-center/s3-manage-data-retrieval
[8] https://docs.aws.amazon.com/AmazonS3/latest/userguide/restoring-objects-retrieval-options.html
[9] https://www.usage.ai/blogs/aws/reserved-instances/rds/pricing-calculator/ (2026-06)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from archiver_pipeline.domain.restore import RetrievalTier

BYTES_PER_KIB = 1 << 10
BYTES_PER_GIB = 1 << 30
"""What AWS calls a GB on its bills."""
DOCUMENTS_CLASS = "STANDARD"
"""Where manifests and receipts lie, whatever the class of the data."""


@dataclass(frozen=True, slots=True)
class ClassPrice:
    """One storage class. Dollars per GiB and month, per thousand requests, per GiB read.

    An object is billed for at least `least_days` and `least_object_bytes`; for `overhead_bytes` more at this class's
    price and `standard_overhead_bytes` more at STANDARD's. `thousand_objects_month` is a fee for objects of at least
    `least_watched_bytes`.
    """

    gib_month: float
    thousand_puts: float
    thousand_gets: float
    gib_read: float = 0.0
    least_days: int = 0
    least_object_bytes: int = 0
    overhead_bytes: int = 0
    standard_overhead_bytes: int = 0
    thousand_objects_month: float = 0.0
    least_watched_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RetrievalTerms:
    """One tier of one class: the most hours it typically takes, dollars per GiB and per thousand objects."""

    most_hours: float
    gib: float
    thousand_requests: float


@dataclass(frozen=True, slots=True)
class PriceList:
    """The prices of one provider in one region. `as_of` is when they were looked up; `classes` has STANDARD.

    `disk_gib_month` is what a GiB costs where the rows are now.
    """

    name: str
    region: str
    as_of: str
    source: str
    currency: str
    disk_gib_month: float
    classes: Mapping[str, ClassPrice]
    retrieval: Mapping[str, Mapping[RetrievalTier, RetrievalTerms]] = field(default_factory=dict)


_KIB_128 = 128 * BYTES_PER_KIB
_COLD_OVERHEAD = {"overhead_bytes": 32 * BYTES_PER_KIB, "standard_overhead_bytes": 8 * BYTES_PER_KIB}

RETRIEVAL_TERMS: Mapping[str, Mapping[RetrievalTier, RetrievalTerms]] = MappingProxyType(
    {
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
)

AWS = PriceList(
    name="AWS S3",
    region="us-east-1",
    as_of="2026-11",
    source="https://aws.amazon.com/s3/pricing/",
    currency="USD",
    disk_gib_month=0.115,
    classes=MappingProxyType(
        {
            "STANDARD": ClassPrice(0.023, 0.005, 0.0004),
            "STANDARD_IA": ClassPrice(0.0125, 0.01, 0.001, gib_read=0.01, least_days=30, least_object_bytes=_KIB_128),
            "INTELLIGENT_TIERING": ClassPrice(
                0.023, 0.005, 0.0004, thousand_objects_month=0.0025, least_watched_bytes=_KIB_128
            ),
            "GLACIER_IR": ClassPrice(0.004, 0.02, 0.01, gib_read=0.03, least_days=90, least_object_bytes=_KIB_128),
            "GLACIER": ClassPrice(0.0036, 0.03, 0.0004, least_days=90, **_COLD_OVERHEAD),
            "DEEP_ARCHIVE": ClassPrice(0.00099, 0.05, 0.0004, least_days=180, **_COLD_OVERHEAD),
        }
    ),
    retrieval=RETRIEVAL_TERMS,
)
"""INTELLIGENT_TIERING is priced as its frequent tier: it is cheaper once objects were not read for 30 and 90 days,
which an estimate cannot promise."""
