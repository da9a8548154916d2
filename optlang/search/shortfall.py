"""Which comparisons of a requirement are not met, in words: value, limit and difference in the metric's own unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from optlang.plan import units
from optlang.plan.expressions import (
    Binary,
    Const,
    Environment,
    Expression,
    MetricRef,
    Unary,
    Value,
    evaluate,
    holds,
    operands,
    references,
    show,
)
from optlang.plan.metrics import UNITS
from optlang.plan.model import Dimension
from optlang.plan.quantities import apart
from optlang.plan.quantities import quantity as written
from optlang.plan.units import Kind

_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A comparison that is not met: `value` of what the study names `what` is beyond `limit`, both in `unit` ("s", "B",
    "ratio", "count" or ""). Both are None where there is no comparison of two numbers. `text` is one clause."""

    what: str
    value: float | None
    limit: float | None
    unit: str
    text: str


def shortfalls(
    expression: Expression, environment: Environment, dimension: Callable[[str], Dimension]
) -> tuple[list[Shortfall], str]:
    """The comparisons that keep a requirement from being met, and all of them in one sentence without an end.

    Of `a and b` only those sides that are missed, of `a or b` both, which is said; nothing where the requirement is
    met. `dimension` is that of a metric.
    """
    match expression:
        case Binary(operator="and", left=left, right=right):
            parts = [shortfalls(side, environment, dimension) for side in (left, right)]
            return [item for found, _ in parts for item in found], ", and ".join(text for _, text in parts if text)
        case Binary(operator="or"):
            parts = [shortfalls(side, environment, dimension) for side in operands(expression, "or")]
            if not all(found for found, _ in parts):
                return [], ""
            texts = ", and ".join(text for _, text in parts)
            return [item for found, _ in parts for item in found], f"{texts} (one of them is enough)"
        case Unary(operator="not", operand=Unary(operator="not", operand=inner)):
            return shortfalls(inner, environment, dimension)
        case Binary(operator="<" | "<=" | ">" | ">="):
            one = _compared(expression, environment, dimension)
        case _:
            one = None if holds(expression, environment) else _unmet(expression, environment, dimension)
    return ([], "") if one is None else ([one], one.text)


def _compared(
    expression: Binary, environment: Environment, dimension: Callable[[str], Dimension]
) -> Shortfall | None:
    left, right, operator = expression.left, expression.right, str(expression.operator)
    # The limit is the side that does not depend on the trial: `2ms >= latency` is `latency <= 2ms`.
    if not _of_trial(left) and _of_trial(right):
        left, right, operator = right, left, _TURNED[operator]
    kind = _common(_kind(left, dimension), _kind(right, dimension))
    unit = UNITS.get(kind, "")
    what = _written(left, kind, dimension)
    value, limit = _value(left, environment), _value(right, environment)
    if value is None or limit is None:
        return _unmet(expression, environment, dimension)
    if {"<": value < limit, "<=": value <= limit, ">": value > limit, ">=": value >= limit}[operator]:
        return None
    less = operator.startswith("<")
    values, limits, difference = apart(value, limit, unit)
    bound = f"the limit {limits}"
    if next(references(right), None) is not None:
        bound += f" ({_written(right, kind, dimension)})"
    if value == limit:
        return Shortfall(what, value, limit, unit, f"{what} {values} is not {'below' if less else 'above'} {bound}")
    text = f"{what} {values} is {'above' if less else 'below'} {bound} by {difference}"
    return Shortfall(what, value, limit, unit, text)


def _unmet(
    expression: Expression, environment: Environment, dimension: Callable[[str], Dimension]
) -> Shortfall:
    """What is no comparison of two numbers: the requirement, and what its metrics are."""
    said = []
    for ref in dict.fromkeys(ref for ref in references(expression) if isinstance(ref, MetricRef)):
        value = environment.metric(ref)
        unit = UNITS.get(dimension(ref.metric), "")
        said.append(f"{show(ref)} was not measured" if value is None else f"{show(ref)} is {written(value, unit)}")
    what = _written(expression, "plain", dimension)
    text = f"{what} does not hold"
    return Shortfall(what, None, None, "", text + (f": {', '.join(said)}" if said else ""))


def _of_trial(expression: Expression) -> bool:
    return any(isinstance(ref, MetricRef) and not ref.baseline for ref in references(expression))


def _value(expression: Expression, environment: Environment) -> float | None:
    try:
        value: Value = evaluate(expression, environment)
    except ZeroDivisionError:
        return None
    return float(value) if isinstance(value, int | float) else None


def _common(left: Kind, right: Kind) -> Kind:
    # A plan has constants without their unit: next to a time, 0.002 is one too.
    if "plain" in (left, right):
        return right if left == "plain" else left
    return units.common(left, right) or "plain"


def _kind(expression: Expression, dimension: Callable[[str], Dimension]) -> Kind:
    match expression:
        case MetricRef(metric=metric):
            return dimension(metric)
        case Unary(operator="-", operand=operand):
            return _kind(operand, dimension)
        case Binary(operator="+" | "-", left=left, right=right):
            return _common(_kind(left, dimension), _kind(right, dimension))
        case Binary(operator="*" | "/" as operator, left=left, right=right):
            return units.product(operator, _kind(left, dimension), _kind(right, dimension)) or "plain"
    return "plain"


def _written(expression: Expression, kind: Kind, dimension: Callable[[str], Dimension], inside: bool = False) -> str:
    """The expression in the study's words: constants in the unit of what they are compared with or added to."""
    match expression:
        case Const(value=value):
            return units.show(value, kind)
        case Unary(operator="-", operand=operand):
            return f"-{_written(operand, kind, dimension, True)}"
        case Unary(operand=operand):
            return f"not ({_written(operand, kind, dimension)})"
        case Binary(operator=operator, left=left, right=right):
            sides = (_kind(left, dimension), _kind(right, dimension))
            if operator not in ("*", "/"):
                both = _common(*sides)
                sides = (kind if both == "plain" else both,) * 2
            # Arithmetic binds more tightly than a comparison.
            deeper = operator in ("+", "-", "*", "/")
            one, other = (
                _written(side, of, dimension, deeper) for side, of in zip((left, right), sides, strict=True)
            )
            text = f"{one} {operator} {other}"
            return f"({text})" if inside else text
    return show(expression)
