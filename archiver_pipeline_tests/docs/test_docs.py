"""What the pages name exists: files, links, commands, options, configuration keys, dependencies."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

from archiver_pipeline.domain.manifest import (
    Expired,
    ExpiryIntent,
    KeptDocument,
    Manifest,
    ManifestColumn,
    ManifestLeaf,
    Receipt,
    Superseded,
)
from archiver_pipeline.domain.protection import ProtectedRange, Protection
from archiver_pipeline.domain.watermark import RememberedBatch, WatermarkDocument, WatermarkTarget
from archiver_pipeline_tests.cli.commands import COMMANDS, parse
from archiver_pipeline_tests.docs.reading import PAGES, ROOT, fenced, prose
from archiver_pipeline_tests.monitoring.exported import EXPORTED

OWN_FOLDERS = r"(?:archiver_pipeline|archiver_pipeline_tests|benchmarks|deploy|docs|\.ci)"
# First words that `sh` blocks may begin a line with. The first three are checked below; the others need servers, a
# network or time, and are taken as they are.
CHECKED_COMMANDS = {"archiver", "make", "dagster"}
OTHER_COMMANDS = {
    "git",
    "cd",
    "cp",
    "export",
    "pip",
    "python3",
    "aws",
    "sudo",
    "docker",
    "journalctl",
    "psql",
    "systemctl",
}
# Whole lines that are run as they stand, from the root of the repository.
RUN_AS_SHOWN = {"archiver --help", "make", "make help"}
DOCUMENTS = (
    KeptDocument,
    Protection,
    ProtectedRange,
    Manifest,
    ManifestColumn,
    ManifestLeaf,
    Receipt,
    Superseded,
    ExpiryIntent,
    Expired,
    RememberedBatch,
    WatermarkDocument,
    WatermarkTarget,
)
# Where words in code font may come from that look like keys of the configuration: Dagster's settings, our metadata and
# what /health says.
OTHER_SOURCES = (
    "deploy/postgres/roles.sql",
    "dagster.yaml",
    "archiver_pipeline/orchestration/metadata.py",
    "archiver_pipeline/orchestration/ops.py",
    "archiver_pipeline/orchestration/expiring.py",
    "archiver_pipeline/orchestration/watching.py",
    "archiver_pipeline/cli/logs.py",
    "archiver_pipeline/domain/audit.py",
    "archiver_pipeline/cli/run.py",
    "archiver_pipeline/logs/lines.py",
    "archiver_pipeline/logs/listener.py",
    "archiver_pipeline/monitoring/health.py",
)
# And PostgreSQL's words, and names in examples. Numbers and suffixes are not words.
OTHER_WORDS = {
    "format_type",
    "max_standby_streaming_delay",
    "pg_catalog",
    "pg_total_relation_size",
    "pg_prepared_xacts",
    "pg_monitor",
    "pg_stat_activity",
    "pg_stat_replication",
    "pg_stat_ssl",
    "pg_freespacemap",
    "pg_repack",
    "pg_squeeze",
    "repack_trigger",
    "wal_level",
    "pg_upgrade",
    "postgresql_type",
    "row_to_json",
    "search_path",
    "occurred_at",
    "updated_at",
    "expires_at",
    "created_at",
    "ts",
    "audit_logs",
    "public",
    "archiver_pipeline",
    "restore_watermarks",
    "alert_of_dead_runs",
    "daily_alert_after_quiet_hours",
    "daily_alert_digest",
    "slack_sdk",
}
KEY_LIKE = re.compile(
    r"(?!test_|.*\.(?:py|yaml|gz|json)$)(?P<key>[a-z][a-z0-9]*(?:[_.][a-z0-9]+)*)(?P<value>: .*)?", re.ASCII
)
# Blocks that other tests run whole.
RUN_ELSEWHERE = {"archive-format.md"}
# Blocks that a test of their own runs.
_TESTED_ELSEWHERE = re.compile(r"^<!-- tested: [\w-]+ -->\n```.*?^```$", re.MULTILINE | re.DOTALL)
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def slug(heading: str) -> str:
    """The anchor that a heading gets on the common hosts."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(text))


def shell_lines(page) -> list[list[str]]:
    """The commands of the page's `sh` blocks, in words, without comments and continued lines joined;
    programs without their folders."""
    text = _TESTED_ELSEWHERE.sub("", page.read_text())
    blocks = fenced(text, "sh", "bash", "shell", "console")
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [[Path(line[0]).name, *line[1:]] for line in words if line]


def commands_shown(page, program: str) -> list[list[str]]:
    """Calls of a program in `sh` blocks and in code font, in words."""
    shown = [] if page.name in RUN_ELSEWHERE else [words for words in shell_lines(page) if words[0] == program]
    return shown + [shlex.split(span) for span in code_spans(page.read_text()) if span.startswith(f"{program} ")]


@pages
def test_every_relative_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / unquote(path) if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), target


@pages
def test_every_path_of_this_repository_exists(page):
    for path in re.findall(rf"(?<![\w/.]){OWN_FOLDERS}/[\w./-]*\w", page.read_text()):
        assert (ROOT / path).exists(), path


@pages
def test_every_test_that_is_named_exists(page):
    sources = "".join(path.read_text() for path in (ROOT / "archiver_pipeline_tests").rglob("*.py"))
    for name in re.findall(r"`(test_\w+)`", page.read_text()):
        assert f"def {name}(" in sources, name


@pages
def test_every_shell_command_is_of_a_known_kind(page):
    if page.name in RUN_ELSEWHERE:
        return
    known = CHECKED_COMMANDS | OTHER_COMMANDS
    assert not [" ".join(words) for words in shell_lines(page) if words[0] not in known]


@pages
def test_lines_marked_to_run_run(page):
    bin_dir = str(Path(sys.executable).parent)
    for line in {" ".join(words) for words in shell_lines(page)} & RUN_AS_SHOWN:
        environment = os.environ | {"PATH": os.pathsep.join([bin_dir, os.environ["PATH"]])}
        done = subprocess.run(shlex.split(line), check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr}"


@pages
def test_every_archiver_command_parses(page):
    for words in commands_shown(page, "archiver"):
        if words[1] in {"--help", "-h", "--install-completion", "--show-completion"}:
            continue
        parse(words[1:])


@pages
def test_every_make_target_exists(page):
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands_shown(page, "make"):
        assert {word for word in words[1:] if "=" not in word} <= targets, " ".join(words)


@pages
def test_every_dagster_command_exists(page):
    for words in commands_shown(page, "dagster"):
        asked = [Path(sys.executable).parent / "dagster", *words[1:], "--help"]
        done = subprocess.run(asked, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


def keys_of_schema() -> set[str]:
    """Every key that a configuration may have, in any section."""
    schema = json.loads((ROOT / "docs" / "archiver.schema.json").read_text())
    sections = [schema, *schema["$defs"].values()]
    return {key for section in sections for key in section.get("properties", {})}


@pages
def test_every_configuration_key_exists(page):
    """What looks like a key in code font (`snake_case`, `section.key`, `key: value`) is one, or a word listed here."""
    known = keys_of_schema() | OTHER_WORDS | {name for kind in DOCUMENTS for name in kind.__dataclass_fields__}
    known |= set(EXPORTED)
    known |= {word for path in OTHER_SOURCES for word in re.findall(r"\w+", (ROOT / path).read_text())}
    for span in code_spans(page.read_text()):
        found = KEY_LIKE.fullmatch(span)
        if found and (found["value"] or set(span) & set("_.")):
            assert set(found["key"].split(".")) <= known, span


def test_every_command_and_option_is_documented():
    text = "".join(page.read_text() for page in PAGES)
    for name, command in COMMANDS.items():
        assert f"archiver {name}" in text, name
        for option in command.params:
            assert f"`{option.opts[0]}`" in text, f"{name} {option.opts[0]}"


def test_every_dependency_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "docs" / "dependencies.md").read_text()
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["demo"]]:
        name = re.match(r"[\w.-]+", requirement)[0]
        assert re.search(rf"`{re.escape(name)}[`<>=]", text), name


def test_every_explained_dependency_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in project["dependencies"]}
    table = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "dependencies.md").read_text(), re.MULTILINE)
    assert {re.match(r"[\w.-]+", name)[0] for row in table for name in re.findall(r"`([^`]+)`", row)} == names
