"""Compares one worker with several: how long the same trials take, and what they are measured to be.

    .venv/bin/python benchmarks/workers.py [STUDY] [--workers 2] [--trials 14] [--keep FOLDER]

The study (the residual one unless another is named) is carried out three times with the same points, which are drawn at
random, so that they depend on nothing: by one worker, by several, and by one again. `search` is the time from the end
of the first trial that was drawn to the end of the last (in the first one the others start). A trial's time and its
ratio by several workers are compared with those by one; that the second run by one worker differs from the first too
says what of that is noise. What trains is the same everywhere, so a difference in accuracy is an error.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
STUDY = HERE.parent / "studies" / "residual.opt"


@dataclass(frozen=True)
class Measured:
    """A searched trial: seconds a call, how many times faster than the baseline next to it, and its accuracy."""

    latency: float
    times: float
    accuracy: float


@dataclass(frozen=True)
class Run:
    """The seconds of the search, those of the whole command's trials, and what the trials were, by their points."""

    search: float
    whole: float
    trials: dict[str, Measured]


def carried_out(study: Path, folder: Path, workers: int, trials: int) -> Run:
    """A run in an empty folder."""
    import duckdb

    folder.mkdir()
    text = re.sub(r"sampler *= *\w+( *\{[^}]*\})?", "sampler = random", study.read_text())
    text = re.sub(r"\btimeout *= *\w+;?", "", text)
    (folder / study.name).write_text(text)
    subprocess.run(
        [
            sys.executable, "-m", "optlang", "run", study.name, "--db", "x.duckdb", "--trials", str(trials),
            "--workers", str(workers), "--progress", "plain",
        ],
        cwd=folder, check=True,
    )
    rows = duckdb.connect(str(folder / "x.duckdb"), read_only=True)
    ends = [row[0] for row in rows.execute(
        "SELECT finished FROM trials WHERE origin = 'sampler' ORDER BY finished").fetchall()]
    begin = rows.execute("SELECT min(started) FROM trials").fetchone()
    assert begin is not None
    # The first measurement of each: later ones are of the front, side by side, when nothing trains any more.
    found = rows.execute(
        "SELECT t.point, m.metric, m.value, m.ratio FROM trials t JOIN measurements m USING (run, trial) "
        "WHERE t.origin = 'sampler' AND m.pass = 0 AND m.metric IN ('latency.p50', 'accuracy')"
    ).fetchall()
    values: dict[str, dict[str, tuple[float, float | None]]] = {}
    for point, metric, value, ratio in found:
        values.setdefault(str(point), {})[metric] = (value, ratio)
    return Run(
        (ends[-1] - ends[0]).total_seconds(), (ends[-1] - begin[0]).total_seconds(),
        {
            point: Measured(item["latency.p50"][0], item["latency.p50"][1] or 1.0, item["accuracy"][0])
            for point, item in values.items() if len(item) == 2
        },
    )


def quotients(one: Run, other: Run, name: str) -> list[float]:
    """Of each trial that both have, how many times larger a figure of it is in the other run."""
    return [
        getattr(other.trials[point], name) / getattr(item, name)
        for point, item in one.trials.items() if point in other.trials
    ]


def off(values: Sequence[float]) -> str:
    """The median of quotients, and how far the worst is from 1."""
    return f"{statistics.median(values):.3f}, at most {100 * max(abs(item - 1) for item in values):.1f} % off"


def main() -> None:
    """Carry out the runs and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", type=Path, default=STUDY)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trials", type=int, default=14)
    parser.add_argument("--keep", type=Path, help="a folder that does not exist yet, for what the runs leave")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as aside:
        folder = arguments.keep or Path(aside) / "runs"
        folder.mkdir(parents=True)
        runs = {
            name: carried_out(arguments.study, folder / name, workers, arguments.trials)
            for name, workers in (("one", 1), ("several", arguments.workers), ("again", 1))
        }
    one, several, again = runs["one"], runs["several"], runs["again"]
    for name, run in runs.items():
        print(f"{name:8} search {run.search:6.1f} s, with the baseline and the ladder {run.whole:6.1f} s")
    print(f"several workers take {several.search / one.search:.2f} of the time of one for the search")
    print(f"{len(quotients(one, several, 'latency'))} trials in both")
    for title, other in (("several", several), ("one worker again", again)):
        seconds, ratios = quotients(one, other, "latency"), quotients(one, other, "times")
        print(f"{title}: seconds a call {off(seconds)}; ratios {off(ratios)}")
        wrong = [value for value in quotients(one, other, "accuracy") if value != 1.0]
        print(f"  accuracy differs in {len(wrong)} trials" + (f", by {off(wrong)}" if wrong else ""))


if __name__ == "__main__":
    main()
