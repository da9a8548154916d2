"""Which values metrics and knobs can have, and whether a condition on them is always true, never, or either.

What is reported of it: requirements.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from optlang.plan import intervals
from optlang.plan.expressions import Binary, Const, Expression, KnobRef, MetricRef, Unary, references
from optlang.plan.intervals import ANY, Interval, of_domain
from optlang.plan.model import Knob, Metric

ORDERS = ("<", "<=", ">", ">=", "==", "!=")
"""The operators that compare."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """The metrics and the knobs that an expression may name."""

    metrics: Mapping[str, Metric] = field(default_factory=dict)
    knobs: Mapping[str, Knob] = field(default_factory=dict)


def of_metric(metric: Metric) -> Interval:
    """What a metric can be: a ratio is a share, what optlang measures is never negative, others may be anything."""
    if metric.dimension == "ratio":
        return Interval(0.0, 1.0)
    if metric.name == "agreement.cosine" and not metric.task:
        return Interval(-1.0, 1.0)
    # A count of the user's own may be a balance, a time a delay.
    return ANY if metric.task else Interval(0.0, inf)


def interval(expression: Expression, space: Ranges) -> Interval:
    """What a number can be, each metric and knob on its own: too wide where one of them stands in it twice."""
    def reference(found: Expression) -> Interval:
        match found:
            case MetricRef(metric=name):
                return of_metric(space.metrics[name])
            case KnobRef(path=path) if path in space.knobs:
                return of_domain(space.knobs[path].domain)
        return ANY

    return intervals.interval(expression, reference)


def decided(expression: Expression, space: Ranges) -> bool | None:
    """The value of a condition, whatever is measured; None where it depends on that."""
    match expression:
        case Const(value=value):
            return bool(value)
        case Unary(operator="not", operand=operand):
            inner = decided(operand, space)
            return None if inner is None else not inner
        case Binary(operator="and" | "or" as operator, left=left, right=right):
            strong = operator == "or"
            sides = (decided(left, space), decided(right, space))
            if strong in sides:
                return strong
            return None if None in sides else not strong
        case Binary(operator=operator) if operator in ORDERS:
            found = _compared(expression, space)
            # A knob may be absent, and then an order comparison with it is false.
            absent = any(isinstance(item, KnobRef) for item in references(expression))
            return None if found and absent else found
    return None


def _compared(expression: Binary, space: Ranges) -> bool | None:
    left, right = expression.left, expression.right
    if all(isinstance(side, Const) and not isinstance(side.value, int | float) for side in (left, right)):
        # Words and `none`: an order of them is an error elsewhere.
        same = left == right
        return {"==": same, "!=": not same}.get(expression.operator)
    a, b = interval(left, space), interval(right, space)
    return intervals.order(expression.operator, a, b)
