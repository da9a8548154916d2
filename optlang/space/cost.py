"""What a trial consists of, read from the plan: the fewest and the most techniques and epochs. Measures nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add, or_

from optlang.plan.expressions import Expression, KnobRef, RoundRef
from optlang.plan.intervals import ANY, Interval, interval, of_domain
from optlang.plan.model import (
    Apply,
    Choice,
    Computed,
    Fixed,
    Group,
    Maybe,
    Order,
    Plan,
    Repeat,
    Searched,
    Setting,
    Step,
)

NOTHING = Interval(0, 0)


@dataclass(frozen=True, slots=True)
class TrialCost:
    """The epochs that a trial trains, and the techniques that it applies."""

    epochs: Interval
    steps: Interval


def trial_cost(plan: Plan, steps: tuple[Step, ...]) -> TrialCost:
    """The cost of these steps of the plan, over all of its points."""
    walk = _Walk(plan)
    return TrialCost(walk.total(steps, walk.epochs), walk.total(steps, lambda step: Interval(1, 1)))


class _Walk:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._knobs = {knob.path: of_domain(knob.domain) for knob in plan.knobs}
        self._rounds: dict[str, Interval] = {}

    def total(self, steps: tuple[Step, ...], each: Callable[[Apply], Interval]) -> Interval:
        """The sum over the steps of what `each` says of one; a step under a condition may be left out."""
        found = NOTHING
        for step in steps:
            inner = self._one(step, each)
            found += inner if step.when is None else inner | NOTHING
        return found

    def _one(self, step: Step, each: Callable[[Apply], Interval]) -> Interval:
        match step:
            case Apply():
                return each(step)
            case Choice(branches=branches):
                return reduce(or_, (self.total(branch.steps, each) for branch in branches))
            case Maybe(steps=inner):
                return self.total(inner, each) | NOTHING
            case Repeat(path=path, count=count, steps=inner):
                rounds = Interval(count, count) if count is not None else self._knobs[step.counter]
                self._rounds[path] = rounds
                return rounds * self.total(inner, each)
            case Group(steps=inner):
                return self.total(inner, each)
            case Order(members=members):
                return reduce(add, (self.total(member.steps, each) for member in members))
        raise AssertionError(step)

    def epochs(self, step: Apply) -> Interval:
        """The epochs that one step trains."""
        if "training" not in self._plan.technique(step.technique).needs or "epochs" not in step.settings:
            return NOTHING
        found = self._setting(step.settings["epochs"])
        return Interval(max(found.low, 0), found.high)

    def _setting(self, setting: Setting) -> Interval:
        match setting:
            case Fixed(value=int() | float() as value):
                return Interval(value, value)
            case Searched(knob=knob):
                return self._knobs[knob]
            case Computed(expression=expression):
                return interval(expression, self._reference)
        return NOTHING

    def _reference(self, expression: Expression) -> Interval:
        match expression:
            case KnobRef(path=path):
                return self._knobs[path]
            case RoundRef(path=path, which=which):
                rounds = self._rounds.get(path, Interval(1, 1))
                return Interval(1 if which == "round" else max(rounds.low, 1), rounds.high)
        return ANY
