"""Run benchmarks by name: a table on the screen, the same figures as one flat JSON object."""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

from rich.console import Console

NAMES = {
    "joint": "the learner's step against the same network in plain torch; examples per second",
    "wide": "the wide part against Vowpal Wabbit and River; examples per second, growth, cost by size",
}


def main() -> int:
    """Parse, pin to one core where the system can, run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "name", nargs="?", choices=sorted(NAMES), help="; ".join(f"{n}: {says}" for n, says in NAMES.items())
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: for a first look, not for quoting")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    figures: dict[str, float] = {}
    for name in [given.name] if given.name else sorted(NAMES):
        table, found = importlib.import_module(f"benchmarks.{name}").run(quick=given.quick)
        Console().print(table)
        figures |= found
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
