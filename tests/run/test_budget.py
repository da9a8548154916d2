"""What the time of a session is enough for, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from optlang.interfaces import Measurement
from optlang.plan.model import Plan
from optlang.run.budget import Budget
from optlang.run.ending import Spent
from optlang.run.forecast import Estimate
from optlang.run.history import History
from optlang.run.job import Failure, Result, StepRun
from optlang.search.ablation import baseline_recipe
from optlang.space.recipe import resolve
from optlang.space.space import Space
from optlang.store.projection import INTERRUPTED

Make = Callable[..., Plan]


class Session:
    """Trials of given durations; measuring one of a front takes 3 processes of 1 s and twice 0.5 s of rounds each."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.now = plan, 100.0
        self.space = Space(plan)
        self.history = History(plan, self.space, (), Path("nowhere"))
        self.budget = Budget(plan, self.history, (), self.now, lambda: self.now)
        self.points = list(self.space.points())

    def trial(self, seconds: float, *, waited: float = 0.0, interrupted: bool = False) -> None:
        number = len(self.history.observations())
        point = self.points[number]
        origin = "baseline" if number == 0 else "sampler"
        recipe = baseline_recipe(self.plan) if number == 0 else resolve(self.plan, point)
        value = 1.0 / (number + 1)
        measured = [
            Measurement(name, value, "", 1, value, value, "here", 1 / value, 1 / value, 1 / value)
            for name in ("accuracy", "latency.p50", "size", "test.accuracy")
        ]
        spent = Spent(start=1.0, rounds=0.5, answers=1.0, tests=1.0)
        steps = tuple(StepRun(step.path, step.technique, "k", True, 0.0, "") for step in recipe.steps)
        result = Result(steps, tuple(measured), spent=spent)
        if interrupted:
            result = Result(failure=Failure(INTERRUPTED, "", again=False))
        self.now += waited + seconds
        record = self.history.add(number, recipe, origin, point, None, result, {})
        self.budget.add(record, result, seconds)


def session(plan_of: Make, search: str) -> Session:
    return Session(plan_of("steps { maybe static { samples in [64, 128, 256, 512, 768, 1024] } }", search=search))


def test_a_trial_starts_where_it_and_the_end_of_the_run_fit_in(plan_of: Make) -> None:
    run = session(plan_of, "timeout = 100s")
    assert run.budget.enough_for(None)
    run.trial(10.0)
    run.trial(10.0)
    # The front is measured for 3 × 2 × (1 + 2 × 0.5) = 12 s, and has its figures on the test data.
    run.now = 100.0 + 78.0
    assert run.budget.enough_for(None), "10 s of a trial and 12 s of the end"
    run.now += 0.5
    assert not run.budget.enough_for(None)
    assert not run.budget.up


def test_the_first_trial_of_a_session_starts_however_long_it_is(plan_of: Make) -> None:
    run = session(plan_of, "timeout = 5s")
    run.now += 60.0  # to find the runtimes, say
    assert not run.budget.up
    assert run.budget.enough_for(None)
    run.trial(50.0)
    assert run.budget.up
    assert not run.budget.enough_for(None)


def test_drawing_a_point_is_time_too_but_not_before_the_first_trial(plan_of: Make) -> None:
    run = session(plan_of, "timeout = 1000s; trials = 6")
    run.trial(10.0, waited=30.0)
    for _ in range(3):
        run.trial(1.0, waited=1.0)
    # Two of these trials, and 3 × (1 + 3) × 2 s for the front of three that are not measured again.
    assert run.budget.left([], 2).seconds == 2 * 2.0 + 3 * (1 + len(run.history.front()) - 1) * 2.0


def test_where_the_time_alone_ends_the_search_all_of_it_is_left(plan_of: Make) -> None:
    run = session(plan_of, "timeout = 100s")
    run.trial(10.0)
    assert run.budget.left([], None) == Estimate(90.0)
    run.now += 200.0
    assert run.budget.left([], None) == Estimate(0.0)


def test_no_more_is_left_than_there_is_time_for(plan_of: Make) -> None:
    run = session(plan_of, "timeout = 100s; trials = 40")
    run.trial(10.0)
    for _ in range(3):
        run.trial(10.0)
    assert run.budget.left([], 37) == Estimate(60.0)
    assert run.budget.left([], 1).seconds < 60.0


def test_without_a_limit_there_is_always_time(plan_of: Make) -> None:
    run = session(plan_of, "trials = 4")
    run.trial(1e6)
    assert run.budget.enough_for(None)
    assert run.budget.enough_for_pass([1])
    assert not run.budget.up
    assert not run.budget.left([], 4).whole


def test_another_pass_over_the_front_starts_where_it_fits_in(plan_of: Make) -> None:
    run = session(plan_of, "timeout = 100s")
    run.trial(1.0)
    run.trial(1.0)
    run.budget.passed([1], 24.0)
    run.now = 100.0 + 76.0
    assert run.budget.enough_for_pass([1])
    run.now += 0.1
    assert not run.budget.enough_for_pass([1])


def test_an_interrupted_trial_says_nothing_of_the_others(plan_of: Make) -> None:
    run = session(plan_of, "trials = 4")
    run.trial(1.0)
    run.trial(500.0, interrupted=True)
    left = run.budget.left([], 4)
    assert (left.whole, left.seconds) == (False, 0.0)
