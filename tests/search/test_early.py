"""What decides a trial before its training, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from optlang.interfaces import Measurement
from optlang.plan.expressions import Binary, Const, Expression, MetricRef
from optlang.plan.model import Metric, Plan, Rule
from optlang.search import early, objectives
from tests.store.example_study import METRICS, make_plan

MACS = Metric(name="macs", dimension="count", direction="minimize", task=False)


def exact(metric: str, value: float, unit: str = "count") -> Measurement:
    return Measurement(metric, value, unit, 1, value, value, "laptop")


def timed(seconds: float, ratio: float, around: float = 0.02) -> Measurement:
    low, high = 1 - around, 1 + around
    return Measurement(
        "latency.p50", seconds, "s", 5, seconds * low, seconds * high, "laptop", ratio, ratio * low, ratio * high,
        seconds * ratio,
    )


def compared(left: str, operator: str, right: float) -> Expression:
    return Binary(operator=operator, left=MetricRef(metric=left), right=Const(value=right))  # type: ignore[arg-type]


def plan(*requires: Expression, goals: tuple[tuple[str, str], ...] = (("size", "minimize"),)) -> Plan:
    rules = tuple(Rule(expression=item, text="as required") for item in requires)
    made = make_plan(objectives=goals, metrics=(*METRICS, MACS))
    return made.model_copy(update={"requires": rules})


def decided(
    study: Plan, *measured: Measurement, front: dict[int, tuple[float, ...]] | None = None
) -> early.Verdict | None:
    known = objectives.by_metric(study, map(early.bounded, measured))
    baseline = objectives.by_metric(study, [exact("size", 100e3, "B"), exact("macs", 1000)])
    return early.decided(study, known, baseline, front or {})


def test_a_requirement_on_counts_decides_exactly() -> None:
    study = plan(compared("macs", "<=", 500))
    verdict = decided(study, exact("macs", 501))
    assert verdict is not None
    assert verdict.state == "infeasible"
    assert verdict.reason == "macs 501 is above the limit 500 by 1, which was known before its training"
    (missed,) = verdict.violations
    assert (missed.text, missed.by) == ("as required", pytest.approx(1 / 500))
    assert decided(study, exact("macs", 500)) is None
    assert decided(study, exact("size", 1e9, "B")) is None, "what was not measured decides nothing"


def test_a_size_decides_beyond_its_margin_only() -> None:
    share = Binary(operator="*", left=Const(value=0.5), right=MetricRef(metric="size", baseline=True))
    study = plan(Binary(operator="<=", left=MetricRef(metric="size"), right=share))
    assert decided(study, exact("size", 53e3, "B")) is None
    verdict = decided(study, exact("size", 55e3, "B"))
    assert verdict is not None
    assert "size 55.0 kB is above the limit 50.0 kB (0.5 * baseline.size) by 5.0" in verdict.reason


def test_a_latency_decides_only_by_far() -> None:
    study = plan(compared("latency.p50", "<=", 1e-3))
    assert decided(study, timed(1.2e-3, 1.0)) is None
    assert decided(study, timed(1.5e-3, 1.0, around=0.1)) is None, "its interval is wide"
    assert decided(study, timed(1.5e-3, 1.0)) is not None


def test_only_the_sides_that_are_known_decide() -> None:
    small, good = compared("macs", "<=", 500), compared("accuracy", ">=", 0.9)
    both = Binary(operator="and", left=small, right=good)
    verdict = decided(plan(both), exact("macs", 900))
    assert verdict is not None
    assert "accuracy" not in verdict.reason
    assert decided(plan(Binary(operator="or", left=small, right=good)), exact("macs", 900)) is None
    assert early.wanted(plan(both), {}) == {"macs"}
    assert early.wanted(plan(good), {}) == frozenset()


GOALS = (("latency.p50", "minimize"), ("size", "minimize"), ("accuracy", "maximize"))


def test_a_trial_that_is_beaten_whatever_its_training_gives_is_stopped() -> None:
    study = plan(goals=GOALS)
    measured = timed(1e-3, 2.0), exact("size", 50e3, "B")
    # Four times as fast, smaller, and all answers right: nothing that a training gives is better.
    verdict = decided(study, *measured, front={7: (1 / 4, 40e3, -1.0)})
    assert verdict is not None
    assert verdict.state == "stopped"
    assert verdict.reason == (
        "trial 7 beats it, whatever its training gives: latency ×4.0 against at most ×2.4, size 40.0 kB against at "
        "least 46.5 kB, accuracy 100.0 % against at most 100.0 %"
    )
    for losses in ((1 / 4, 40e3, -0.999), (1 / 2.1, 40e3, -1.0), (1 / 4, 48e3, -1.0)):
        assert decided(study, *measured, front={7: losses}) is None
    assert decided(study, *measured) is None
    assert decided(study, measured[1], front={7: (1 / 4, 40e3, -1.0)}) is None, "its latency is not known"
    assert decided(study, replace(measured[0], ratio=None), measured[1], front={7: (0.01, 1.0, -1.0)}) is None
    assert early.wanted(study, {7: (9.0, 9e9, -1.0)}) == {"latency.p50", "size"}
    assert early.wanted(study, {7: (0.1, 1.0, -0.99)}) == frozenset()


def test_a_goal_without_a_bound_lets_the_training_decide() -> None:
    study = plan(goals=(("size", "minimize"), ("loss", "minimize")))
    assert decided(study, exact("size", 50e3, "B"), front={7: (1.0, 0.0)}) is None
    assert early.wanted(study, {7: (1.0, 0.0)}) == frozenset()


# ---- in a training


def in_training(
    study: Plan, best: float, *measured: Measurement, front: dict[int, tuple[float, ...]] | None = None
) -> early.Verdict | None:
    forecast = Measurement("accuracy", best, "ratio", 1, 0.0, best, "laptop")
    known = objectives.by_metric(study, [*map(early.bounded, measured), forecast])
    baseline = objectives.by_metric(study, [exact("size", 100e3, "B"), exact("accuracy", 0.98, "ratio")])
    return early.unpromising(study, known, baseline, front or {}, "after epoch 2 of 8 of fit")


TWO_GOALS = (("size", "minimize"), ("accuracy", "maximize"))


def test_a_requirement_that_the_forecast_misses_stops_a_training() -> None:
    share = Binary(operator="-", left=MetricRef(metric="accuracy", baseline=True), right=Const(value=0.02))
    study = plan(Binary(operator=">=", left=MetricRef(metric="accuracy"), right=share), goals=TWO_GOALS)
    assert in_training(study, 0.96) is None
    verdict = in_training(study, 0.95)
    assert verdict is not None
    assert verdict.state == "stopped"
    assert verdict.reason == (
        "after epoch 2 of 8 of fit; even so accuracy 95.0 % is below the limit 96.0 % (baseline.accuracy - 2%) by 1.0 "
        "points"
    )
    assert [item.by for item in verdict.violations] == [pytest.approx(0.01 / 0.96)]


def test_a_rival_stops_a_training_only_where_it_wins_in_all_that_is_known() -> None:
    study = plan(goals=TWO_GOALS)
    front = {3: (50e3, -0.97)}
    verdict = in_training(study, 0.96, exact("size", 60e3, "B"), front=front)
    assert verdict is not None
    assert (verdict.state, verdict.violations) == ("stopped", ())
    assert verdict.reason == (
        "after epoch 2 of 8 of fit; trial 3 beats that: size 50.0 kB against at least 56.0 kB, accuracy 97.0 % against "
        "at most 96.0 %"
    )
    assert in_training(study, 0.98, exact("size", 60e3, "B"), front=front) is None
    assert in_training(study, 0.96, exact("size", 52e3, "B"), front=front) is None, "it may be smaller once trained"
    assert in_training(study, 0.96, front=front) is None, "its size is not known"


def test_cheap_metrics_are_those_of_goals_and_requirements() -> None:
    assert early.cheap(plan(compared("macs", "<=", 5), goals=TWO_GOALS)) == {"size", "macs"}


def test_what_a_metric_can_become_is_said_in_its_direction() -> None:
    study = plan(goals=TWO_GOALS)
    assert early.reached(study, "accuracy", 0.91, 0.94) == "accuracy 91.0 %, at best 94.0 %"
    assert early.reached(study, "loss", 0.5, 0.25) == "loss 0.5000, at the least 0.2500"
