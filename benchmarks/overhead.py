"""What optlang costs beyond the techniques and the measuring: per trial, and to check a long study.

    python benchmarks/overhead.py [--trials 10 100 1000 5000]

Prints a row for each number of trials that a run has had, in milliseconds. A trial's overhead is what lies around its
task, from one trial's end to the next one's: handing the task to the warm worker and back, judging the result, knowing
what is in the front and how long the rest takes, and writing it to the journal and the database. The task itself takes
no time: it gives a finished result at once, made up from the trial's number, with the steps and learning curves that a
trial has. Medians and means of the last trials of a session (a mean has the writing to the database, every two seconds,
in it), and the seconds of a processor that the run's own process took. The points of these trials are random; what the
sampler and screening take for a point after as many trials is measured apart, since that grows with what they learn
from. The checked study is the steps of studies/digits.opt, again and again.

On two cores (milliseconds; other work ran next to the row of 5,000):

| trials | in the front | median | mean | processor | random | tpe | tpe, screened |
|---|---|---|---|---|---|---|---|
| 10 | 13 | 13.1 | 26.1 | 10.5 | 1 | 5 | 44 |
| 100 | 25 | 14.7 | 18.5 | 7.0 | 1 | 1 | 56 |
| 1,000 | 89 | 16.4 | 18.4 | 7.2 | 3 | 114 | 169 |
| 5,000 | 164 | 24.3 | 27.7 | 11.0 | 1 | 418 | 2088 |

A trial is compared with the members of the front alone; everything else is summed as it comes. TPE's draw grows with
the trials, since Optuna sorts and weighs all of them once for each group of knobs that come and go together. Screening
draws a second point of TPE, and fits a forest to all trials (a Gaussian process to at most 100): it has no other bound,
since after 500 trials it is asked only where a training is at stake, which takes longer. The 1 of `tpe` after 100
trials is a point that was recombined from the front, as four in ten are.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from optlang.analysis.load import load
from optlang.interfaces import Artifact, ArtifactFile, Measurement
from optlang.plan.model import Plan
from optlang.plan.model import Sampler as Named
from optlang.run.curves import Epoch
from optlang.run.draws import Draws
from optlang.run.engine import LocalEngine
from optlang.run.events import RunStarted, TrialFinished, TrialStarted
from optlang.run.history import History
from optlang.run.job import (
    BASELINE,
    FrontJob,
    Prepared,
    PrepareJob,
    Result,
    StepJob,
    StepRun,
    TestJob,
    TrialJob,
    UntrainedJob,
)
from optlang.run.study import Options, run
from optlang.search.sampler import Sampler
from optlang.search.screening import OWN
from optlang.space.space import Space
from optlang.store.writer import Writer

STUDY = Path(__file__).resolve().parent.parent / "studies" / "digits.opt"

LAST = 100
"""The trials at the end of a session that count, at most."""

ASKED = 5
"""Points that are drawn to see what the sampler takes."""


def instant(job: Any) -> Any:
    """What a worker does here: a trial is finished at once, all other tasks find nothing wrong."""
    if isinstance(job, TrialJob):
        on = job.targets[0]
        on.folder.mkdir(parents=True)
        (on.folder / "model.onnx").write_bytes(bytes(1000))
        file = ArtifactFile("model.onnx", 1000, "0" * 64)
        return Result(
            steps=tuple(map(applied, on.steps)), measurements=measured(job.trial, on.target.name),
            artifacts={on.target.name: Artifact(on.folder, "onnx", (file,), ("x",), ("y",))},
        )
    if isinstance(job, UntrainedJob):
        found = measured(job.trial.trial, job.trial.targets[0].target.name)
        return tuple(item for item in found if item.metric in job.metrics)
    if isinstance(job, PrepareJob):
        return Prepared()
    return {} if isinstance(job, FrontJob | TestJob) else None


def measured(trial: int, target: str) -> tuple[Measurement, ...]:
    """The more is cut, the smaller, faster and worse, and each with some luck: many trials are in the front."""
    draw = random.Random(trial)
    cut = draw.random() if trial else 0.0
    latency = 2e-5 * (1 - 0.8 * cut) * draw.uniform(0.9, 1.1)
    accuracy = 0.99 - 0.03 * cut ** 3 - (0.01 * draw.random() if trial else 0.0)
    times = 2e-5 / latency
    return (
        Measurement("accuracy", accuracy, "ratio", 450, accuracy - 0.002, accuracy + 0.002, target),
        Measurement("size", round(80_000 * (1 - 0.9 * cut) * draw.uniform(0.9, 1.1)), "B", 1, 0.0, 0.0, target),
        *(
            Measurement(
                f"latency.{name}", latency, "s", 5, 0.98 * latency, 1.02 * latency, target, times, 0.98 * times,
                1.02 * times, 2e-5,
            )
            for name in ("p50", "p95")
        ),
    )


def applied(step: StepJob) -> StepRun:
    """A step that was carried out: its seconds, and its curve where it trains."""
    epochs = step.settings.get("epochs", 0)
    assert isinstance(epochs, int)
    curve = tuple(Epoch(epoch, epochs, 0.1, "accuracy", 0.9, float(epoch)) for epoch in range(1, epochs + 1))
    began = "2026-01-01T00:00:00+00:00"
    return StepRun(step.path, step.technique, "0" * 64, step.path.startswith(BASELINE), 1.0 + epochs, began, curve)


class InstantEngine(LocalEngine):
    """The real worker process, which is asked for something that takes no time."""

    def submit(self, task: Callable[[Any], Any], job: Any, lane: int = 0) -> Future[Any]:
        """See `Engine.submit`."""
        # By its module: a worker does not import the program that started it.
        import overhead

        return super().submit(overhead.instant, job, lane)


@dataclass(frozen=True)
class Instant:
    """Seconds by the clock, and of this process's processor."""

    clock: float
    processor: float

    def __sub__(self, other: Instant) -> Instant:
        return Instant(self.clock - other.clock, self.processor - other.processor)


def now() -> Instant:
    """Since some time or other."""
    return Instant(time.perf_counter(), time.process_time())


class Clock:
    """Watches a run, and notes when each searched trial was over, drawing points left out of account."""

    def __init__(self) -> None:
        self.ends: list[Instant] = []
        self.drawn = Instant(0.0, 0.0)
        self.front = 0

    def run_started(self, run: RunStarted) -> None:
        """Nothing to note."""

    def message(self, text: str) -> None:
        """Nothing to note."""

    def trial_started(self, trial: TrialStarted) -> None:
        """Nothing to note."""

    def progress(self, activity: Mapping[str, Any]) -> None:
        """Nothing to note."""

    def trial_finished(self, trial: TrialFinished) -> None:
        """Note the time."""
        self.front = len(trial.front)
        if trial.origin == "sampler":
            self.ends.append(now() - self.drawn)


@dataclass(frozen=True)
class Overhead:
    """Milliseconds a trial, without drawing its point: by the clock, and of this process's processor."""

    front: int
    median: float
    mean: float
    processor: float


def carried_out(plan: Plan, folder: Path, trials: int) -> Overhead:
    """A session that brings the run to so many trials."""
    clock, ask = Clock(), Draws.ask

    def timed_ask(draws: Draws) -> Any:
        start = now()
        try:
            return ask(draws)
        finally:
            clock.drawn = now() - (start - clock.drawn)

    engine = InstantEngine(STUDY.parent, folder)
    Draws.ask = timed_ask  # type: ignore[method-assign]
    try:
        run(plan, STUDY.read_text(), STUDY, folder / "x.duckdb", Options(trials=trials), clock, engine)
    finally:
        Draws.ask = ask  # type: ignore[method-assign]
    last = clock.ends[-LAST - 1:]
    spent = [later - earlier for earlier, later in pairwise(last)]
    clocked = [1000 * item.clock for item in spent]
    processor = 1000 * statistics.mean(item.processor for item in spent)
    return Overhead(clock.front, statistics.median(clocked), statistics.mean(clocked), processor)


def drawing(plan: Plan, folder: Path, sampler: str, screening: int) -> float:
    """Median milliseconds that a point takes after the trials that are stored."""
    named = Named.model_validate({"name": sampler})
    plan = plan.model_copy(update={
        "search": plan.search.model_copy(update={"sampler": named, "screening": screening}),
    })
    with Writer(folder / "x.duckdb") as store:
        row = store.runs(plan.study)[-1].run
        history = History(plan, Space(plan), store.trials(row), folder)
        space, known = Space(plan), history.known
        draws = Draws(plan, lambda: Sampler(plan, space, known), store, row, history.observations(), print)
        # One trial in so many is the sampler's own: these are not.
        numbers = (number for number in range(store.next_trial(row), sys.maxsize) if number % OWN)
        store.next_trial = lambda run: next(numbers)  # type: ignore[method-assign]
        return timed(draws.ask, ASKED)


def rows(counts: Iterable[int]) -> Iterable[str]:
    """A line for each number of trials."""
    plan = load(STUDY).plan
    assert plan is not None
    search = plan.search.model_copy(update={
        "sampler": Named.model_validate({"name": "random"}), "timeout": None, "trials": max(counts),
    })
    plan = plan.model_copy(update={"search": search})
    yield "| trials | in the front | median | mean | processor | random | tpe | tpe, screened |"
    yield "|---|---|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in counts:
            found = carried_out(plan, folder, count)
            drawn = [
                drawing(plan, folder, sampler, screening)
                for sampler, screening in (("random", 0), ("tpe", 0), ("tpe", 16))
            ]
            yield (
                f"| {count:,} | {found.front} | {found.median:.1f} | {found.mean:.1f} | {found.processor:.1f} | "
                f"{' | '.join(f'{item:.0f}' for item in drawn)} |"
            )


def check_cost(lines: int) -> tuple[float, int]:
    """Median milliseconds to parse and check a study of about so many lines, and how many it has."""
    head, rest = STUDY.read_text().split("  steps {", 1)
    block, tail = rest.split("\n  }\n", 1)
    tail = "\n".join(line for line in tail.splitlines() if "forbid" not in line and "because" not in line)
    # What stands in a choice can only be taken once: the repeated steps are the ones that may stand again and again.
    repeated = block.split("\n\n")[0]
    count = max(1, (lines - 60) // (repeated.count("\n") + 2))
    steps = "".join(f"\n    part{number} = {{{repeated}\n    }}\n" for number in range(count))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.opt"
        path.write_text(f"{head}  steps {{{steps}  }}\n{tail}")
        loaded = load(path)
        assert loaded.plan is not None, loaded.diagnostics
        return timed(lambda: load(path), 7), path.read_text().count("\n")


def timed(call: Callable[[], object], times: int) -> float:
    """Median milliseconds of a call."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What optlang costs beyond the techniques and the measuring.")
    parser.add_argument(
        "--trials", type=int, nargs="+", default=[10, 100, 1000, 5000], help="after how many searched trials to look",
    )
    arguments = parser.parse_args()
    print("ms a trial without drawing its point (aim: under 50, the same in each row), and ms to draw a point\n")
    for line in rows(sorted(arguments.trials)):
        print(line, flush=True)
    checked, lines = check_cost(1000)
    print(f"\ncheck of {lines} lines {checked:7.1f} ms   aim: under 200 ms for 1,000 lines")
    if "torch" in sys.modules:
        print("torch was imported by the command's own process: that is a fault")


if __name__ == "__main__":
    main()
