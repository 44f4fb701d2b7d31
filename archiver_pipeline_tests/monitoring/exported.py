"""Everything that the exporter can export: names as scraped, each with its labels."""

from archiver_pipeline.monitoring.metrics import COUNTERS, DURATION, GAUGES, PREFIX, TABLE

EXPORTED: dict[str, tuple[str, ...]] = {
    **{f"{PREFIX}{counter.name}_total": counter.labels for counter in COUNTERS},
    **{f"{PREFIX}{gauge.name}": gauge.labels for gauge in GAUGES},
    **{f"{PREFIX}{DURATION}_{part}": (*TABLE, "phase") for part in ("sum", "count")},
    f"{PREFIX}build_info": ("software", "version"),
}
