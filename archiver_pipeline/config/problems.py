"""What pydantic refuses, as problems a user can act on: path, line, plain words, nearest right spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from archiver_pipeline.config.document import Document, Location
from archiver_pipeline.config.models import ArchiverConfig
from archiver_pipeline.errors import ConfigProblem

_QUOTE_IT = "put the value in quotes"
_MESSAGES: dict[str, tuple[str, str | None]] = {
    "missing": ("required, but not written", None),
    "string_type": ("must be text", _QUOTE_IT),
    "string_too_short": ("must not be empty", None),
    "path_type": ("must be a path", _QUOTE_IT),
    "too_short": ("must have at least one entry", None),
    "model_type": ("must be a mapping (key: value)", None),
    "model_attributes_type": ("must be a mapping (key: value)", None),
    "dict_type": ("must be a mapping (key: value)", None),
    "tuple_type": ("must be a list", None),
    "finite_number": ("must be a finite number", None),
}
_FAMILIES = (
    ("int_", "must be a whole number"),
    ("float_", "must be a number"),
    ("bool_", "must be true or false"),
    ("date_", "must be a date like 2020-01-01"),
)
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
    "string_too_long": ("of a length of at most", "max_length"),
}


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate spelt most like the word, if any is close."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    matches = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str | None:
    """A hint that names the nearest candidate, or None."""
    match = nearest(word, candidates)
    return f"did you mean {match}?" if match else None


def validation_problems(
    error: ValidationError, document: Document, root: type[BaseModel] = ArchiverConfig
) -> Iterator[ConfigProblem]:
    """One problem per mistake in a file that is a `root`. Reads types and places of errors, and of inputs only the
    names of keys and the words offered for a closed set."""
    details = error.errors(include_url=False)
    # pydantic marks a wrong key of a mapping by a part of the location that no file has.
    locations = [tuple(part for part in detail["loc"] if part != "[key]") for detail in details]
    for detail, location in zip(details, locations, strict=True):
        if not _is_consequence(detail, location, locations):
            message, hint = _explained(detail, location, root)
            yield document.problem(location, message, hint)


def _is_consequence(detail: ErrorDetails, location: Location, others: Sequence[Location]) -> bool:
    # A list whose only entry is wrong also counts as too short; the user needs to hear only the first.
    inside = (other for other in others if len(other) > len(location))
    return detail["type"] == "too_short" and any(other[: len(location)] == location for other in inside)


def _explained(detail: ErrorDetails, location: Location, root: type[BaseModel]) -> tuple[str, str | None]:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown key", _key_hint(location, root)
    if kind == "enum":
        return _enum_words(detail["input"], context)
    if kind == "value_error":
        return str(context["error"]), None
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"must be {words} {context[bound]}", None
    if kind in _MESSAGES:
        return _MESSAGES[kind]
    family = (words for prefix, words in _FAMILIES if kind.startswith(prefix))
    return next(family, "not a valid value"), None


def _enum_words(value: object, context: dict[str, Any]) -> tuple[str, str | None]:
    allowed = re.findall(r"'([^']+)'", str(context.get("expected", "")))
    hint = did_you_mean(value, allowed) if isinstance(value, str) else None
    return f"must be one of {', '.join(allowed)}", hint


def _key_hint(location: Location, root: type[BaseModel]) -> str | None:
    key = str(location[-1])
    keys = keys_of(_model_at(location[:-1], root))
    near = _secret_hint(key, keys) or did_you_mean(key, keys)
    if near:
        return near
    homes = [home for home, model in _sections(root) if key in keys_of(model)]
    if homes:
        return f"{key} belongs under {' or '.join(homes)}"
    return f"known here: {', '.join(sorted(keys))}"


def _secret_hint(key: str, keys: Iterable[str]) -> str | None:
    """For a name that other programs have: `password_file`."""
    wanted = f"{key.removesuffix('_file')}_from"
    return f"write {wanted}: file:<path>" if key.endswith("_file") and wanted in keys else None


def keys_of(model: type[BaseModel]) -> dict[str, Any]:
    """The keys of a mapping as users write them, with the type of each."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a type like `tuple[Table, ...] | None` holds, or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(model_in, get_args(annotation))), None)


def _model_at(location: Location, root: type[BaseModel]) -> type[BaseModel]:
    model = root
    for part in location:
        # Positions in lists and names of classifications are no keys: the model stays the same.
        model = model_in(keys_of(model).get(str(part))) or model
    return model


def _sections(root: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for key, annotation in keys_of(root).items():
        model = model_in(annotation)
        if model:
            yield key, model
    if root is ArchiverConfig:
        yield "databases[].tables", _model_at(("databases", "tables"), root)
