"""What a file may ask for and this version does not do.

A feature whose absence could cost rows or break a promise is refused before a run. One whose absence only
leaves people less informed is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator

from archiver_pipeline.config.models import ArchiverConfig, InheritedSettings
from archiver_pipeline.errors import ConfigProblem


def unbuilt_features(config: ArchiverConfig) -> tuple[ConfigProblem, ...]:
    """Features that load but that this version refuses to run with, in the file's order; empty = may run."""
    return tuple(_holds(config))


def unbuilt_warnings(config: ArchiverConfig) -> tuple[str, ...]:
    """Features that are written but have no effect yet, and without which a run is still safe."""
    asked = {
        "defaults.parallel_databases": (
            config.defaults.parallel_databases,
            "`archiver run` takes one database after the other",
        )
    }
    return tuple(f"{path}: not built yet: {effect}" for path, (wanted, effect) in asked.items() if wanted)


def _levels(config: ArchiverConfig) -> Iterator[tuple[str, InheritedSettings]]:
    yield "defaults", config.defaults
    for i, database in enumerate(config.databases):
        yield f"databases[{i}]", database
        for j, table in enumerate(database.tables):
            yield f"databases[{i}].tables[{j}]", table


def _holds(config: ArchiverConfig) -> Iterator[ConfigProblem]:
    hint = "rows under hold must not be archived: take the table out of the file"
    for i, database in enumerate(config.databases):
        for j, table in enumerate(database.tables):
            if table.legal_hold:
                yield _unbuilt(f"databases[{i}].tables[{j}].legal_hold", "legal holds", hint)
    if config.legal_holds.enabled:
        yield _unbuilt("legal_holds.enabled", "legal holds", "without them nothing may be deleted")


def _unbuilt(path: str, feature: str, hint: str) -> ConfigProblem:
    return ConfigProblem(path, f"not built yet: {feature}", hint)
