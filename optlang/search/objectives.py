"""What a trial's measurements say of its goals: a value for each objective, and how far requirements are missed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import TypeAlias

from optlang.interfaces import Measurement
from optlang.plan.expressions import (
    FLOOR,
    Binary,
    Environment,
    Expression,
    MetricRef,
    evaluate,
    operands,
    references,
    violations,
)
from optlang.plan.metrics import is_relative
from optlang.plan.model import Plan, Rule
from optlang.search.shortfall import Shortfall, shortfalls

Key: TypeAlias = tuple[str | None, str]
"""A target, or None for the only one or the worst of several, and a metric."""

Measured: TypeAlias = Mapping[Key, Measurement]
"""The measurements of one trial."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A requirement that a trial does not meet.

    `by` is how far off it is for the sampler and for what is nearest (a share of the bound; 0.05 is 5 % off), `said`
    what people read of it, `missed` the comparisons in it that are not met.
    """

    text: str
    by: float
    said: str = ""
    missed: tuple[Shortfall, ...] = ()


def by_metric(plan: Plan, measurements: Iterable[Measurement]) -> dict[Key, Measurement]:
    """The latest measurement of each metric on each target, and the worst of all targets.

    The worst ratio to the baseline may be another target's than the worst value: a study that asks for a latency
    without a target asks for the gain that all of them have.
    """
    # What is no number is stored as NULL, and counts as not measured.
    latest = {
        (item.target, item.metric): item
        for item in measurements if item.value is not None and isfinite(item.value)
    }
    more = {item.name for item in plan.metrics if item.direction == "maximize"}
    found: dict[Key, Measurement] = {}
    for (target, metric), item in latest.items():
        found[target, metric] = item
        other = found.get((None, metric))
        found[None, metric] = item if other is None else _worse(item, other, more=metric in more)
    return found


def _worse(one: Measurement, other: Measurement, *, more: bool) -> Measurement:
    worse = one if (one.value < other.value) is more else other
    ratios = [item for item in (one, other) if item.ratio is not None]
    if not ratios:
        return worse
    ratio = min(ratios, key=lambda item: item.ratio or 0.0)
    return replace(worse, ratio=ratio.ratio, ratio_low=ratio.ratio_low, ratio_high=ratio.ratio_high)


def measured_of(measured: Measured, ref: MetricRef) -> Measurement | None:
    """What `ref` names in the measurements of one trial (whether it means the baseline's is for the caller)."""
    return measured.get((ref.target, ref.metric))


def objective_values(plan: Plan, measured: Measured, baseline: Measured) -> list[float]:
    """One number an objective, in the objective's own direction; KeyError where a metric was not measured.

    Latencies and throughput count as their ratio to the baseline, which ran next to the trial, so that a machine that
    is busy in one hour and quiet in the next does not decide the front.
    """
    values = []
    for objective in plan.objectives:
        value = _objective_value(objective.metric, measured, baseline)
        if value is None:
            raise KeyError(objective.metric)
        values.append(value)
    return values


def _objective_value(ref: MetricRef, measured: Measured, baseline: Measured) -> float | None:
    item = measured_of(measured, ref)
    if item is None or not is_relative(ref.metric):
        return None if item is None else item.value
    more = ref.metric == "throughput"
    times = item.ratio
    if times is None:
        reference = measured_of(baseline, ref)
        over, under = (item, reference) if more else (reference, item)
        times = over.value / under.value if over is not None and under is not None and under.value else None
    return times if more or times is None else 1 / times if times else None


def known_values(plan: Plan, measured: Measured, baseline: Measured) -> list[float | None]:
    """As `objective_values`; None where a metric is not known."""
    return [_objective_value(objective.metric, measured, baseline) for objective in plan.objectives]


def absent(plan: Plan, measured: Measured, baseline: Measured) -> str | None:
    """The metric of an objective that was not measured; None where there is a value for each."""
    wanted = (item.metric for item in plan.objectives)
    return next((ref.metric for ref in wanted if _objective_value(ref, measured, baseline) is None), None)


def environment(measured: Measured, baseline: Measured) -> Environment:
    """What names in a requirement mean.

    The baseline's value is that of the trial's own measurement where it holds one: its seconds next to the trial's.
    """
    def metric(ref: MetricRef) -> float | None:
        own, reference = measured_of(measured, ref), measured_of(baseline, ref)
        if not ref.baseline:
            return None if own is None else own.value
        if own is not None and own.baseline is not None:
            return own.baseline
        return None if reference is None else reference.value

    return Environment(metric=metric)


def requirement_violations(rule: Rule, measured: Measured, baseline: Measured) -> list[float]:
    """How far the requirement is from being met, one number a conjunct; at most 0 where it holds."""
    return violations(rule.expression, environment(measured, baseline))


def excesses(plan: Plan, measured: Measured, baseline: Measured) -> list[float]:
    """How far all requirements are from being met, one number a comparison (of an `or`: the least); at most 0 where it
    is met.

    Unlike a violation it is a share of what is larger: the limit, or what the baseline has of the compared metrics. A
    limit like `baseline.accuracy - accuracy <= 2%` is a small number, which says nothing of what is far. What is no
    comparison of measured numbers is not far from anything: 0.
    """
    named = environment(measured, baseline)
    return [value for rule in plan.requires for value in _excess(rule.expression, named)]


def _excess(expression: Expression, named: Environment) -> list[float]:
    match expression:
        case Binary(operator="and"):
            return _excess(expression.left, named) + _excess(expression.right, named)
        case Binary(operator="or"):
            return [min(max(_excess(side, named)) for side in (expression.left, expression.right))]
        case Binary(operator="<" | "<=" | ">" | ">=" as operator, left=left, right=right):
            one, other = _number(left, named), _number(right, named)
            if one is None or other is None:
                return [0.0]
            own = (_number(ref.model_copy(update={"baseline": True}), named) for ref in _metrics(expression))
            scale = max(abs(other), *(abs(value) for value in own if value is not None), FLOOR)
            return [(one - other if operator in ("<", "<=") else other - one) / scale]
    return [0.0]


def _metrics(expression: Expression) -> list[MetricRef]:
    return [ref for ref in references(expression) if isinstance(ref, MetricRef)]


def _number(expression: Expression, named: Environment) -> float | None:
    try:
        value = evaluate(expression, named)
    except ZeroDivisionError:
        return None
    return float(value) if isinstance(value, int | float) else None


def broken(plan: Plan, measured: Measured, baseline: Measured) -> list[Violation]:
    """The requirements that are not met, with how far each is from it."""
    found = []
    for rule in plan.requires:
        worst = max(requirement_violations(rule, measured, baseline))
        if worst > 0:
            missed, said = shortfalls(
                rule.expression, environment(measured, baseline), lambda name: plan.metric(name).dimension
            )
            found.append(Violation(rule.text, worst, said, tuple(missed)))
    return found


def constraints(plan: Plan, measured: Measured, baseline: Measured) -> list[float]:
    """All requirements as one list of numbers for the sampler, at most 0 where they hold."""
    return [value for rule in plan.requires for value in requirement_violations(rule, measured, baseline)]


def known_constraints(plan: Plan, measured: Measured, baseline: Measured) -> list[float]:
    """As `constraints`, of those parts of the requirements whose metrics are all known."""
    named = environment(measured, baseline)
    return [
        value for rule in plan.requires for part in operands(rule.expression, "and")
        if all(measured_of(measured, ref) is not None for ref in _metrics(part) if not ref.baseline)
        for value in violations(part, named)
    ]
