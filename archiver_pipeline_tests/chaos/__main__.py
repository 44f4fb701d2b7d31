"""Many cases side by side, and a table of what was tried and lost: `python -m archiver_pipeline_tests.chaos --help`."""

import argparse
import multiprocessing
import sys
import time
from collections import Counter, defaultdict
from contextlib import suppress

from rich.console import Console
from rich.table import Table

from archiver_pipeline_tests.chaos.playing import Played, play_seeds

_AT_ONCE = 20


def _table(played: list[Played]) -> Table:
    groups: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for case, happened, wrong in played:
        groups[case.server, case.fault.value].update(cases=1, happened=happened, wrong=bool(wrong))
    table = Table("server", "fault", "cases", "happened", "rows lost or doubled, or not settled")
    for (server, fault), count in sorted(groups.items()):
        table.add_row(server, fault, *(f"{count[name]:,}" for name in ("cases", "happened", "wrong")))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    console, began = Console(width=120), time.monotonic()
    seeds = range(options.first_seed, options.first_seed + options.cases)
    shares = [list(seeds[first : first + _AT_ONCE]) for first in range(0, len(seeds), _AT_ONCE)]
    played: list[Played] = []
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool, suppress(KeyboardInterrupt):
        for share in pool.imap_unordered(play_seeds, shares):
            played += share
            print(f"{len(played):,} of {len(seeds):,} cases in {time.monotonic() - began:.0f} s", file=sys.stderr)
    console.print(_table(played))
    for case, _, wrong in played:
        if wrong:
            console.print(f"{case}\n    {wrong}", markup=False)
    failures = sum(bool(wrong) for _, _, wrong in played)
    console.print(f"{len(played):,} cases in {time.monotonic() - began:.0f} s, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
