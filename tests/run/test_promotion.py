"""Searches with trainings that pause, on an engine whose trials are made up: which go on, and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from optlang.interfaces import Artifact, Measurement
from optlang.plan.model import Plan
from optlang.run.budget import Budget
from optlang.run.curves import Epoch
from optlang.run.events import RunStarted, TrialFinished, TrialStarted
from optlang.run.job import BASELINE, Failure, Paused, Prepared, PrepareJob, Result, StepRun, TrialJob, UntrainedJob
from optlang.run.stop import InterruptedRun
from optlang.run.study import Options, run
from optlang.store.reader import query
from tests.command_line import optlang

Make = Callable[..., Plan]

STEPS = "steps { cut = channels { ratio in 10% .. 60% step 1% }; back = finetune { epochs = 9 } }"
WHEN = "2026-01-01T00:00:00"
GOALS = "minimize size\nmaximize accuracy"


@dataclass
class MadeUp:
    """An engine whose trials are formulas: what is cut more is smaller, and learns less and slower."""

    jobs: list[TrialJob] = field(default_factory=list)
    dies: Callable[[TrialJob], bool] = lambda _: False
    error: type[BaseException] = KeyboardInterrupt
    """What a job that `dies` raises."""
    ahead: int = 0
    """How many epochs the cache's checkpoints have more than was asked for."""
    scored: bool = True
    stops: Callable[[TrialJob], bool] = lambda _: False
    """Whether a job fails."""

    lanes: ClassVar[int] = 1
    apart: ClassVar[bool] = False

    def activities(self, lane: int = 0) -> Iterator[Any]:
        return iter(())

    def log_tail(self, lane: int = 0) -> str:
        return ""

    def submit(self, task: Callable[[Any], Any], job: Any, lane: int = 0) -> Future[Any]:
        future: Future[Any] = Future()
        if isinstance(job, PrepareJob):
            future.set_result(Prepared())
        elif isinstance(job, UntrainedJob):
            future.set_result(tuple(item for item in figures(job.trial) if item.metric in job.metrics))
        else:
            assert isinstance(job, TrialJob), job
            if self.dies(job):
                raise self.error
            self.jobs.append(job)
            future.set_result(self._result(job))
        return future

    def expire(self, future: Future[Any], seconds: float) -> None:
        raise AssertionError

    def close(self) -> None:
        pass

    def _result(self, job: TrialJob) -> Result:
        if self.stops(job):
            return Result(failure=Failure("as asked", ""))
        ratio, epochs = settings(job)
        done = epochs if job.pause is None else min(job.pause + self.ahead, epochs)
        over = done == epochs
        steps = [
            StepRun(step.path, step.technique, step.path, True, 0.0, WHEN)
            for step in job.targets[0].steps if step.path.startswith(BASELINE) or not step.settings.get("epochs")
        ]
        if epochs:
            curve = tuple(
                Epoch(number, epochs, 0.1, "accuracy", accuracy(ratio, number), float(number))
                for number in range(1, done + 1)
            )
            cached = False if over else None
            steps.append(StepRun("back", "training.finetune", "k" if over else None, cached, float(done), WHEN, curve))
        if not over:
            scores = {"here": {"accuracy": accuracy(ratio, done)} if self.scored else {}}
            return Result(tuple(steps), paused=Paused(done, "back", scores))
        artifact = Artifact(Path("/nowhere"), "onnx", (), (), ())
        return Result(tuple(steps), figures(job), {"here": artifact})


def settings(job: TrialJob) -> tuple[float, int]:
    """The ratio of a trial, and its epochs; of the baseline 0 and 0."""
    own = [step.settings for step in job.targets[0].steps if not step.path.startswith(BASELINE)]
    ratio = next((item["ratio"] for item in own if "ratio" in item), 0.0)
    assert isinstance(ratio, float)
    return ratio, sum(int(item.get("epochs", 0)) for item in own)  # type: ignore[call-overload]


def accuracy(ratio: float, epochs: int) -> float:
    return 0.99 - ratio ** 2 - 0.3 * ratio / (1 + epochs)


def figures(job: TrialJob) -> tuple[Measurement, ...]:
    ratio, epochs = settings(job)
    values = {"size": 1000.0 * (1 - ratio), "accuracy": accuracy(ratio, epochs), "parameters": 100.0 * (1 - ratio)}
    units = {"size": "B", "accuracy": "ratio", "parameters": "count"}
    return tuple(Measurement(name, value, units[name], 1, value, value, "here") for name, value in values.items())


@dataclass
class Seen:
    """A watcher that keeps what it saw."""

    messages: list[str] = field(default_factory=list)
    started: list[TrialStarted] = field(default_factory=list)
    finished: list[TrialFinished] = field(default_factory=list)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def run_started(self, run: RunStarted) -> None:
        pass

    def trial_started(self, trial: TrialStarted) -> None:
        self.started.append(trial)

    def progress(self, activity: Any) -> None:
        pass

    def trial_finished(self, trial: TrialFinished) -> None:
        self.finished.append(trial)


def searched(
    plan: Plan, folder: Path, engine: MadeUp | None = None, **options: Any
) -> tuple[MadeUp, Seen]:
    engine, seen = engine or MadeUp(), Seen()
    file = folder / "sample.opt"
    run(plan, file.read_text(), file, folder / "x.duckdb", Options(ladder=False, **options), seen, engine)
    return engine, seen


def rows(folder: Path, sql: str) -> tuple[tuple[Any, ...], ...]:
    return query(sql, [folder / "x.duckdb"]).rows


SEARCH = "trials = 9; seed = 3; sampler = random; ladder = false; halving"
STATES = "SELECT state, count(*) FROM results WHERE origin = 'sampler' GROUP BY state ORDER BY state"


def test_of_nine_trials_one_in_three_goes_on(plan_of: Make, tmp_path: Path) -> None:
    plan = plan_of(STEPS, goals=GOALS, search=SEARCH)
    engine, seen = searched(plan, tmp_path)
    pauses = rows(tmp_path, "SELECT rung, count(*), count(*) FILTER (went_on) FROM rungs GROUP BY rung ORDER BY rung")
    first, second = pauses
    assert (first[0], second[0]) == (1, 3)
    assert first[1] == 9
    assert first[2] == second[1] >= 3
    assert second[2] >= 1
    complete = rows(tmp_path, "SELECT trial, seconds, size FROM results WHERE state = 'complete' AND trial > 0")
    assert len(complete) == second[2]
    # What is paused is in no front, has no figures, and says why it stayed.
    assert rows(tmp_path, "SELECT count(*) FROM front WHERE state <> 'complete'") == ((0,),)
    left = rows(tmp_path, "SELECT reason, size FROM results WHERE state = 'paused'")
    assert len(left) == 9 - len(complete)
    assert all("of 8 other trials were better there" in reason or "were better there" in reason for reason, _ in left)
    assert all(size is None for _, size in left)
    # The steps of one that went on twice have the seconds of all three parts, each epoch is kept once.
    number = complete[0][0]
    assert rows(tmp_path, f"SELECT seconds, cached FROM steps WHERE trial = {number} AND path = 'back'") == (
        (1.0 + 3.0 + 9.0, False),
    )
    assert rows(tmp_path, f"SELECT epoch FROM learning WHERE trial = {number} ORDER BY epoch") == tuple(
        (epoch,) for epoch in range(1, 10)
    )
    assert [item.resumed for item in seen.started if item.number == number] == [None, 1, 3]
    assert [item.state for item in seen.finished if item.number == number] == ["paused", "paused", "complete"]
    assert [job.pause for job in engine.jobs if job.trial == number] == [1, 3, None]
    assert all(job.judged == ("accuracy",) for job in engine.jobs if job.trial)


def test_a_run_again_takes_nobody_on_and_more_trials_do(plan_of: Make, tmp_path: Path) -> None:
    plan = plan_of(STEPS, goals=GOALS, search=SEARCH)
    searched(plan, tmp_path)
    before = rows(tmp_path, STATES)
    engine, _ = searched(plan, tmp_path)
    assert not engine.jobs
    assert rows(tmp_path, STATES) == before
    searched(plan, tmp_path, trials=27)
    assert rows(tmp_path, "SELECT count(*) FROM results WHERE origin = 'sampler'") == ((27,),)
    assert dict(rows(tmp_path, STATES))["complete"] > dict(before)["complete"]


def test_without_halving_what_is_left_is_taken_to_the_end(plan_of: Make, tmp_path: Path) -> None:
    searched(plan_of(STEPS, goals=GOALS, search=SEARCH), tmp_path)
    plan = plan_of(STEPS, goals=GOALS, search=SEARCH.replace("; halving", ""))
    engine, _ = searched(plan, tmp_path)
    assert all(job.pause is None for job in engine.jobs)
    assert rows(tmp_path, STATES) == (("complete", 9),)
    assert rows(tmp_path, "SELECT count(DISTINCT run) FROM runs") == ((1,),)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe { startup = 4 }", "nsga2 { population = 4 }", "qmc"])
def test_a_search_that_is_killed_draws_what_it_would_have(plan_of: Make, tmp_path: Path, sampler: str) -> None:
    plan = plan_of(STEPS, goals=GOALS, search=SEARCH.replace("random", sampler))
    told = "SELECT trial, ratio, state, reason FROM results ORDER BY trial"
    searched(plan, tmp_path)
    expected = rows(tmp_path, told)
    for path in tmp_path.glob("x.duckdb*"):
        path.unlink()
    killed: set[tuple[int, int | None]] = set()

    def dies(job: TrialJob) -> bool:
        """The first time that a trial goes on."""
        part = job.trial, job.pause
        if job.pause in (0, 1) or job.trial == 0 or part in killed:
            return False
        killed.add(part)
        return True

    for _ in range(50):
        try:
            searched(plan, tmp_path, MadeUp(dies=dies))
        except KeyboardInterrupt:
            assert rows(tmp_path, "SELECT count(*) FROM results WHERE state IN ('running', 'failed')") == ((0,),)
            continue
        break
    assert len(killed) >= 4
    assert rows(tmp_path, told) == expected


def test_a_trial_that_went_on_and_was_interrupted_is_paused_as_it_was(plan_of: Make, tmp_path: Path) -> None:
    plan = plan_of(STEPS, goals=GOALS, search=SEARCH)
    engine = MadeUp(dies=lambda job: job.pause == 3, error=InterruptedRun)
    searched(plan, tmp_path, engine)
    told = "SELECT state, reason, seconds FROM results WHERE trial > 0"
    found = rows(tmp_path, told)
    assert {state for state, _, _ in found} == {"paused"}
    assert all(reason == "after epoch 1 of 9" for _, reason, _ in found)
    assert rows(tmp_path, "SELECT why FROM sessions") == (("interrupted",),)
    searched(plan, tmp_path)
    assert dict(rows(tmp_path, STATES))["complete"] >= 1


def test_a_trial_that_fails_when_it_goes_on_has_failed(plan_of: Make, tmp_path: Path) -> None:
    searched(plan_of(STEPS, goals=GOALS, search=SEARCH), tmp_path, MadeUp(stops=lambda job: job.pause == 3))
    failed = rows(tmp_path, "SELECT reason, seconds > 0 FROM results WHERE state = 'failed'")
    assert failed
    assert set(failed) == {("as asked", True)}
    assert rows(tmp_path, "SELECT count(*) FROM rungs WHERE state = 'failed' AND went_on") == ((len(failed),),)


def test_a_checkpoint_that_is_further_counts_at_the_rung_that_it_has_reached(plan_of: Make, tmp_path: Path) -> None:
    searched(plan_of(STEPS, goals=GOALS, search=SEARCH), tmp_path, MadeUp(ahead=3))
    assert set(rows(tmp_path, "SELECT rung, epoch FROM rungs")) == {(3, 4)}


def test_what_cannot_be_scored_is_trained_to_its_end(plan_of: Make, tmp_path: Path) -> None:
    engine, _ = searched(
        plan_of(STEPS, goals=GOALS, search=SEARCH.replace("trials = 9", "trials = 3")), tmp_path, MadeUp(scored=False)
    )
    assert rows(tmp_path, STATES) == (("complete", 3),)
    assert [job.pause for job in engine.jobs if job.trial] == [1, None] * 3


def test_trials_without_a_training_and_those_of_the_ladder_are_carried_out_whole(
    plan_of: Make, tmp_path: Path
) -> None:
    steps = "steps { cut = channels { ratio in 10% .. 60% step 1% }; maybe back = finetune { epochs = 9 } }"
    search = "trials = 6; seed = 3; sampler = random; halving"
    plan = plan_of(steps, goals=GOALS, search=search, target="target here { runtime = onnxruntime }")
    engine, seen = MadeUp(), Seen()
    file = tmp_path / "sample.opt"
    run(plan, file.read_text(), file, tmp_path / "x.duckdb", Options(), seen, engine)
    origins = {item.number: item.origin for item in seen.started}
    for job in engine.jobs:
        if origins[job.trial] != "sampler" or settings(job)[1] == 0:
            assert job.pause is None
    assert {job.pause for job in engine.jobs if origins[job.trial] == "sampler"} >= {None, 1}
    # Those of the ladder that are points of the space stood at the rungs too, and are compared with.
    reasons = rows(tmp_path, "SELECT reason FROM results WHERE state = 'paused'")
    points = {item.number for item in seen.started if item.point}
    trained = sum(origins[job.trial] == "ladder" and job.trial in points for job in engine.jobs)
    paused = rows(tmp_path, "SELECT count(*) FROM rungs WHERE rung = 1")[0][0]
    assert trained == 1
    assert any(f"of {paused + trained - 1} other trials" in reason for (reason,) in reasons)


def test_time_is_kept_for_the_best_of_those_that_are_paused(
    plan_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("optlang.run.scheduler.Budget", partial(Budget, clock=lambda: now[0]))
    real = MadeUp._result

    def takes_time(self: MadeUp, job: TrialJob) -> Result:
        """A second an epoch, and one to build and measure."""
        result = real(self, job)
        had = max((other.pause or 0 for other in self.jobs[:-1] if other.trial == job.trial), default=0)
        now[0] += settings(job)[1] - had + 1 if result.paused is None else result.paused.epochs - had
        steps = [
            replace(step, seconds=float(step.curve[-1].epoch - had)) if step.curve else step for step in result.steps
        ]
        return replace(result, steps=tuple(steps))

    monkeypatch.setattr(MadeUp, "_result", takes_time)
    search = SEARCH.replace("trials = 9", "timeout = 40s")
    searched(plan_of(STEPS, goals=GOALS, search=search), tmp_path)
    assert now[0] <= 41
    counts = dict(rows(tmp_path, STATES))
    assert counts["complete"] >= 1
    assert counts["complete"] + counts["paused"] >= 8, "whole it would have been four"
    assert rows(tmp_path, "SELECT why FROM sessions") == (("timeout",),)


STUDY = """\
optlang 1

study small "trainings that pause" {{
  model net = zoo.digits_cnn(width = 4)
  data seen = zoo.digits()
  target here {{ device = cpu; runtime = onnxruntime }}
  steps {{ recover = train {{ epochs = 4; lr in 1e-4 .. 1e-2 log }} }}
  minimize size
  maximize accuracy
  measure {{ rounds = 2; front_rounds = 2; front_processes = 1; round_seconds = 2ms; round_calls = 5 }}
  search {{ trials = 4; seed = 1; sampler = random; ladder = false; stop_early = false; {halving} }}
}}
"""


@pytest.mark.slow
def test_what_went_on_is_what_it_would_have_been_in_one_go(tmp_path: Path) -> None:
    for name, halving in (("paused", "halving"), ("whole", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "small.opt").write_text(STUDY.format(halving=halving))
        done = optlang(tmp_path / name, "run", "small.opt", "--progress", "plain")
        assert done.returncode == 0, done.stderr
    told = (
        "SELECT trial, r.accuracy, r.size, a.sha256, list(l.loss ORDER BY l.epoch) FROM results r JOIN artifacts a "
        "USING (run, trial) JOIN learning l USING (run, trial) WHERE r.state = 'complete' AND l.step = 'recover' "
        "GROUP BY ALL ORDER BY trial"
    )
    paused, whole = (query(told, [tmp_path / name / "optlang.duckdb"]).rows for name in ("paused", "whole"))
    assert len(whole) == 4
    assert 1 <= len(paused) < 4
    assert set(map(str, paused)) <= set(map(str, whole))
    went_on = query("SELECT DISTINCT trial FROM rungs WHERE went_on", [tmp_path / "paused" / "optlang.duckdb"]).rows
    assert {trial for trial, *_ in paused} <= {trial for (trial,) in went_on}
