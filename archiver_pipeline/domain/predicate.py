"""Which rows are meant, as a condition on their columns: the small language that `codec.predicates` reads."""

from dataclasses import dataclass
from enum import StrEnum


class Operator(StrEnum):
    """How a column is compared with a literal."""

    equal = "="
    unequal = "<>"
    less = "<"
    less_or_equal = "<="
    greater = ">"
    greater_or_equal = ">="

    @property
    def mirrored(self) -> "Operator":
        """The operator that means the same with its sides exchanged."""
        return _MIRRORED.get(self, self)


_MIRRORED = {
    Operator.less: Operator.greater,
    Operator.less_or_equal: Operator.greater_or_equal,
    Operator.greater: Operator.less,
    Operator.greater_or_equal: Operator.less_or_equal,
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """`column operator literal`. Here and below a literal is its text alone: the column decides its type."""

    column: str
    operator: Operator
    literal: str


@dataclass(frozen=True, slots=True)
class Among:
    """`column IN (literals)`, at least one."""

    column: str
    literals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """`column BETWEEN low AND high`, both inclusive."""

    column: str
    low: str
    high: str


@dataclass(frozen=True, slots=True)
class IsNull:
    """`column IS NULL`."""

    column: str


@dataclass(frozen=True, slots=True)
class Like:
    """`column LIKE pattern`, or ILIKE; a backslash in the pattern takes the next character as it is."""

    column: str
    pattern: str
    ignore_case: bool = False


@dataclass(frozen=True, slots=True)
class IsTrue:
    """A boolean column alone."""

    column: str


@dataclass(frozen=True, slots=True)
class Not:
    """True where its part is false; where that is unknown, so is this."""

    part: "Predicate"


@dataclass(frozen=True, slots=True)
class And:
    """At least two parts, in the order they were written."""

    parts: "tuple[Predicate, ...]"


@dataclass(frozen=True, slots=True)
class Or:
    """At least two parts, in the order they were written."""

    parts: "tuple[Predicate, ...]"


Condition = Comparison | Among | Between | IsNull | Like | IsTrue
"""A predicate about one column."""

Predicate = Condition | Not | And | Or
"""Like SQL's, it is true, false or unknown for a row; a row is meant only when it is true."""


def columns_of(predicate: Predicate) -> set[str]:
    """The names of all columns it asks about, exactly as the catalog spells them."""
    match predicate:
        case Not(part):
            return columns_of(part)
        case And(parts) | Or(parts):
            return set().union(*map(columns_of, parts))
        case _:
            return {predicate.column}
