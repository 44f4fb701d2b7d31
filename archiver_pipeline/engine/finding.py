"""One line of the preflight."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    ok = "ok"
    warning = "warning"
    failed = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the preflight. `exit_code` is what the command may end with; 0 unless failed."""

    subject: str
    level: Level
    message: str
    hint: str = ""
    exit_code: int = 0
