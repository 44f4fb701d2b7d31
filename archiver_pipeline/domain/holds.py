"""Legal holds: rows that nobody may delete, whatever their age, until somebody who may lifts the hold."""

from dataclasses import dataclass

_REASONS_SHOWN = 3
_SHOWN_CHARACTERS = 300


def shown(text: str) -> str:
    """What somebody wrote into a hold, fit for a line of a log or terminal: short, and nothing but printable text."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable if len(printable) <= _SHOWN_CHARACTERS else f"{printable[: _SHOWN_CHARACTERS - 3]}..."


@dataclass(frozen=True, slots=True)
class LegalHold:
    """One hold on one table, in force.

    `source` says where it was read. `predicate` is the text of a row predicate, None for the whole table. `defect` says
    why the predicate can't be used; then the hold covers the whole table. Times are as the source writes them, in UTC
    where they are times; empty when the source gives none, and such a hold was always there or never ends.
    """

    source: str
    reason: str
    requestor: str = ""
    starts: str = ""
    ends: str = ""
    predicate: str | None = None
    defect: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it covers every row of the table."""
        return self.predicate is None or bool(self.defect)

    @property
    def scope(self) -> str:
        """What it covers, in words for people. The predicate itself may name a person, so it is not repeated."""
        if self.predicate is None:
            return "the whole table"
        return "the whole table, because its row predicate can't be used" if self.defect else "some rows"

    def __str__(self) -> str:
        by = f", requested by {shown(self.requestor)}" if self.requestor else ""
        return f"legal hold on {self.scope}: {shown(self.reason) or 'no reason given'}{by} ({self.source})"


@dataclass(frozen=True, slots=True)
class Holds:
    """Every hold that is in force on one table, of all sources together. A row is held when any of them covers it."""

    holds: tuple[LegalHold, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether every row is held."""
        return any(hold.is_whole for hold in self.holds)

    @property
    def predicates(self) -> tuple[str, ...]:
        """Row predicates; a row is held when any is true for it. They say nothing when `is_whole`."""
        return tuple(dict.fromkeys(hold.predicate for hold in self.holds if hold.predicate is not None))

    @property
    def reason(self) -> str:
        """All of it in a line for people; empty without a hold."""
        shown = [str(hold) for hold in self.holds[:_REASONS_SHOWN]]
        more = len(self.holds) - len(shown)
        return "; ".join([*shown, *([f"and {more} more holds"] if more else [])])

    def __add__(self, others: "Holds") -> "Holds":
        return Holds(tuple(dict.fromkeys((*self.holds, *others.holds))))

    def __bool__(self) -> bool:
        return bool(self.holds)

    def new_beside(self, known: "Holds") -> "Holds":
        """Those that cover a row which none of `known` is sure to cover."""
        if known.is_whole:
            return Holds()
        predicates = set(known.predicates)
        return Holds(tuple(hold for hold in self.holds if hold.is_whole or hold.predicate not in predicates))


NO_HOLDS = Holds()


def matches_name(pattern: str | None, name: str) -> bool:
    """Whether a hold's schema, table or database is this one. None and `*` mean every one; else names are compared
    exactly, as the catalog spells them."""
    return pattern is None or pattern in ("*", name)
