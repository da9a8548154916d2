"""What a training can still become, by curves of others."""

from __future__ import annotations

import random

import pytest

from optlang.plan.expressions import Binary, Const, MetricRef
from optlang.plan.model import Rule
from optlang.search.promise import ENOUGH, NEAR, Curve, best
from tests.store.example_study import make_plan


def curve(*values: float, final: float | None = None, epochs: int | None = None) -> Curve:
    numbered = tuple(enumerate(values, 1))
    return Curve(epochs or len(values), numbered, values[-1] if final is None else final)


def test_a_training_is_compared_where_the_other_was_no_further() -> None:
    four = curve(0.1, 0.2, 0.3, 0.4)
    assert [four.at(epoch, 4) for epoch in (1, 2, 3, 4)] == [0.1, 0.2, 0.3, 0.4]
    # After 2 of 8 epochs a quarter is done: 1 of 4. After 2 of 2 it is all, but of epochs only 2.
    assert four.at(2, 8) == 0.1
    assert four.at(2, 2) == 0.2
    assert four.at(1, 8) is None, "half an epoch of the other"
    assert Curve(4, ((2, 0.5),), 0.9).at(3, 4) == 0.5, "the third was not looked at"


def test_nothing_is_forecast_before_there_are_enough_curves() -> None:
    past = [curve(0.5, 0.6)] * ENOUGH
    assert best(0.5, 1, 2, past[1:], more=True) is None
    assert best(0.5, 1, 2, past, more=True) == pytest.approx(0.6)


def test_the_best_is_the_largest_gain_seen_and_the_margin() -> None:
    past = [curve(0.5, 0.5 + gain) for gain in (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.13)]
    # Asked for the last of them, the others fall short by 0.03.
    assert best(0.4, 1, 2, past, more=True) == pytest.approx(0.4 + 0.13 + 0.03)


def test_what_stood_no_better_is_a_bound_too() -> None:
    """One curve far below ended high: a better one may as well."""
    past = [curve(0.8, 0.81)] * NEAR + [curve(0.2, 0.9)]
    found = best(0.8, 1, 2, past, more=True)
    assert found is not None
    assert found >= 0.9


def test_what_stands_low_has_more_to_gain() -> None:
    """A training that halves the errors that are left does so from anywhere."""
    past = [curve(0.8, 0.9)] * NEAR
    assert best(0.6, 1, 2, past, more=True) == pytest.approx(0.7)
    found = best(0.6, 1, 2, past, more=True, limit=1.0)
    assert found == pytest.approx(0.8, abs=0.01)
    assert best(0.99, 1, 2, [curve(0.9, 1.0)] * NEAR, more=True, limit=1.0) == 1.0
    assert best(0.4, 1, 2, [curve(0.2, 0.1)] * NEAR, more=False, limit=0.0) == pytest.approx(0.2, abs=0.01)


def test_gains_that_differ_leave_a_margin() -> None:
    past = [curve(0.5, 0.5 + gain) for gain in (0.01, 0.02, 0.02, 0.02, 0.02, 0.02, 0.1, 0.1)]
    assert best(0.4, 1, 2, past, more=True) == pytest.approx(0.4 + 0.1 + 0.08)


def test_less_is_better_turns_all_round() -> None:
    more = [curve(0.5, 0.5 + gain) for gain in (0.1, 0.12, 0.09, 0.1, 0.1, 0.11, 0.1, 0.1, 0.13)]
    less = [Curve(item.epochs, tuple((n, -v) for n, v in item.values), -item.final) for item in more]
    up, down = best(0.45, 1, 2, more, more=True), best(-0.45, 1, 2, less, more=False)
    assert up is not None
    assert down == pytest.approx(-up)


@pytest.mark.slow
def test_few_end_better_than_their_forecast() -> None:
    """On curves of one kind (an error that falls by a random factor), asked one after another."""
    draw = random.Random(3)
    past: list[Curve] = []
    asked = better = 0
    for _ in range(400):
        error = draw.uniform(0.05, 0.5)
        values = [1 - error * draw.uniform(0.5, 0.9) ** epoch for epoch in range(5)]
        found = best(values[1], 2, 5, past, more=True, limit=1.0)
        if found is not None:
            asked += 1
            better += values[-1] > found
        past.append(curve(*values))
    assert asked == 400 - ENOUGH
    assert better / asked <= 0.02


def test_judged_metrics_are_those_of_goals_and_requirements() -> None:
    plan = make_plan(objectives=(("size", "minimize"), ("accuracy", "maximize")))
    assert plan.judged == ("accuracy",)
    rule = Rule(expression=Binary(operator="<=", left=MetricRef(metric="loss"), right=Const(value=1.0)), text="loss")
    assert plan.model_copy(update={"requires": (rule,)}).judged == ("accuracy", "loss")
    own = Rule(expression=MetricRef(metric="loss", baseline=True), text="the baseline's")
    assert plan.model_copy(update={"requires": (own,)}).judged == ("accuracy",)
