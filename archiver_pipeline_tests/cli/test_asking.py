"""What an answer like `1,3-5` means."""

import pytest

from archiver_pipeline.cli.asking import chosen_numbers


@pytest.mark.parametrize(
    ("answer", "chosen"),
    [
        ("2", [2]),
        ("1,3-5", [1, 3, 4, 5]),
        ("5 1, 1", [1, 5]),
        ("2 - 3", [2, 3]),
        ("all", [1, 2, 3, 4, 5]),
        ("ALL", [1, 2, 3, 4, 5]),
        ("", []),
        ("0", []),
        ("6", []),
        ("4-9", []),
        ("3-1", []),
        ("one", []),
        ("1,x", []),
        ("-1", []),
    ],
)
def test_chosen_numbers(answer, chosen):
    assert chosen_numbers(answer, 5) == chosen
