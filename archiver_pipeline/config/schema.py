"""JSON Schema of the configuration file, for completion and checking in editors."""

from __future__ import annotations

import json
from typing import Any

from archiver_pipeline.config.models import ArchiverConfig

_VARIABLE = {"type": "string", "pattern": r"^\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}$"}
_NOT_TEXT = {"integer", "number", "boolean"}
# Bounds outside a validator keep pydantic's own names, which JSON Schema does not know.
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def json_schema() -> dict[str, Any]:
    """The schema with YAML spellings. Numbers, booleans and closed sets also accept `${VAR}`."""
    schema: dict[str, Any] = _with_variables(ArchiverConfig.model_json_schema(by_alias=True))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def json_schema_text() -> str:
    """The schema as it is committed in docs/archiver.schema.json."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _with_variables(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_variables(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {_BOUNDS.get(key, key): value for key, value in node.items()}
    if "enum" in node or node.get("type") in _NOT_TEXT:
        outer = {key: node[key] for key in ("title", "description", "default") if key in node}
        inner = {key: value for key, value in node.items() if key not in outer}
        return outer | {"anyOf": [inner, dict(_VARIABLE)]}
    return {key: value if key == "default" else _with_variables(value) for key, value in node.items()}
