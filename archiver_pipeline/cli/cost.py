"""`archiver cost`: what archiving costs, per storage class, and when it pays."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from archiver_pipeline.cli.console import output, print_json, size, warn
from archiver_pipeline.cli.options import ConfigOption, DatabaseOption, JsonOption, TableOption, open_config
from archiver_pipeline.config.enums import StorageClass
from archiver_pipeline.config.loading import LoadedConfig
from archiver_pipeline.config.price_file import load_prices
from archiver_pipeline.domain.cost import (
    DEFAULT_COMPRESSION_RATIO,
    DEFAULT_ROW_BYTES,
    ClassCost,
    CostReport,
    Load,
    Terms,
    batches_of,
    estimate,
)
from archiver_pipeline.domain.prices import AWS, BYTES_PER_GIB, PriceList
from archiver_pipeline.domain.restore import RetrievalTier
from archiver_pipeline.engine.costing import MeasuredTable, measure_configured
from archiver_pipeline.errors import ConfigError

_DEFAULT_BATCH_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is to be priced: `tables` only when it was measured; `disk_bytes` None when it was not."""

    load: Load
    growth: Load | None
    disk_bytes: float | None
    tables: tuple[MeasuredTable, ...] = ()


def cost(
    size_gb: Annotated[
        float | None,
        typer.Option("--size-gb", min=0, help="Size of the rows, in GiB before compression.", show_default=False),
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", min=0, help="Number of rows, instead of --size-gb.", show_default=False)
    ] = None,
    avg_row_bytes: Annotated[
        float, typer.Option("--avg-row-bytes", min=1, help="Average length of a row as JSON.")
    ] = DEFAULT_ROW_BYTES,
    config: ConfigOption = None,
    database: DatabaseOption = None,
    table: TableOption = None,
    storage_class: Annotated[
        StorageClass | None,
        typer.Option("--storage-class", help="Class of the data objects; else the configured one.", show_default=False),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="All storage classes in one table.")] = False,
    months: Annotated[float, typer.Option("--months", min=0, help="How long archives are kept.")] = 12,
    compression_ratio: Annotated[
        float, typer.Option("--compression-ratio", min=0.001, max=1, help="Stored bytes per byte of JSON.")
    ] = DEFAULT_COMPRESSION_RATIO,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="Rows per data object; else the configured one.", show_default=False),
    ] = None,
    restore_share: Annotated[
        float, typer.Option("--restore-share", min=0, max=1, help="Part of the archives that is read back once.")
    ] = 0,
    retrieval_tier: Annotated[
        RetrievalTier, typer.Option("--retrieval-tier", help="Tier for GLACIER and DEEP_ARCHIVE.")
    ] = RetrievalTier.Standard,
    region: Annotated[
        str | None, typer.Option("--region", help="Region of the prices; us-east-1 is built in.", show_default=False)
    ] = None,
    disk_price: Annotated[
        float | None,
        typer.Option(
            "--disk-price", min=0, help="What a GiB of the database's disk costs a month.", show_default=False
        ),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option("--prices", help="Your provider's price list, YAML or JSON.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate what archiving costs: storage, requests, read-back, restores, minimum sizes and durations.

    Give it a size, or a number of rows, or a configuration whose tables it measures: rows, widths, eligible part and
    growth by the server's statistics, index look-ups and a few sampled pages. It reads only, and never a whole table.

    Exit codes: 0 estimated, 3 configuration or preflight, 5 permission, 7 network, 2 other.

    Examples:

        archiver cost --size-gb 100

        archiver cost --rows 50000000 --avg-row-bytes 800 --storage-class GLACIER_IR --months 84

        archiver cost --config archiver.yaml --compare --months 36 --restore-share 0.05

        archiver cost --size-gb 500 --compare --prices docs/prices.example.yaml --json
    """
    listed = _prices(prices, region, disk_price)
    loaded = _configuration(size_gb, rows, config)
    if loaded is None:
        asked = _given(size_gb, rows, avg_row_bytes, compression_ratio, batch_size or _DEFAULT_BATCH_SIZE)
    else:
        asked = _measured(loaded, database, table, compression_ratio, batch_size)
        _warn_of_prices(loaded, listed, is_chosen=prices is not None or region is not None)
    chosen = storage_class or (loaded.store.storage_class if loaded else StorageClass.STANDARD_IA)
    terms = Terms(months, restore_share, retrieval_tier)
    _refuse_unpriced(chosen, listed, terms, compare=compare)
    classes = tuple(listed.classes) if compare else (chosen.value,)
    report = estimate(asked.load, classes, terms, growth=asked.growth, disk_bytes=asked.disk_bytes, prices=listed)
    if as_json:
        print_json(_as_dict(report, asked, listed))
    else:
        _print(report, asked, listed, compare=compare)


def _prices(path: Path | None, region: str | None, disk_price: float | None) -> PriceList:
    listed = AWS if path is None else load_prices(path, os.environ)
    if region is not None and region != listed.region:
        raise ConfigError(
            f"there are no prices of region {region!r} here, only of {listed.name} {listed.region}",
            hint="write your region's prices into a file like docs/prices.example.yaml and give it with --prices",
        )
    if disk_price is None:
        return listed
    return PriceList(**({name: getattr(listed, name) for name in PriceList.__slots__} | {"disk_gib_month": disk_price}))


def _configuration(size_gb: float | None, rows: int | None, config: Path | None) -> LoadedConfig | None:
    """The configuration to measure, or None when a size was given. Raises ConfigError unless exactly one was."""
    given = [size_gb is not None, rows is not None, config is not None]
    if sum(given) > 1:
        raise ConfigError("--size-gb, --rows and --config exclude each other", hint="give one of them")
    if size_gb is not None or rows is not None:
        return None
    return open_config(config)


def _given(
    size_gb: float | None, rows: int | None, avg_row_bytes: float, compression_ratio: float, batch_size: int
) -> _Asked:
    rows_bytes = size_gb * BYTES_PER_GIB if size_gb is not None else (rows or 0) * avg_row_bytes
    count = rows_bytes / avg_row_bytes
    return _Asked(Load(count, rows_bytes, batches_of(count, batch_size), compression_ratio), None, None)


def _measured(
    loaded: LoadedConfig, database: str | None, table: str | None, compression_ratio: float, batch_size: int | None
) -> _Asked:
    tables = tuple(
        measure_configured(
            loaded.database(settings.database), settings, compression_ratio=compression_ratio, batch_size=batch_size
        )
        for settings in loaded.select_tables(database, table)
    )
    nothing = Load(0, 0, 0, compression_ratio)
    return _Asked(
        sum((found.backlog for found in tables), nothing),
        sum((found.growth for found in tables), nothing),
        sum(found.measure.eligible_bytes for found in tables),
        tables,
    )


def _warn_of_prices(loaded: LoadedConfig, listed: PriceList, *, is_chosen: bool) -> None:
    """The built-in prices are those of one provider and region, which may not be the configured ones."""
    place = loaded.store.endpoint or loaded.store.region
    if not is_chosen and place != listed.region:
        warn(f"the store is at {place}, the prices are {listed.name} {listed.region}'s; --prices takes your provider's")


def _refuse_unpriced(chosen: StorageClass, listed: PriceList, terms: Terms, *, compare: bool) -> None:
    if chosen.value not in listed.classes and not compare:
        known = ", ".join(listed.classes)
        raise ConfigError(f"{listed.name} has no price of {chosen.value}", hint=f"with a price are: {known}")
    asked = listed.classes if compare else [chosen.value]
    lacking = [name for name in asked if name in listed.retrieval and terms.tier not in listed.retrieval[name]]
    if lacking and terms.restore_share:
        tiers = " and ".join(listed.retrieval[lacking[0]])
        raise ConfigError(
            f"{lacking[0]} has no retrieval tier {terms.tier.value}", hint=f"its tiers are {tiers}: --retrieval-tier"
        )


def _as_dict(report: CostReport, asked: _Asked, listed: PriceList) -> dict[str, object]:
    return {
        "is_estimate": True,
        "prices": {name: getattr(listed, name) for name in ("name", "region", "as_of", "source", "currency")}
        | {"disk_gib_month": listed.disk_gib_month},
        "load": _load_as_dict(report.load),
        "growth_per_month": _load_as_dict(report.growth) if report.growth else None,
        "terms": asdict(report.terms),
        "disk": {"bytes": report.disk_bytes, "month": report.disk_month, "total": report.disk_total},
        "classes": [asdict(found) for found in report.classes],
        "cheapest": report.cheapest.storage_class,
        "tables": [
            asdict(found.measure)
            | {"name": str(found.measure.name), "eligible_share": found.measure.eligible_share}
            | {"backlog": _load_as_dict(found.backlog), "growth_per_month": _load_as_dict(found.growth)}
            for found in asked.tables
        ],
    }


def _load_as_dict(load: Load) -> dict[str, float]:
    return asdict(load) | {"stored_bytes": load.stored_bytes, "documents_bytes": load.documents_bytes}


def _print(report: CostReport, asked: _Asked, listed: PriceList, *, compare: bool) -> None:
    for found in asked.tables:
        for note in found.measure.notes:
            warn(f"{found.measure.name}: {note}")
    if asked.tables:
        output.print(_measures(asked.tables))
    for line in _summary(report, listed):
        output.print(line, markup=False, highlight=False)
    output.print(_comparison(report) if compare else _items(report.classes[0], report, listed))
    for line in _verdict(report, listed, compare=compare):
        output.print(line, markup=False, highlight=False)


def _measures(tables: tuple[MeasuredTable, ...]) -> Table:
    shown = _table("table", "rows", "row", "eligible", "oldest", "new a month", title="measured (estimates)")
    shown.columns[0].overflow = "fold"
    for found in tables:
        measure = found.measure
        shown.add_row(
            str(measure.name),
            f"{measure.rows:,.0f}",
            size(round(measure.row_bytes)),
            f"{measure.eligible_rows:,.0f} ({measure.eligible_share:.0%})",
            f"{measure.oldest:%Y-%m-%d}" if measure.oldest else "unknown",
            f"{measure.month_rows:,.0f}",
        )
    return shown


def _summary(report: CostReport, listed: PriceList) -> Iterator[str]:
    load, terms = report.load, report.terms
    yield (
        f"An estimate in {listed.currency} at {listed.name} {listed.region} prices of {listed.as_of}:"
        f" {load.rows:,.0f} rows, {_gib(load.rows_bytes)}, in {load.batches:,.0f} batches;"
        f" {_gib(load.stored_bytes)} stored, {_gib(load.documents_bytes)} of manifests and receipts."
    )
    growth = report.growth
    if growth and growth.rows:
        yield f"Growth: {growth.rows:,.0f} rows, {_gib(growth.stored_bytes)} stored, each month."
    share = f", {terms.restore_share:.0%} of it read back once" if terms.restore_share else ""
    yield f"Kept for {_months(terms.months)}{share}."


def _items(found: ClassCost, report: CostReport, listed: PriceList) -> Table:
    shown = _table(found.storage_class, listed.currency, title=None)
    shown.add_row("write once (requests, read-back)", _money(found.write))
    shown.add_row("storage, per month", _money(found.month))
    shown.add_row(f"storage, {_months(report.terms.months)}", _money(found.month * report.terms.months))
    if report.terms.restore_share:
        shown.add_row("read back once", _money(found.read))
    if found.early:
        shown.add_row(f"deleted before {found.least_days} days", _money(found.early))
    if report.growth:
        shown.add_row(f"growth, {_months(report.terms.months)}", _money(found.growth))
    shown.add_section()
    shown.add_row(f"all, {_months(report.terms.months)}", _money(found.total))
    shown.add_row(f"on the database's disk, {_months(report.terms.months)}", _money(report.disk_total))
    return shown


def _comparison(report: CostReport) -> Table:
    shown = _table("class", "write", "a month", "read", "early", "total", "vs STANDARD", "vs disk", title=None)
    shown.columns[0].no_wrap = True
    for found in sorted(report.classes, key=lambda one: one.total):
        shown.add_row(
            found.storage_class,
            _money(found.write),
            _money(found.month),
            _money(found.read),
            _money(found.early),
            _money(found.total),
            "" if found.storage_class == "STANDARD" else _after(found.pays_after_standard),
            _after(found.pays_after_disk),
        )
    return shown


def _verdict(report: CostReport, listed: PriceList, *, compare: bool) -> Iterator[str]:
    disk = f"{_money(report.disk_month)} a month ({_gib(report.disk_bytes)} at {listed.disk_gib_month:g})"
    if compare:
        best = report.cheapest
        yield (
            f"Least for {_months(report.terms.months)}: {best.storage_class}, {_money(best.total)}."
            f" On the database's disk: {disk}, {_money(report.disk_total)} in all."
        )
        yield "vs: the months after which a class has cost less than STANDARD, or than staying on that disk."
        return
    found = report.classes[0]
    yield f"On the database's disk: {disk}. {found.storage_class} pays {_in_words(found.pays_after_disk)}."


def _table(*columns: str, title: str | None) -> Table:
    shown = Table(*columns, title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in shown.columns[1:]:
        column.justify = "right"
    return shown


def _in_words(months: float | None) -> str:
    if months is None:
        return "never"
    return "within days" if months < 0.1 else f"after {_months(months)}"


def _after(months: float | None) -> str:
    return "never" if months is None else f"{months:,.1f}"


def _months(months: float) -> str:
    return "1 month" if months == 1 else f"{months:,.1f} months".replace(".0 ", " ")


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 1 or amount == 0 else f"{amount:,.4f}"


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / BYTES_PER_GIB:,.2f} GiB" if size_bytes >= BYTES_PER_GIB / 100 else size(round(size_bytes))
