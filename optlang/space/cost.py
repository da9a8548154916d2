"""What a trial consists of, read from the plan: the fewest and the most techniques and epochs. Measures nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add, or_

from optlang.plan.expressions import Binary, Expression, If, KnobRef, RoundRef, Unary
from optlang.plan.intervals import ANY, Interval, interval, of_domain
from optlang.plan.model import (
    Apply,
    Choice,
    Computed,
    Domain,
    Fixed,
    Group,
    IntDomain,
    ListDomain,
    Maybe,
    Order,
    Plan,
    Repeat,
    Searched,
    SetDomain,
    Setting,
    Step,
)

NOTHING = Interval(0, 0)

_MOST_ROUNDS = 2_000
"""Rounds that are looked at one by one. Of more, each is taken to cost what any of them may."""


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
        self._domains = {knob.path: knob.domain for knob in plan.knobs}
        self._rounds: dict[str, Interval] = {}
        self._now: dict[str, tuple[int, int]] = {}  # the round, and of how many, by the path of its repeat
        self._counted: dict[str, Interval] = {}  # the same number, by the path of the knob that counts
        self._asked: set[str] = set()
        self._left = _MOST_ROUNDS

    def total(self, steps: tuple[Step, ...], each: Callable[[Apply], Interval]) -> Interval:
        """The sum over the steps of what `each` says of one; a step under a condition may be left out."""
        found = NOTHING
        for step in steps:
            there = True if step.when is None else self._holds(step.when)
            if there is False:
                continue
            inner = self._one(step, each)
            found += inner if there else inner | NOTHING
        return found

    def _one(self, step: Step, each: Callable[[Apply], Interval]) -> Interval:
        match step:
            case Apply():
                return each(step)
            case Choice(branches=branches):
                return reduce(or_, (self.total(branch.steps, each) for branch in branches))
            case Maybe(steps=inner):
                return self.total(inner, each) | NOTHING
            case Repeat():
                return self._repeated(step, each)
            case Group(steps=inner):
                return self.total(inner, each)
            case Order(members=members):
                return reduce(add, (self.total(member.steps, each) for member in members))
        raise AssertionError(step)

    def _repeated(self, step: Repeat, each: Callable[[Apply], Interval]) -> Interval:
        """All rounds alike; where they ask which round they are, one after another, for each number of rounds."""
        rounds = Interval(step.count, step.count) if step.count is not None else self._knobs[step.counter]
        self._rounds[step.path] = rounds
        outer, self._asked = self._asked, set()
        found = rounds * self.total(step.steps, each)
        asked, self._asked = self._asked, outer | self._asked
        if not asked & {step.path, step.counter}:
            return found
        counts = [step.count] if step.count is not None else _counts(self._domains[step.counter])
        if not counts or sum(counts) > self._left:
            return found
        self._left -= sum(counts)
        known = []
        for count in counts:
            total = NOTHING
            for number in range(1, count + 1):
                self._now[step.path] = number, count
                if step.count is None:
                    self._counted[step.counter] = Interval(count, count)
                total += self.total(step.steps, each)
            known.append(total)
        del self._now[step.path]
        self._counted.pop(step.counter, None)
        return reduce(or_, known)

    def _holds(self, condition: Expression) -> bool | None:
        """Whether a condition is true wherever these rounds are; None where that depends on more."""
        match condition:
            case Unary(operator="not", operand=operand):
                inner = self._holds(operand)
                return None if inner is None else not inner
            case Binary(operator="and" | "or" as word, left=left, right=right):
                sides = self._holds(left), self._holds(right)
                decides = word == "or"
                return decides if decides in sides else None if None in sides else not decides
            case Binary(operator="==" | "!=" as sign, left=left, right=right):
                one, other = interval(left, self._sure), interval(right, self._sure)
                same = False if one.apart(other) else True if one == other and one.low == one.high else None
                return same if same is None or sign == "==" else not same
            case Binary(operator="<=" | ">=" | "<" | ">" as sign, left=left, right=right):
                one, other = interval(left, self._sure), interval(right, self._sure)
                if sign in (">=", ">"):
                    one, other = other, one
                if sign in ("<=", ">="):
                    return True if one.high <= other.low else False if one.low > other.high else None
                return True if one.high < other.low else False if one.low >= other.high else None
        return None

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
            case Computed(expression=If(condition=condition, then=then, otherwise=otherwise)):
                holds = self._holds(condition)
                if holds is not None:
                    return interval(then if holds else otherwise, self._reference)
                return interval(then, self._reference) | interval(otherwise, self._reference)
            case Computed(expression=expression):
                return interval(expression, self._reference)
        return NOTHING

    def _sure(self, expression: Expression) -> Interval:
        """As `_reference`, for conditions: a knob that is not there makes them false, whatever its values are."""
        if isinstance(expression, KnobRef):
            self._asked.add(expression.path)
            return self._counted.get(expression.path, ANY)
        return self._reference(expression)

    def _reference(self, expression: Expression) -> Interval:
        match expression:
            case KnobRef(path=path):
                self._asked.add(path)
                return self._counted.get(path, self._knobs[path])
            case RoundRef(path=path, which=which):
                self._asked.add(path)
                if path in self._now:
                    number, count = self._now[path]
                    now = number if which == "round" else count
                    return Interval(now, now)
                rounds = self._rounds.get(path, Interval(1, 1))
                return Interval(1 if which == "round" else max(rounds.low, 1), rounds.high)
        return ANY


def _counts(domain: Domain) -> list[int]:
    """How many rounds there may be; nothing where these are too many to look at."""
    match domain:
        case IntDomain(low=low, high=high) if high - low < _MOST_ROUNDS:
            return list(range(low, high + 1))
        case SetDomain(values=values) | ListDomain(values=values):
            return [value for value in values if isinstance(value, int)]
    return []
