"""Every reference to a secret that a configuration really uses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from archiver_pipeline.config.document import Location, dotted
from archiver_pipeline.config.models import ArchiverConfig
from archiver_pipeline.secret_sources.reference import parse_reference
from archiver_pipeline.secret_sources.secret import ReferencedSecret


def referenced_secrets(config: ArchiverConfig, base: Path) -> Iterator[tuple[str, ReferencedSecret]]:
    """Path of the key and secret, in the models' order; sections that are not enabled need none of theirs."""
    for location, reference in _references(config, ()):
        yield dotted(location), ReferencedSecret(parse_reference(reference, base))


def _references(node: Any, location: Location) -> Iterator[tuple[Location, str]]:
    if isinstance(node, tuple):
        for index, item in enumerate(node):
            yield from _references(item, (*location, index))
    if not isinstance(node, BaseModel) or not getattr(node, "enabled", True):
        return
    for name in type(node).model_fields:
        value = getattr(node, name)
        if name.endswith("_from") and value is not None:
            yield (*location, name), value
        yield from _references(value, (*location, name))
