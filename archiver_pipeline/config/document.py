"""YAML text to plain values, with the line of every key and all problems of form.

Never raises a driver's exception: what PyYAML refuses becomes a ConfigError that names line and column and
quotes nothing of the file, because the quoted part may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from archiver_pipeline.config.substitution import Substituted, expand
from archiver_pipeline.errors import ConfigError, ConfigProblem

MAX_DOCUMENT_BYTES = 5 * 1024 * 1024
MAX_NODES = 100_000
MAX_DEPTH = 50

Location = tuple[str | int, ...]

_MERGE_TAG = "tag:yaml.org,2002:merge"
_STRING_TAG = "tag:yaml.org,2002:str"
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp"))
_UNBUILDABLE = (ValueError, LookupError, AttributeError, OverflowError, yaml.YAMLError)


@dataclass(frozen=True)
class Document:
    """`data` is what the file says after substitution; `lines` maps each location to its line, from 1."""

    data: dict[str, Any]
    lines: Mapping[Location, int]
    problems: tuple[ConfigProblem, ...]

    def problem(self, location: Location, message: str, hint: str | None = None) -> ConfigProblem:
        """A problem at a location; a key the file does not have gets the line of what is around it."""
        return ConfigProblem(dotted(location), message, hint, nearest_line(self.lines, location))


def dotted(location: Location) -> str:
    """`("databases", 0, "tables")` as `databases[0].tables`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def nearest_line(lines: Mapping[Location, int], location: Location) -> int | None:
    """The line of the location or of the nearest ancestor that has one."""
    ancestors = (location[:length] for length in range(len(location), 0, -1))
    return next((lines[place] for place in ancestors if place in lines), None)


def read_document(content: bytes, environ: Mapping[str, str]) -> Document:
    """Parses one YAML document and substitutes variables. Problems of single places are collected in the
    result; raises ConfigError where nothing can be made of the file at all."""
    root = _composed(_text(content))
    reader = _NodeReader(environ)
    data = reader.value(root, ()) if root is not None else None
    if not isinstance(data, dict):
        what = "the file is empty" if data is None else "the top of the file must be a mapping (key: value)"
        raise ConfigError(what, hint="start from archiver.example.yaml")
    return Document(data, reader.lines, tuple(reader.problems))


def plain_scalar(text: str) -> Any:
    """The value of this text as an unquoted YAML scalar; the text itself if YAML can't build one."""
    loader = yaml.SafeLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    try:
        return loader.construct_object(yaml.ScalarNode(tag, text))
    except _UNBUILDABLE:
        return text


class _BoundedLoader(yaml.SafeLoader):
    """Composes nodes, but refuses documents too deep or too large before they cost stack or memory."""

    depth = 0
    composed_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.composed_nodes += 1
        _refuse_excess(self.depth, self.composed_nodes)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _refuse_excess(depth: int, nodes: int) -> None:
    if depth > MAX_DEPTH:
        raise ConfigError(f"the file is nested deeper than {MAX_DEPTH} levels")
    if nodes > MAX_NODES:
        raise ConfigError(f"the file expands to more than {MAX_NODES:,} nodes")


def _text(content: bytes) -> str:
    if len(content) > MAX_DOCUMENT_BYTES:
        raise ConfigError(f"the file is larger than {MAX_DOCUMENT_BYTES // 1024**2} MiB")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"line {line}: the file is not UTF-8 text") from None


def _composed(text: str) -> yaml.Node | None:
    try:
        return _BoundedLoader(text).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"line {line}: a character that YAML does not allow") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax_message(error), hint=_syntax_hint(error)) from None


def _syntax_message(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{place}not valid YAML: {_without_quotes(error.problem or error.context or 'unreadable')}"


def _without_quotes(problem: str) -> str:
    # PyYAML quotes what it tripped over, which for `password: *x9!` is the password. Tokens like ':' and
    # '<block end>' come from its grammar and help.
    return re.sub(r"""(['"])(?!<[a-z ]+>\1)[^'"]{2,}\1""", "(not shown)", problem)


def _syntax_hint(error: yaml.MarkedYAMLError) -> str | None:
    if "alias" in (error.problem or "") or "cannot start any token" in (error.problem or ""):
        return "put values that begin with * & ! % @ ` in quotes"
    return None


class _NodeReader:
    """Walks composed nodes into plain values, expanding aliases within MAX_NODES."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._builder = yaml.SafeLoader("")
        self._nodes = 0
        self.lines: dict[Location, int] = {}
        self.problems: list[ConfigProblem] = []

    def value(self, node: yaml.Node, location: Location) -> Any:
        self._nodes += 1
        _refuse_excess(len(location), self._nodes)
        self.lines.setdefault(location, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*location, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, location)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag != _MERGE_TAG:
                self._entry(result, key_node, value_node, location)
        for key_node, value_node in self._merged(node, location):
            if key_node.value not in result:
                self._entry(result, key_node, value_node, location)
        return result

    def _entry(self, result: dict[str, Any], key_node: yaml.Node, value_node: yaml.Node, location: Location) -> None:
        if key_node.tag != _STRING_TAG:
            self._report(location, "keys must be text", "put the key in quotes", key_node)
            return
        here = (*location, key_node.value)
        if key_node.value in result:
            self._report(here, f"written twice, first on line {self.lines[here]}", None, key_node)
            return
        self.lines[here] = key_node.start_mark.line + 1
        result[key_node.value] = self.value(value_node, here)

    def _merged(self, node: yaml.MappingNode, location: Location) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """Entries that `<<` brings in; keys written in the mapping itself come before them."""
        for key_node, value_node in node.value:
            if key_node.tag != _MERGE_TAG:
                continue
            sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            for source in sources:
                yield from self._merge_source(source, key_node, location)

    def _merge_source(
        self, source: yaml.Node, key_node: yaml.Node, location: Location
    ) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        self._nodes += 1
        _refuse_excess(len(location), self._nodes)
        if not isinstance(source, yaml.MappingNode):
            self._report((*location, "<<"), "must name a mapping", None, key_node)
            return
        yield from (entry for entry in source.value if entry[0].tag != _MERGE_TAG)
        nested = [entry for entry in source.value if entry[0].tag == _MERGE_TAG]
        if nested:
            self._report((*location, "<<"), "merges inside merges are not supported", None, key_node)

    def _scalar(self, node: yaml.Node, location: Location) -> Any:
        if node.tag not in _PLAIN_TAGS:
            self._report(location, "YAML tags are not supported", "put a value that begins with ! in quotes")
            return None
        try:
            value = self._builder.construct_object(node)
        except _UNBUILDABLE:
            self._report(location, "looks like a number, date or boolean, but is none", "put it in quotes")
            return None
        return self._expanded(value, location) if isinstance(value, str) else value

    def _expanded(self, text: str, location: Location) -> Any:
        expansion = expand(text, self._environ)
        for name in expansion.missing:
            hint = f"export {name}, or write ${{{name}:-default}}"
            self._report(location, f"environment variable {name} is not set", hint)
        if expansion.malformed:
            self._report(location, "malformed ${...}", "write ${NAME}, ${NAME:-default}, or $${ for a plain ${")
        if isinstance(expansion.text, Substituted) and not expansion.text:
            return None
        return expansion.text

    def _report(self, location: Location, message: str, hint: str | None, node: yaml.Node | None = None) -> None:
        line = node.start_mark.line + 1 if node else nearest_line(self.lines, location)
        self.problems.append(ConfigProblem(dotted(location), message, hint, line))
