"""What storing costs, for estimates. US dollars, AWS S3 us-east-1, first tier, as listed on
https://aws.amazon.com/s3/pricing/ (looked up 2025-06; prices change, so an estimate says its date)."""

from dataclasses import dataclass

PRICES_AS_OF = "2025-06"
DEFAULT_COMPRESSION_RATIO = 0.3
OBJECTS_PER_BATCH = 3
BYTES_PER_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class ClassPrice:
    """Dollars per GiB and month, and per thousand writes."""

    gib_month: float
    thousand_puts: float


CLASS_PRICES = {
    "STANDARD": ClassPrice(0.023, 0.005),
    "STANDARD_IA": ClassPrice(0.0125, 0.01),
    "INTELLIGENT_TIERING": ClassPrice(0.023, 0.005),
    "GLACIER_IR": ClassPrice(0.004, 0.02),
    "GLACIER": ClassPrice(0.0036, 0.03),
    "DEEP_ARCHIVE": ClassPrice(0.00099, 0.05),
}


def month_dollars(rows_bytes: float, storage_class: str) -> float:
    """Storage for one month of rows that weigh `rows_bytes` before compression."""
    return rows_bytes * DEFAULT_COMPRESSION_RATIO / BYTES_PER_GIB * CLASS_PRICES[storage_class].gib_month


def write_dollars(batches: int, storage_class: str) -> float:
    """The requests that store `batches`: data object, manifest, receipt."""
    return batches * OBJECTS_PER_BATCH / 1000 * CLASS_PRICES[storage_class].thousand_puts
