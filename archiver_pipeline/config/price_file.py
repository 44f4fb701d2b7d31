"""A price list that a user wrote, for `archiver cost --prices`: YAML or JSON, checked like the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from archiver_pipeline.config.document import MAX_DOCUMENT_BYTES, Document, read_document
from archiver_pipeline.config.enums import StorageClass
from archiver_pipeline.config.models import Section
from archiver_pipeline.config.problems import did_you_mean, validation_problems
from archiver_pipeline.config.scalars import Float, Int, Text
from archiver_pipeline.domain.prices import BYTES_PER_KIB, DOCUMENTS_CLASS, ClassPrice, PriceList, RetrievalTerms
from archiver_pipeline.domain.restore import RetrievalTier
from archiver_pipeline.errors import ConfigError, ConfigProblem

Money = Annotated[Float, Field(ge=0, le=1_000_000)]
Kib = Annotated[Float, Field(ge=0, le=1_000_000)]


def _tier_name(value: str) -> str:
    if value not in set(RetrievalTier):
        hint = did_you_mean(value, list(RetrievalTier))
        raise ValueError(f"must be one of {', '.join(RetrievalTier)}" + (f": {hint}" if hint else ""))
    return value


def _class_name(value: str) -> str:
    if value not in set(StorageClass):
        hint = did_you_mean(value, list(StorageClass))
        raise ValueError(f"no storage class; known are {', '.join(StorageClass)}" + (f": {hint}" if hint else ""))
    return value


def _date_as_text(value: Any) -> Any:
    """`as_of: 2026-11-01` is a date to YAML, and `2026` a number."""
    return str(value) if isinstance(value, date | int | float) else value


class TierPrice(Section):
    """What retrieving from a class that can't be read at once costs, and takes."""

    hours: Annotated[Float, Field(ge=0, le=8760)] = Field(0.0, description="Hours until objects can be read, at most.")
    gb: Money = Field(0.0, description="Per GB retrieved.")
    thousand_requests: Money = Field(0.0, description="Per 1,000 objects retrieved.")


class ClassPrices(Section):
    """One storage class. GB are GiB of 2^30 bytes."""

    gb_month: Money = Field(description="Storage per GB and month.")
    thousand_puts: Money = Field(0.0, description="Per 1,000 PUT or COPY requests.")
    thousand_gets: Money = Field(0.0, description="Per 1,000 GET requests.")
    gb_read: Money = Field(0.0, description="Per GB read.")
    minimum_days: Annotated[Int, Field(ge=0, le=3650)] = Field(0, description="Days billed at least.")
    minimum_object_kb: Kib = Field(0.0, description="Smaller objects are billed as this many KiB.")
    overhead_kb: Kib = Field(0.0, description="KiB billed on top of each object.")
    standard_overhead_kb: Kib = Field(0.0, description="KiB billed on top of each object at STANDARD's price.")
    thousand_objects_month: Money = Field(0.0, description="Fee per 1,000 objects and month.")
    fee_from_object_kb: Kib = Field(0.0, description="Smaller objects are free of that fee.")
    retrieval: dict[Annotated[str, AfterValidator(_tier_name)], TierPrice] = Field(
        {}, description="Prices of retrieval by tier, for GLACIER and DEEP_ARCHIVE."
    )


class PriceFile(Section):
    """The whole file."""

    name: Text = Field(description="The provider, as the estimate names it.")
    region: Text = Field("any", description="Region the prices are of.")
    as_of: Annotated[Text, BeforeValidator(_date_as_text)] = Field(description="When they were looked up.")
    source: Text = Field("", description="Where.")
    currency: Text = Field("USD", description="Currency of all prices.")
    disk_gb_month: Money = Field(description="What a GB of the database's disk costs per month.")
    classes: dict[Annotated[str, AfterValidator(_class_name)], ClassPrices] = Field(
        description="Prices by storage class; STANDARD must be there: manifests and receipts are in it."
    )


def load_prices(path: Path, environ: Mapping[str, str]) -> PriceList:
    """The file's price list. Raises ConfigError with every problem at once."""
    try:
        return _price_list(_checked(read_document(_content(path), environ)))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=_hint(error), problems=error.problems) from None


def _hint(error: ConfigError) -> str:
    """What reading the configuration advises for an empty file is wrong here."""
    if error.hint and "archiver.example.yaml" not in error.hint:
        return error.hint
    return "start from docs/prices.example.yaml"


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}") from None


def _checked(document: Document) -> PriceFile:
    problems = list(document.problems)
    try:
        prices = PriceFile.model_validate(document.data)
    except ValidationError as error:
        problems += validation_problems(error, document, PriceFile)
    else:
        problems += _missing_classes(prices, document)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(count, problems=sorted(problems, key=lambda problem: problem.line or 0))
    return prices


def _missing_classes(prices: PriceFile, document: Document) -> Iterator[ConfigProblem]:
    if DOCUMENTS_CLASS not in prices.classes:
        message = f"{DOCUMENTS_CLASS} is missing, and manifests and receipts are always in it"
        yield document.problem(("classes",), message, "write what your provider's only class costs")


def _price_list(prices: PriceFile) -> PriceList:
    return PriceList(
        name=prices.name,
        region=prices.region,
        as_of=prices.as_of,
        source=prices.source,
        currency=prices.currency,
        disk_gib_month=prices.disk_gb_month,
        classes={name: _class_price(price) for name, price in prices.classes.items()},
        retrieval={name: _tiers(price) for name, price in prices.classes.items() if price.retrieval},
    )


def _class_price(price: ClassPrices) -> ClassPrice:
    return ClassPrice(
        gib_month=price.gb_month,
        thousand_puts=price.thousand_puts,
        thousand_gets=price.thousand_gets,
        gib_read=price.gb_read,
        least_days=price.minimum_days,
        least_object_bytes=int(price.minimum_object_kb * BYTES_PER_KIB),
        overhead_bytes=int(price.overhead_kb * BYTES_PER_KIB),
        standard_overhead_bytes=int(price.standard_overhead_kb * BYTES_PER_KIB),
        thousand_objects_month=price.thousand_objects_month,
        least_watched_bytes=int(price.fee_from_object_kb * BYTES_PER_KIB),
    )


def _tiers(price: ClassPrices) -> dict[RetrievalTier, RetrievalTerms]:
    return {
        RetrievalTier(name): RetrievalTerms(tier.hours, tier.gb, tier.thousand_requests)
        for name, tier in price.retrieval.items()
    }
