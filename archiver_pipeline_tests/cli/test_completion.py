"""What a shell gets when somebody presses Tab."""

import pytest
from typer.testing import CliRunner

from archiver_pipeline.cli.main import app

CONFIG = """
s3: {bucket: b, access_key_id: "${NOT_SET}"}
databases:
  - {name: shop, host: h, user: u, password_env: NOT_SET, tables: [{name: audit_log}, {name: orders, schema: sales}]}
  - {name: crm, id: customers, tables: [{name: audit_trail}, {name: 7}]}
  - nonsense
"""
SHELLS = {
    "bash": lambda line: {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)},
    "zsh": lambda line: {"_TYPER_COMPLETE_ARGS": line},
    "fish": lambda line: {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


@pytest.fixture
def complete(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARCHIVER_CONFIG", raising=False)
    (tmp_path / "archiver.yaml").write_text(CONFIG)

    def completed(line, shell="bash"):
        environment = {"_ARCHIVER_COMPLETE": f"complete_{shell}"} | SHELLS[shell](line)
        return CliRunner().invoke(app, env=environment, prog_name="archiver").output

    return completed


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_and_options(complete, shell):
    assert "restore" in complete("archiver rest", shell)
    assert "--dry-run" in complete("archiver run --dry", shell)


@pytest.mark.parametrize("shell", SHELLS)
def test_tables_of_the_configuration_although_its_secrets_are_not_set(complete, shell):
    found = complete("archiver run --table audit", shell)
    assert "audit_log" in found
    assert "audit_trail" in found
    assert "orders" not in found


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("archiver run --database ", ["customers", "shop"]),
        ("archiver run --table ", ["7", "audit_log", "audit_trail", "orders"]),
        ("archiver run --database customers --table ", ["7", "audit_trail"]),
        ("archiver run --table sales.", ["sales.orders"]),
        ("archiver list --table public.audit_l", ["public.audit_log"]),
        ("archiver run --database none --table ", []),
        ("archiver run --config elsewhere.yaml --table ", []),
        ("archiver run --config broken.yaml --table ", []),
    ],
)
def test_names(complete, tmp_path, line, names):
    (tmp_path / "broken.yaml").write_text("databases: {")
    assert complete(line).split() == names


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_is_shown_a_script_of_its_own(shell):
    shown = CliRunner().invoke(app, ["--show-completion", shell], prog_name="archiver")
    assert "_ARCHIVER_COMPLETE" in shown.output or "_archiver_completion" in shown.output
