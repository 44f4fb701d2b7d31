"""YAML of any shape ends in values or in a ConfigError that quotes nothing."""

import time
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from archiver_pipeline.config.document import (
    MAX_DOCUMENT_BYTES,
    MAX_NODES,
    dotted,
    plain_scalar,
    read_document,
)
from archiver_pipeline.errors import ConfigError
from archiver_pipeline_tests.config.conftest import MINIMAL, with_table


def refusal(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        read_document(text if isinstance(text, bytes) else text.encode(), {})
    return str(caught.value)


def test_locations_are_dotted_paths():
    assert dotted(("databases", 0, "tables", 2, "retention_days")) == "databases[0].tables[2].retention_days"


def test_every_key_and_entry_has_its_line():
    document = read_document(b"a:\n  b: 1\n\n  c:\n    - x\n    - y\n", {})
    assert document.lines[("a",)] == 1
    assert document.lines[("a", "b")] == 2
    assert document.lines[("a", "c", 1)] == 6


def test_a_duplicate_key_is_a_problem_and_names_both_lines(problems):
    problem = problems(with_table("batch_size: 5\nbatch_size: 6"))["databases[0].tables[0].batch_size"]
    assert (problem.line, problem.message) == (12, "written twice, first on line 11")


def test_keys_must_be_text():
    document = read_document(b"a:\n  1: x\n  [b]: y\n", {})
    assert [(p.path, p.line, p.message) for p in document.problems] == [
        ("a", 2, "keys must be text"),
        ("a", 3, "keys must be text"),
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [1\nb: 2\n", "line 2, column 2"),
        ("a: b: c\n", "line 1, column 5"),
        ("a: 1\n\tb: 2\n", "line 2, column 1"),
        ("a: 'open\n", "line 2, column 1"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1"),
        ("a: \x01\n", "line 1"),
        (b"a: 1\nb: \xff\n", "line 2"),
    ],
)
def test_invalid_yaml_names_the_place(text, place):
    assert refusal(text).startswith(f"{place}: ")


@pytest.mark.parametrize("value", ["*hunter2secret", "%hunter2secret", "@hunter2secret", '"\\hunter2secret"'])
def test_invalid_yaml_shows_nothing_of_a_password(value):
    assert "hunter2" not in refusal(f"password: {value}\n")


def test_an_alias_that_looks_like_a_password_gets_a_hint():
    assert "quotes" in refusal("password: *x9\n")


def test_tags_are_problems_and_show_nothing():
    document = read_document(b"a: !hunter2 x\nb: !!python/object/apply:os.system [x]\n", {})
    assert [(p.path, p.line) for p in document.problems] == [("a", 1)]
    assert document.data["b"] == ["x"]
    assert "hunter2" not in str(document.problems)


@pytest.mark.parametrize("value", ["2020-13-45", "!!int abc", "!!bool maybe", "!!timestamp x", "!!int ''"])
def test_scalars_that_can_not_be_built_are_problems(value):
    document = read_document(f"a: {value}\nb: 1\n".encode(), {})
    assert [(p.path, p.line) for p in document.problems] == [("a", 1)]
    assert document.data["b"] == 1


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "null\n"])
def test_an_empty_file_says_so(text):
    assert "empty" in refusal(text)


@pytest.mark.parametrize("text", ["- a\n", "just text\n"])
def test_the_top_must_be_a_mapping(text):
    assert "mapping" in refusal(text)


def test_a_byte_order_mark_is_no_part_of_the_first_key():
    assert read_document(b"\xef\xbb\xbfa: 1\n", {}).data == {"a": 1}


def test_an_alias_bomb_is_refused_before_it_expands():
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]\n" for i in range(1, 9))
    started = time.monotonic()
    assert f"{MAX_NODES:,} nodes" in refusal(f"l0: &l0 [x]\n{levels}")
    assert time.monotonic() - started < 30


def test_a_merge_bomb_is_refused():
    levels = "".join(f"l{i}: &l{i}\n  <<: [{', '.join([f'*l{i - 1}'] * 500)}]\n" for i in range(1, 300))
    assert "nodes" in refusal(f"l0: &l0 {{a: 1}}\n{levels}")


def test_an_alias_inside_itself_is_refused():
    assert "levels" in refusal("a: &a [*a]\n")


def test_deep_nesting_is_refused_without_a_traceback():
    assert "levels" in refusal("a: " + "[" * 100_000)


def test_a_file_over_the_limit_is_refused():
    assert "5 MiB" in refusal(b"#" * (MAX_DOCUMENT_BYTES + 1))
    assert read_document(b"a: 1\n" + b"#" * (MAX_DOCUMENT_BYTES - 5), {}).data == {"a": 1}


def test_aliases_and_merges_work_and_own_keys_win():
    document = read_document(b"x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\nz: *x\n", {})
    assert document.data == {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}, "z": {"a": 1, "b": 2}}
    assert document.problems == ()


def test_the_first_of_several_merges_wins():
    document = read_document(b"x: &x {a: 1}\ny: &y {a: 2, b: 2}\nz:\n  <<: [*x, *y]\n", {})
    assert document.data["z"] == {"a": 1, "b": 2}


def test_a_merge_of_something_else_is_a_problem():
    document = read_document(b"z:\n  <<: 5\n", {})
    assert [(p.path, p.message) for p in document.problems] == [("z.<<", "must name a mapping")]


@given(st.text(max_size=200))
def test_any_text_ends_in_a_document_or_a_config_error(text):
    try:
        content = text.encode()
    except UnicodeEncodeError:
        return
    with suppress(ConfigError):
        read_document(content, {})


@given(st.text(alphabet="0123456789-:_.xobeEtTzZ nulltrue~", max_size=12))
def test_any_text_has_a_plain_scalar(text):
    plain_scalar(text)


def test_the_values_are_those_of_pyyaml():
    assert read_document(MINIMAL.encode(), {}).data == yaml.safe_load(MINIMAL)
