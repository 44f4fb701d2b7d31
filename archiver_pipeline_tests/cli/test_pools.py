"""`archiver pools`, and what `archiver check` says of them."""

POOL = "archiver_appdb"


def test_shown_then_set_then_agreed_with(workplace):
    workplace.write(connection_pool_size=14, workers=4)
    found = workplace.run("pools")
    assert (found.code, found.stderr) == (1, "")
    assert POOL in found.stdout
    assert "no limit" in found.stdout
    [line] = [line for line in workplace.run("check").stdout.splitlines() if f"pool {POOL}" in line]
    assert line.startswith("warning")
    assert "archiver pools --set" in line
    found = workplace.run("pools", "--set", "--json")
    assert found.code == 0
    [limit] = found.json
    assert (limit["wanted"], limit["current"], limit["connections_per_run"]) == (2, 2, 7)
