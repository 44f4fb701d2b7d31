"""What archiving costs: formulas over a price list. Everything is an estimate in the list's currency.

How S3 bills, which these formulas follow (AWS's user guide, storage-class-intro; prices and sources in `prices`):

- storage is billed per GiB of 2^30 bytes and month; a month is taken as 30 days, as minimum durations are in days
- an object smaller than its class's least size is billed as that size
- an object in GLACIER or DEEP_ARCHIVE has 32 KiB more at its class's price and 8 KiB more at STANDARD's
- an object deleted before its class's least days is billed for the rest of them
- INTELLIGENT_TIERING charges per object and month, for objects of 128 KiB and more

What a batch does, which they follow too: it puts a data object, a manifest and a receipt (both always in STANDARD)
and reads data object and manifest back. For a class that cannot be read at once, the data object is put and read as
STANDARD and then copied; its minutes as STANDARD are left out. So are listings, which are a few per run.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from archiver_pipeline.domain.layout import COLD_CLASSES
from archiver_pipeline.domain.prices import AWS, BYTES_PER_GIB, DOCUMENTS_CLASS, ClassPrice, PriceList
from archiver_pipeline.domain.restore import RetrievalTier
from archiver_pipeline.domain.retrieval import retrieval_dollars_of

DAYS_PER_MONTH = 30
DEFAULT_COMPRESSION_RATIO = 0.3
DEFAULT_ROW_BYTES = 500
DEFAULT_KEY_BYTES = 10
"""One primary key in a manifest: a bigint of up to nine digits and its comma."""
_RECEIPT_BYTES = 700
_MANIFEST_BYTES = 1_500
_BASELINE = "STANDARD"


@dataclass(frozen=True, slots=True)
class Load:
    """Rows that are archived together. `rows_bytes` is their size as JSON, before compression; `batches` is how many
    data objects they become; `key_bytes` is what one row's key takes in a manifest."""

    rows: float
    rows_bytes: float
    batches: float
    compression_ratio: float = DEFAULT_COMPRESSION_RATIO
    key_bytes: float = DEFAULT_KEY_BYTES

    @property
    def stored_bytes(self) -> float:
        """The data objects together."""
        return self.rows_bytes * self.compression_ratio

    @property
    def object_bytes(self) -> float:
        """One data object; 0 when there is none."""
        return self.stored_bytes / self.batches if self.batches else 0.0

    @property
    def documents_bytes(self) -> float:
        """Manifests and receipts together."""
        return self.batches * (_MANIFEST_BYTES + _RECEIPT_BYTES) + self.rows * self.key_bytes

    def __add__(self, other: "Load") -> "Load":
        """Both together, their ratio and key size weighted; exact where their objects are of one size."""
        rows, rows_bytes = self.rows + other.rows, self.rows_bytes + other.rows_bytes
        stored = self.stored_bytes + other.stored_bytes
        keys = self.rows * self.key_bytes + other.rows * other.key_bytes
        return Load(
            rows,
            rows_bytes,
            self.batches + other.batches,
            stored / rows_bytes if rows_bytes else self.compression_ratio,
            keys / rows if rows else self.key_bytes,
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked: kept for `months`, then deleted; a `restore_share` (0 to 1) of it is read back once, with this
    tier and for so many days where the class needs a retrieval."""

    months: float = 12.0
    restore_share: float = 0.0
    tier: RetrievalTier = RetrievalTier.Standard
    retrieval_days: int = 7


@dataclass(frozen=True, slots=True)
class CostLine:
    """A cost over time: `upfront` once, `month` for each month, and never less than `least_months` of them."""

    upfront: float
    month: float
    least_months: float = 0.0

    def after(self, months: float) -> float:
        """The whole cost when it ends after so many months."""
        return self.upfront + self.month * max(months, self.least_months)


@dataclass(frozen=True, slots=True)
class ClassCost:
    """One storage class. `month` is storage once everything is archived; `early` is what deleting it before the class's
    least days costs; `total` is over the months asked for, growth included. Break-evens are in months, None for never:
    from then on this class has cost less than STANDARD would, and than leaving the rows where they are.
    """

    storage_class: str
    write: float
    month: float
    read: float
    early: float
    growth: float
    total: float
    pays_after_standard: float | None
    pays_after_disk: float | None
    least_days: int


@dataclass(frozen=True, slots=True)
class CostReport:
    """The answer. `disk_month` is what the rows cost where they are, `disk_total` over the months asked for."""

    load: Load
    growth: Load | None
    terms: Terms
    disk_bytes: float
    disk_month: float
    disk_total: float
    classes: tuple[ClassCost, ...]

    @property
    def cheapest(self) -> ClassCost:
        """The class with the least total."""
        return min(self.classes, key=lambda cost: cost.total)


def batches_of(rows: float, batch_size: int, windows: int = 1) -> int:
    """Data objects that rows spread evenly over so many windows become: a batch never spans two windows."""
    if rows <= 0:
        return 0
    windows = max(1, min(windows, math.ceil(rows)))
    return windows * math.ceil(rows / windows / batch_size)


def month_dollars(load: Load, storage_class: str, prices: PriceList = AWS) -> float:
    """Storage of everything for one month: data objects as billed, manifests and receipts, fees per object."""
    price, documents = prices.classes[storage_class], prices.classes[DOCUMENTS_CLASS]
    data = load.batches * _billed_bytes(load.object_bytes, price) / BYTES_PER_GIB * price.gib_month
    beside = (load.documents_bytes + load.batches * price.standard_overhead_bytes) / BYTES_PER_GIB * documents.gib_month
    watched = load.object_bytes >= price.least_watched_bytes
    return data + beside + (load.batches / 1000 * price.thousand_objects_month if watched else 0.0)


def write_dollars(load: Load, storage_class: str, prices: PriceList = AWS) -> float:
    """The requests that store everything once, and reading the data objects and manifests back to prove them. What
    manifests weigh costs nothing to read in their class."""
    documents = prices.classes[DOCUMENTS_CLASS]
    first = documents if storage_class in COLD_CLASSES else prices.classes[storage_class]
    puts = first.thousand_puts + 2 * documents.thousand_puts
    copies = prices.classes[storage_class].thousand_puts if storage_class in COLD_CLASSES else 0.0
    return load.batches / 1000 * (puts + copies + documents.thousand_gets) + _reading(load, first, 1.0)


def read_dollars(load: Load, storage_class: str, terms: Terms, prices: PriceList = AWS) -> float:
    """Reading the restore share once, with its retrieval where the class needs one; its way out of AWS is left out.

    Raises KeyError for a tier that the class lacks.
    """
    price = prices.classes[storage_class]
    if not terms.restore_share:
        return 0.0
    reading = _reading(load, price, terms.restore_share)
    if storage_class not in COLD_CLASSES or storage_class not in prices.retrieval:
        return reading
    stored, objects = load.stored_bytes * terms.restore_share, load.batches * terms.restore_share
    return reading + retrieval_dollars_of(
        stored, objects, storage_class, terms.tier, terms.retrieval_days, prices=prices
    )


def estimate(
    load: Load,
    storage_classes: tuple[str, ...],
    terms: Terms,
    *,
    growth: Load | None = None,
    disk_bytes: float | None = None,
    prices: PriceList = AWS,
) -> CostReport:
    """The cost of archiving `load` now and `growth` at the end of each month, in each class.

    `disk_bytes` is what the rows take where they are, by default their size as JSON.
    """
    disk_bytes = load.rows_bytes if disk_bytes is None else disk_bytes
    disk_month = disk_bytes / BYTES_PER_GIB * prices.disk_gib_month
    growth_share = growth.rows_bytes / load.rows_bytes if growth and load.rows_bytes else 0.0
    return CostReport(
        load=load,
        growth=growth,
        terms=terms,
        disk_bytes=disk_bytes,
        disk_month=disk_month,
        disk_total=disk_month * (terms.months + growth_share * _growing_months(terms.months)),
        classes=tuple(_class_cost(load, growth, name, terms, disk_month, prices) for name in storage_classes),
    )


def break_even_months(kept: CostLine, moved: CostLine) -> float | None:
    """The months after which `moved` has cost no more than `kept` and stays so; None when that never comes.

    Their difference is a line between the ends of their least months, so its last root is looked for piece by piece.
    """
    ends = sorted({0.0, kept.least_months, moved.least_months})
    month = moved.month - kept.month
    last = _difference(kept, moved, ends[-1])
    if month > 0 or (month == 0 and last > 0):
        return None
    if last > 0:
        return ends[-1] - last / month
    for start, end in reversed(list(pairwise(ends))):
        before, after = _difference(kept, moved, start), _difference(kept, moved, end)
        if before > 0:
            return start + (end - start) * before / (before - after)
    return 0.0


def least_months(price: ClassPrice) -> float:
    """The months that an object is billed for at least."""
    return price.least_days / DAYS_PER_MONTH


def _class_cost(
    load: Load, growth: Load | None, name: str, terms: Terms, disk_month: float, prices: PriceList
) -> ClassCost:
    line = _line(load, name, terms, prices)
    write, month = write_dollars(load, name, prices), month_dollars(load, name, prices)
    grown = _growth_dollars(growth, name, terms.months, prices) if growth else 0.0
    return ClassCost(
        storage_class=name,
        write=write,
        month=month,
        read=line.upfront - write,
        early=month * max(0.0, line.least_months - terms.months),
        growth=grown,
        total=line.after(terms.months) + grown,
        pays_after_standard=break_even_months(_line(load, _BASELINE, terms, prices), line),
        pays_after_disk=break_even_months(CostLine(0.0, disk_month), line),
        least_days=prices.classes[name].least_days,
    )


def _line(load: Load, name: str, terms: Terms, prices: PriceList) -> CostLine:
    upfront = write_dollars(load, name, prices) + read_dollars(load, name, terms, prices)
    return CostLine(upfront, month_dollars(load, name, prices), least_months(prices.classes[name]))


def _growth_dollars(growth: Load, name: str, months: float, prices: PriceList) -> float:
    """What a month's growth, archived at the end of each month but the last, costs until the end."""
    written = max(0.0, months - 1) * write_dollars(growth, name, prices)
    return written + _growing_months(months) * month_dollars(growth, name, prices)


def _growing_months(months: float) -> float:
    """1 + 2 + ... + (months - 1): what is archived at the end of a month is there for all that follow."""
    return max(0.0, months * (months - 1) / 2)


def _billed_bytes(object_bytes: float, price: ClassPrice) -> float:
    return max(object_bytes, price.least_object_bytes) + price.overhead_bytes


def _reading(load: Load, price: ClassPrice, share: float) -> float:
    gib = load.stored_bytes / BYTES_PER_GIB
    return share * (load.batches / 1000 * price.thousand_gets + gib * price.gib_read)


def _difference(kept: CostLine, moved: CostLine, months: float) -> float:
    return moved.after(months) - kept.after(months)
