"""pydantic's adapters, made once per type: making one costs more than most of what they are used for."""

from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

Value = TypeVar("Value")

_adapters: dict[type, TypeAdapter[Any]] = {}


def adapter_of(kind: type[Value]) -> TypeAdapter[Value]:
    """The adapter that validates and writes values of `kind`. Safe for many threads: at worst one is made twice."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return cast(TypeAdapter[Value], _adapters[kind])
