"""The error tree: exit codes, hints, and the way between processes."""

import pickle

import pytest

from archiver_pipeline import errors
from archiver_pipeline.errors import ArchiverError, ConfigError, ConfigProblem, NetworkError

EXIT_CODES = {
    "ArchiverError": 2,
    "ConfigError": 3,
    "PreflightError": 3,
    "LockHeldError": 4,
    "LockLostError": 2,
    "LockError": 2,
    "PermissionDeniedError": 5,
    "ResourcesError": 6,
    "NetworkError": 7,
    "SourceError": 2,
    "StoreError": 2,
    "AlertError": 7,
    "HoldsError": 2,
    "VerificationError": 2,
    "ManifestError": 2,
}


def test_every_error_has_the_exit_code_that_is_promised():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ArchiverError)]
    assert {kind.__name__: kind.exit_code for kind in kinds} == EXIT_CODES


def test_the_drawn_tree_shows_every_error_with_its_exit_code():
    for name, code in EXIT_CODES.items():
        line = next(line for line in errors.__doc__.splitlines() if f"{name} " in line)
        assert line.split(name)[1].split()[0] == str(code)


def test_only_network_errors_are_transient():
    kinds = [ArchiverError, *ArchiverError.__subclasses__(), *ConfigError.__subclasses__()]
    assert [kind for kind in kinds if kind.transient] == [NetworkError]


def test_the_hint_follows_the_message():
    assert str(ArchiverError("no room", hint="free some")) == "no room — free some"
    assert str(ArchiverError("no room")) == "no room"


def test_a_config_error_lists_every_problem():
    error = ConfigError(
        "2 problems",
        problems=[
            ConfigProblem("s3.bukket", "unknown key", "did you mean bucket?", 3),
            ConfigProblem("a", "bad"),
        ],
    )
    assert str(error).splitlines() == [
        "2 problems",
        "  line 3: s3.bukket: unknown key — did you mean bucket?",
        "  a: bad",
    ]


@pytest.mark.parametrize(
    "error",
    [NetworkError("gone", hint="wait"), ConfigError("bad", problems=[ConfigProblem("a", "b", "c", 4)])],
)
def test_an_error_survives_the_way_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
