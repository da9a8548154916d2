"""What a trial consists of, read from the plan: the fewest and the most techniques and epochs. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from optlang.plan.domains import values_of
from optlang.plan.expressions import Binary, Const, Expression, If, KnobRef, RoundRef, Unary
from optlang.plan.model import (
    Apply,
    Choice,
    Computed,
    Domain,
    Fixed,
    FloatDomain,
    Group,
    IntDomain,
    Knob,
    Maybe,
    Order,
    Plan,
    Repeat,
    Searched,
    Setting,
    Step,
)


@dataclass(frozen=True, slots=True)
class Span:
    """A number that lies between two; both are equal where it is fixed."""

    low: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)


NOTHING = Span(0, 0)


@dataclass(frozen=True, slots=True)
class Effort:
    """The epochs that a trial trains, and the techniques that it applies."""

    epochs: Span
    steps: Span


def effort(plan: Plan, steps: tuple[Step, ...]) -> Effort:
    """The effort of these steps of the plan, over all of its points."""
    walk = _Walk(plan)
    return Effort(walk.total(steps, walk.epochs), walk.total(steps, lambda step: Span(1, 1)))


class _Walk:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._knobs: Mapping[str, Knob] = {knob.path: knob for knob in plan.knobs}
        self._rounds: dict[str, Span] = {}

    def total(self, steps: tuple[Step, ...], each: object) -> Span:
        found = NOTHING
        for step in steps:
            inner = self._one(step, each)
            found += inner if step.when is None else Span(0, inner.high)
        return found

    def _one(self, step: Step, each: object) -> Span:
        match step:
            case Apply():
                assert callable(each)
                found = each(step)
                assert isinstance(found, Span)
                return found
            case Choice(branches=branches):
                spans = [self.total(branch.steps, each) for branch in branches]
                return Span(min(span.low for span in spans), max(span.high for span in spans))
            case Maybe(steps=inner):
                return Span(0, self.total(inner, each).high)
            case Repeat(path=path, count=count, steps=inner):
                rounds = Span(count, count) if count is not None else _bounds(self._knobs[step.counter].domain)
                self._rounds[path] = rounds
                body = self.total(inner, each)
                return Span(rounds.low * body.low, rounds.high * body.high)
            case Group(steps=inner):
                return self.total(inner, each)
            case Order(members=members):
                found = NOTHING
                for member in members:
                    found += self.total(member.steps, each)
                return found
        raise AssertionError(step)

    def epochs(self, step: Apply) -> Span:
        if "training" not in self._plan.technique(step.technique).needs or "epochs" not in step.settings:
            return NOTHING
        return self._setting(step.settings["epochs"])

    def _setting(self, setting: Setting) -> Span:
        match setting:
            case Fixed(value=int() | float() as value):
                return Span(value, value)
            case Searched(knob=knob):
                return _bounds(self._knobs[knob].domain)
            case Computed(expression=expression):
                return self._expression(expression)
        return NOTHING

    def _expression(self, expression: Expression) -> Span:
        match expression:
            case Const(value=int() | float() as value):
                return Span(value, value)
            case KnobRef(path=path):
                return _bounds(self._knobs[path].domain)
            case RoundRef(path=path, which=which):
                rounds = self._rounds.get(path, Span(1, 1))
                return Span(1 if which == "round" else max(rounds.low, 1), rounds.high)
            case Unary(operator="-", operand=operand):
                inner = self._expression(operand)
                return Span(-inner.high, -inner.low)
            case Binary(operator="+" | "-" | "*" | "/" as operator, left=left, right=right):
                return _combined(operator, self._expression(left), self._expression(right))
            case If(then=then, otherwise=otherwise):
                either = (self._expression(then), self._expression(otherwise))
                return Span(min(item.low for item in either), max(item.high for item in either))
        return Span(0, inf)


def _combined(operator: str, left: Span, right: Span) -> Span:
    if operator == "+":
        return left + right
    if operator == "-":
        return Span(left.low - right.high, left.high - right.low)
    if operator == "/":
        if right.low <= 0 <= right.high:
            return Span(0, inf)
        right = Span(1 / right.high, 1 / right.low)
    ends = [one * other for one in (left.low, left.high) for other in (right.low, right.high)]
    return Span(min(ends), max(ends))


def _bounds(domain: Domain) -> Span:
    if isinstance(domain, IntDomain | FloatDomain):
        return Span(domain.low, domain.high)
    numbers = [value for value in values_of(domain) or () if isinstance(value, int | float)]
    return Span(min(numbers), max(numbers)) if numbers else NOTHING
