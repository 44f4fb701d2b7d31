"""Whether a number is far from what was usual: the median of the past, and a factor."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median


@dataclass(frozen=True, slots=True)
class UsualBounds:
    """Far is more than `factor` times the median, or less than its `factor`th part; with fewer than `least_runs` past
    values nothing is far."""

    factor: float
    least_runs: int


def usual_of(past: Sequence[float], bounds: UsualBounds) -> float | None:
    """The median of the past; None when there is too little of it, or it is zero."""
    return (median(past) or None) if len(past) >= bounds.least_runs else None


def is_far_above(value: float, past: Sequence[float], bounds: UsualBounds) -> bool:
    usual = usual_of(past, bounds)
    return usual is not None and value > usual * bounds.factor


def is_far_below(value: float, past: Sequence[float], bounds: UsualBounds) -> bool:
    usual = usual_of(past, bounds)
    return usual is not None and value < usual / bounds.factor


def has_grown_throughout(past: Sequence[float], bounds: UsualBounds) -> bool:
    """Whether every one of the last `least_runs` values, oldest first, is more than the one before."""
    last = past[-bounds.least_runs :]
    return len(last) == bounds.least_runs and all(a < b for a, b in pairwise(last))
