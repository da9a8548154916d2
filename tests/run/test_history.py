"""What a run knows of its trials, also when it goes on in another process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from optlang.interfaces import Measurement
from optlang.plan.model import Plan
from optlang.run.history import History, TrialRecord
from optlang.run.job import Result
from optlang.search.ablation import ablation_trials, baseline_recipe
from optlang.space.space import Space
from optlang.store.writer import TrialRow

Make = Callable[..., Plan]


def test_a_ladder_trial_outside_the_space_stands_in_no_points_way(plan_of: Make) -> None:
    plan = plan_of("steps { maybe channels { ratio = 30% }; maybe static }", target="target here { runtime = eager }")
    space = Space(plan)
    history = History(plan, space, (), Path("nowhere"))
    measured = Result(measurements=(Measurement("accuracy", 1.0, "", 1, 1.0, 1.0, "here"),))
    history.add(0, baseline_recipe(plan), "baseline", None, None, measured, {})
    rungs = list(ablation_trials(plan, space, {}))
    for number, rung in enumerate(rungs, 1):
        history.add(number, rung.recipe, "ladder", rung.point, rung.alone, measured, {})
    assert {rung.alone for rung in rungs if rung.point is None} == {"prune.channels"}
    # A later session reads only points, and must draw what this one draws.
    effects = {rung.recipe.effect for rung in rungs if rung.point is not None}
    assert history.known == {baseline_recipe(plan).effect} | effects
    assert all(history.has(rung) for rung in rungs)


def accuracy(value: float) -> Result:
    return Result(measurements=(Measurement("accuracy", value, "", 1, value, value, "here"),))


def stored(record: TrialRecord) -> TrialRow:
    """The trial as a later session reads it."""
    return TrialRow(
        run="r", trial=record.number, state=record.state, reason=record.reason, error=None, origin=record.origin,
        in_space=record.point is not None, alone=record.alone, target="here", runtime=record.runtime,
        point=json.loads(json.dumps(dict(record.point or {}))),
        steps=tuple(json.loads(json.dumps([asdict(step) for step in record.steps]))),
        measurements=record.measurements, passes=1, artifacts=(), notes={}, violations=(), sampler_state=None,
        started=None, finished=None, seconds=None,
    )


def test_what_is_hopeless_is_known_in_a_later_session_too(plan_of: Make) -> None:
    plan = plan_of("""
        steps { channels { ratio = 30%; keep = ["head"] }; precision in { none; static { samples in [64, 256] } } }
        require accuracy >= baseline.accuracy - 4%
    """, target="target here { runtime = onnxruntime }", goals="maximize accuracy")
    space = Space(plan)
    history = History(plan, space, (), Path("nowhere"))
    records = [history.add(0, baseline_recipe(plan), "baseline", None, None, accuracy(0.98), {})]
    for number, rung in enumerate(ablation_trials(plan, space, {}), 1):
        # Neither technique can stand alone in this space: what they do alone was measured all the same.
        assert rung.point is None
        result = accuracy({"none": 0.98, "quant.static": 0.6, "prune.channels": 0.5}[rung.alone])
        records.append(history.add(number, rung.recipe, "ladder", rung.point, rung.alone, result, {}))
    found = history.hopeless()
    assert [(item.technique.name, item.runtime, item.epochs) for item in found] == [
        ("quant.static", "onnxruntime", None), ("prune.channels", "onnxruntime", 3),
    ]
    assert "accuracy 60.0 % is below the limit 94.0 %" in found[0].text
    assert History(plan, space, map(stored, records), Path("nowhere")).hopeless() == found


def timed(accurate: float, times: float, low: float, high: float) -> Result:
    """An accuracy, and a latency that is `times` as fast as the baseline's."""
    second = 0.001
    latency = Measurement(
        "latency.p50", second / times, "s", 1, second / high, second / low, "here", times, low, high, second
    )
    return replace(accuracy(accurate), measurements=(*accuracy(accurate).measurements, latency))


def test_requirements_are_judged_by_the_newest_measurement(plan_of: Make) -> None:
    plan = plan_of(
        "steps { maybe half }\nrequire latency <= 0.5 * baseline.latency",
        target="target here { runtime = onnxruntime }", goals="maximize accuracy\nminimize latency",
    )
    history = History(plan, Space(plan), (), Path("nowhere"))
    history.add(0, baseline_recipe(plan), "baseline", None, None, timed(0.9, 1.0, 1.0, 1.0), {})
    bare, half = list(ablation_trials(plan, Space(plan), {}))
    meets = history.add(1, bare.recipe, "ladder", bare.point, bare.alone, timed(0.9, 2.1, 1.9, 2.3), {})
    close = history.add(2, half.recipe, "ladder", half.point, half.alone, timed(0.95, 1.9, 1.7, 2.1), {})
    assert (meets.state, close.state) == ("complete", "infeasible")
    assert history.front() == [0, 1]
    assert history.near(4) == [2], "within its interval it meets the requirement"

    again = history.measured_again(1, timed(0.9, 1.8, 1.7, 1.9).measurements)
    assert again.state == "infeasible"
    assert again.reason is not None
    assert "latency" in again.reason
    assert again.violations
    assert history.front() == [0]
    assert history.measured_again(2, timed(0.95, 2.2, 2.1, 2.3).measurements).state == "complete"
    assert history.front() == [0, 2]
    assert history.near(4) == [], "trial 1 is too slow at the good end of its interval too"
    assert history.met
