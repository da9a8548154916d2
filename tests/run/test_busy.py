"""Rounds and words where the baseline's seconds drift within a session; the seconds are given, not timed."""

import re
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.interfaces import Factory, Measurement, TargetSpec
from optlang.measure.latency import Repetitions
from optlang.run.busy import LONGEST, RECENT, Busy
from optlang.run.history import History
from optlang.run.job import Workload
from optlang.run.job_builder import JobBuilder
from optlang.search.ablation import baseline_recipe
from optlang.space.space import Space

HERE = TargetSpec("here")
EFFORT = Repetitions()


def timed(baseline: float | None, target: str = "here") -> list[Measurement]:
    """A trial's measurements of which the baseline's seconds count, and no others."""
    return [
        Measurement("latency.p50", 1.0, "s", 5, 1.0, 1.0, target, baseline=baseline),
        Measurement("latency.p95", 1.0, "s", 5, 1.0, 1.0, target, baseline=99.0),
        Measurement("latency.p50", 1.0, "s", 5, 1.0, 1.0, "elsewhere", baseline=99.0),
    ]


def after(*seconds: float | None) -> Busy:
    busy = Busy()
    for value in seconds:
        busy.add(HERE, timed(value))
    return busy


@pytest.mark.parametrize(("seconds", "times"), [
    ((), 1), ((None,), 1), ((1e-3,), 1), ((1e-3, 1.2e-3), 1), ((1.3e-3, 1e-3), 2), ((1e-3, 1.1e-3, 1.6e-3), 4),
    ((9e-3, *[1e-3] * (RECENT - 1)), 4), ((9e-3, *[1e-3] * RECENT), 1),
])
def test_the_further_the_baseline_drifts_the_more_rounds(seconds: tuple[float | None, ...], times: int) -> None:
    found = after(*seconds).effort(EFFORT, HERE, 2)
    assert found == Repetitions(times * EFFORT.rounds)
    assert (after(*seconds).message() is None) is (times == 1 and (9e-3 not in seconds or len(seconds) > RECENT))


def test_a_target_with_other_threads_is_another_machine() -> None:
    busy = after(1e-3)
    busy.add(TargetSpec("here", threads=4), timed(0.4e-3))
    assert busy.message() is None
    assert busy.effort(EFFORT, TargetSpec("here", threads=4), 2) == EFFORT


def test_it_is_said_once_a_session() -> None:
    busy = after(12.9e-3, 32.2e-3)
    said = busy.message()
    assert said is not None
    assert re.search(r"the baseline took 12\.9 ms in one measurement and 32\.2 ms in another", said)
    busy.add(HERE, timed(99.0))
    assert busy.message() is None


def test_more_rounds_take_no_more_than_a_minute_and_never_fewer_than_asked_for() -> None:
    slow = after(0.2, 0.4)
    # Two take turns in rounds of 20 calls of 0.2 s: 8 s a round.
    assert slow.effort(EFFORT, HERE, 2).rounds == int(LONGEST / 8) == 7
    assert after(2.0, 4.0).effort(EFFORT, HERE, 2) == EFFORT
    front = Repetitions(rounds=10, processes=3, seconds=0.05)
    assert after(1e-3, 2e-3).effort(front, HERE, 11).rounds == int(LONGEST / (11 * 3 * 0.05)) == 36


def test_a_trials_job_takes_the_rounds_that_the_machine_needs(tmp_path: Path) -> None:
    study = tmp_path / "small.opt"
    study.write_text(
        "optlang 1\n\nstudy small {\n  model net = zoo.digits_cnn(width = 4)\n  data seen = zoo.digits(seed = 0)\n"
        "  target here { runtime = onnxruntime }\n  steps { finetune { epochs in 1 .. 3 } }\n  minimize latency\n"
        "  search { trials = 2 }\n  measure { rounds = 3; front_rounds = 4 }\n}\n"
    )
    plan = load(study).plan
    assert plan is not None
    factory = Factory("a:b", {})
    workload = Workload(factory, factory, tmp_path, tmp_path, "cpu")
    busy = Busy()
    jobs = JobBuilder(plan, workload, History(plan, Space(plan), (), tmp_path), "r1", busy)
    recipe = baseline_recipe(plan)
    (place,) = recipe.places
    assert jobs.trial(0, recipe, "baseline").targets[0].effort.rounds == 3
    busy.add(place.target, timed(1e-3))
    busy.add(place.target, timed(2e-3))
    assert jobs.trial(1, recipe, "baseline").targets[0].effort.rounds == 12
    assert jobs.front_effort(place.target, 2).rounds == 16
