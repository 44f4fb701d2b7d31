"""How the columns of an archive differ from those of the table it is restored to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from archiver_pipeline.domain.manifest import ManifestColumn


@dataclass(frozen=True, slots=True)
class Retyped:
    """A column that has another type now; both as PostgreSQL's `format_type` writes them."""

    name: str
    archived_type: str
    target_type: str


@dataclass(frozen=True, slots=True)
class Drift:
    """What came, went and changed since. `gone` are archived columns without a home, as (name, type)."""

    gone: tuple[tuple[str, str], ...]
    new: tuple[tuple[str, str], ...]
    retyped: tuple[Retyped, ...]

    def __bool__(self) -> bool:
        return bool(self.gone or self.new or self.retyped)

    def lines(self) -> list[str]:
        """The diff for people: `-` only archived, `+` only in the target, `~` another type."""
        lines = [f"- {name} {kind}{self._perhaps_renamed(kind)}" for name, kind in self.gone]
        lines += [f"+ {name} {kind}" for name, kind in self.new]
        lines += [f"~ {one.name} {one.archived_type} → {one.target_type}" for one in self.retyped]
        return lines

    def __str__(self) -> str:
        return "; ".join(self.lines())

    def _perhaps_renamed(self, kind: str) -> str:
        same = [name for name, new_kind in self.new if new_kind == kind]
        return f" (renamed to {same[0]}?)" if len(same) == 1 else ""


def compare_columns(archived: Sequence[ManifestColumn], target: Mapping[str, str]) -> Drift:
    """The drift between archived columns and the target's, given as name → type. Their order does not matter."""
    types = {column.name: column.type for column in archived}
    return Drift(
        gone=tuple((name, kind) for name, kind in types.items() if name not in target),
        new=tuple((name, kind) for name, kind in target.items() if name not in types),
        retyped=tuple(
            Retyped(name, kind, target[name]) for name, kind in types.items() if name in target and target[name] != kind
        ),
    )
