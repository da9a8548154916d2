"""What optlang costs beyond the techniques and the measuring: per trial, and to check a long study.

    python benchmarks/overhead.py

Prints medians in milliseconds. A trial's overhead is what lies around its task, from one trial's end to the next one's:
drawing the point (the sampler's part is shown apart), handing the task to the warm worker and back, judging the
result, and writing it to the journal and the database. The task itself takes no time: it gives a finished result at
once, made up from the trial's number. The checked study is the steps of studies/digits.opt, again and again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from optlang.analysis.load import load
from optlang.interfaces import Artifact, ArtifactFile, Measurement
from optlang.run.engine import LocalEngine
from optlang.run.events import RunStarted, TrialFinished, TrialStarted
from optlang.run.job import FrontJob, PrepareJob, Result, TestJob, TrialJob
from optlang.run.study import Options, run
from optlang.search.sampler import Sampler

STUDY = Path(__file__).resolve().parent.parent / "studies" / "digits.opt"


def instant(job: Any) -> Any:
    """What a worker does here: a trial is finished at once, all other tasks find nothing wrong."""
    if isinstance(job, TrialJob):
        figures = {
            "accuracy": (0.999 - job.trial % 7 / 1000, "ratio"), "size": (1000.0 * (1 + job.trial % 11), "B"),
            "latency.p50": (1e-5 * (1 + job.trial % 5), "s"), "latency.p95": (2e-5, "s"),
        }
        on = job.targets[0]
        measured = tuple(
            Measurement(name, value, unit, 5, value, value, on.target.name)
            for name, (value, unit) in figures.items()
        )
        on.folder.mkdir(parents=True)
        (on.folder / "model.onnx").write_bytes(bytes(1000))
        file = ArtifactFile("model.onnx", 1000, "0" * 64)
        return Result(
            measurements=measured,
            artifacts={on.target.name: Artifact(on.folder, "onnx", (file,), ("x",), ("y",))},
        )
    if isinstance(job, PrepareJob):
        return ()
    return {} if isinstance(job, FrontJob | TestJob) else None


class InstantEngine(LocalEngine):
    """The real worker process, which is asked for something that takes no time."""

    def submit(self, task: Callable[[Any], Any], job: Any) -> Future[Any]:
        """See `Engine.submit`."""
        # By its module: a worker does not import the program that started it.
        import overhead

        return super().submit(overhead.instant, job)


class Clock:
    """Watches a run, and notes when each searched trial was over."""

    def __init__(self) -> None:
        self.ends: list[float] = []

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
        if trial.origin == "sampler":
            self.ends.append(time.perf_counter())


def trial_overhead(trials: int) -> tuple[float, float]:
    """Median milliseconds from one trial's end to the next one's, and of these the sampler's own."""
    plan = load(STUDY).plan
    assert plan is not None
    asked: list[float] = []
    ask = Sampler.ask

    def timed_ask(sampler: Sampler, number: int) -> Any:
        start = time.perf_counter()
        try:
            return ask(sampler, number)
        finally:
            asked.append(time.perf_counter() - start)

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        engine = InstantEngine(STUDY.parent, Path(folder) / "worker.log")
        Sampler.ask = timed_ask  # type: ignore[method-assign]
        try:
            run(plan, STUDY.read_text(), STUDY, Path(folder) / "x.duckdb", Options(trials=trials), clock, engine)
        finally:
            Sampler.ask = ask  # type: ignore[method-assign]
    between = [later - earlier for earlier, later in zip(clock.ends, clock.ends[1:], strict=False)]
    return 1000 * statistics.median(between), 1000 * statistics.median(asked)


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
    parser.add_argument("--trials", type=int, default=100, help="searched trials to run (default 100)")
    arguments = parser.parse_args()
    whole, sampler = trial_overhead(arguments.trials)
    checked, lines = check_cost(1000)
    print(f"a trial, beyond its task   {whole:7.1f} ms   aim: under 50 ms without the sampler")
    print(f"  of it the sampler        {sampler:7.1f} ms")
    print(f"  the rest                 {whole - sampler:7.1f} ms")
    print(f"check of {lines} lines       {checked:7.1f} ms   aim: under 200 ms for 1,000 lines")
    if "torch" in sys.modules:
        print("torch was imported by the command's own process: that is a fault")


if __name__ == "__main__":
    main()
