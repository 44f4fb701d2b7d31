"""What a file may ask for and this version does not do.

A feature whose absence could cost rows or break a promise is refused before a run. One whose absence only
leaves people less informed is a warning.
"""

from __future__ import annotations

from archiver_pipeline.config.models import ArchiverConfig
from archiver_pipeline.errors import ConfigProblem


def unbuilt_features(config: ArchiverConfig) -> tuple[ConfigProblem, ...]:
    """Features that load but that this version refuses to run with, in the file's order; empty = may run. None is left:
    this is where the next one goes."""
    del config
    return ()


def unbuilt_warnings(config: ArchiverConfig) -> tuple[str, ...]:
    """Features that are written but have no effect yet, and without which a run is still safe."""
    asked = {
        "defaults.parallel_databases": (
            config.defaults.parallel_databases,
            "`archiver run` takes one database after the other",
        )
    }
    return tuple(f"{path}: not built yet: {effect}" for path, (wanted, effect) in asked.items() if wanted)
