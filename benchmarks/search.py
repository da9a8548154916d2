"""Measures what the search does with its time, on what was recorded once: seconds to run, the same figures each time.

    .venv/bin/python benchmarks/search.py [stopping] [screening] [halving]

`stopping`: trainings that end by the learning curves of others (search/stopping.py): how many, how many of them
wrongly, and how many epochs that saves.
`screening`: optlang's search with and without screening next to others, on spaces whose every point is known
(search/screening.py): how much of the front each has found after so many seconds.
`halving`: trials whose trainings pause next to trials that are carried out whole, on recorded curves and on a space of
formulas (search/halving.py): how much of the front each has found after so many epochs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "search"))

import halving
import screening
import stopping

PARTS: dict[str, Callable[[], str]] = {
    "stopping": stopping.report, "screening": screening.report, "halving": halving.report,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", choices=[*PARTS, []], help="what to measure; all where none is named")
    for name in parser.parse_args().part or PARTS:
        print(f"{name}\n\n{PARTS[name]()}\n")


if __name__ == "__main__":
    main()
