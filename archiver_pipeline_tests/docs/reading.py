"""Reading the documentation: its pages, its code blocks, and what they name."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_TESTED = re.compile(r"^<!-- tested: (?P<name>[\w-]+) -->\n```\w*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def fenced(text: str, *kinds: str) -> list[str]:
    """The fenced code blocks of these kinds, in order."""
    return [match["text"] for match in _FENCE.finditer(text) if match["kind"] in kinds]


def runnable_blocks(page: Path) -> dict[str, str]:
    """The code blocks that a comment marks as tested, by the comment's name."""
    return {match["name"]: match["text"] for match in _TESTED.finditer(page.read_text())}


def prose(text: str) -> str:
    """The page without its fenced code blocks."""
    return _FENCE.sub("", text)
