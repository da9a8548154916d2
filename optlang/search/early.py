"""Whether a trial is decided by what is known of it before its training or in it. Measures nothing, knows no model.

Known are a few metrics, each between two numbers, and what another one can be at all: a share lies between 0 and 1.
Only what holds for all of these numbers decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from optlang.interfaces import Measurement
from optlang.plan.expressions import Expression, MetricRef, operands, references, violations
from optlang.plan.intervals import ANY, Interval, truth
from optlang.plan.metrics import MEDIAN, UNITS, is_relative, short_name
from optlang.plan.model import Objective, Plan
from optlang.plan.quantities import quantity, times
from optlang.search import pareto
from optlang.search.objectives import Measured, Violation, environment, measured_of
from optlang.search.shortfall import shortfalls

CHEAP = frozenset({"parameters", "macs", "size", MEDIAN})
"""The metrics that a training which changes weights alone leaves as they are."""

SIZE_MARGIN, SIZE_CONSTANTS = 0.05, 1000.0
"""The share, and besides it the bytes, by which a file may be smaller or larger once its model is trained: equal
constants are written once (biases that are still zero), and zero points that are zero are left out."""

TIME_MARGIN = 0.2
"""The share by which a latency may differ, beyond its interval widened to twice its width on either side."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a trial ends that is decided: by a requirement that it cannot meet, or by a trial that beats it anyway."""

    state: Literal["infeasible", "stopped"]
    reason: str
    violations: tuple[Violation, ...] = ()


def bounded(item: Measurement) -> Measurement:
    """A measurement of an untrained model with the numbers between which that of the trained one certainly lies."""
    if item.metric == "size":
        margin = item.value * SIZE_MARGIN + SIZE_CONSTANTS
        return replace(item, low=max(0.0, item.value - margin), high=item.value + margin)
    if item.metric != MEDIAN:
        return replace(item, low=item.value, high=item.value)
    low, high = _far(item.value, item.low, item.high)
    found = replace(item, low=low, high=high)
    if item.ratio is None or item.ratio_low is None or item.ratio_high is None:
        return replace(found, ratio=None)
    low, high = _far(item.ratio, item.ratio_low, item.ratio_high)
    return replace(found, ratio_low=low, ratio_high=high)


def _far(value: float, low: float, high: float) -> tuple[float, float]:
    width = 2 * (high - low)
    return max(0.0, min(low - width, value * (1 - TIME_MARGIN))), max(high + width, value * (1 + TIME_MARGIN))


def wanted(plan: Plan, losses: Mapping[int, Sequence[float]]) -> frozenset[str]:
    """The cheap metrics that can decide, next to a front with these losses; none where nothing can."""
    found: set[str] = set()
    for rule in plan.requires:
        for part in operands(rule.expression, "and"):
            names = {ref.metric for ref in _of_trial(part)}
            if names and names <= CHEAP:
                found |= names
    best = _best(plan, {})
    if best is not None and any(all(a <= b for a, b in zip(item, best, strict=True)) for item in losses.values()):
        found |= {item.metric.metric for item in plan.objectives} & CHEAP
    return frozenset(found)


def decided(
    plan: Plan, known: Measured, baseline: Measured, losses: Mapping[int, Sequence[float]]
) -> Verdict | None:
    """How a trial of which this much is known ends; None where its training decides.

    `known` are measurements as `bounded` gives them, `losses` those of the front (see `pareto.losses`).
    """
    missed = _missed(plan, known, baseline)
    if missed:
        reason = "; ".join(item.said for item in missed)
        return Verdict("infeasible", f"{reason}, which was known before its training", tuple(missed))
    beaten = _beaten(plan, known, losses)
    if beaten is None:
        return None
    return Verdict("stopped", f"trial {beaten[0]} beats it, whatever its training gives: {beaten[1]}")


def unpromising(
    plan: Plan, known: Measured, baseline: Measured, losses: Mapping[int, Sequence[float]], so_far: str
) -> Verdict | None:
    """How a trial ends in its training; None where it goes on. `so_far` says how the training stands.

    As in `decided`, but `known` has forecasts too, each from the best that the metric can become to the worst.
    """
    missed = _missed(plan, known, baseline)
    if missed:
        return Verdict("stopped", f"{so_far}; even so {'; '.join(item.said for item in missed)}", tuple(missed))
    beaten = _beaten(plan, known, losses)
    return None if beaten is None else Verdict("stopped", f"{so_far}; trial {beaten[0]} beats that: {beaten[1]}")


def reached(plan: Plan, name: str, value: float, best: float) -> str:
    """A metric as it is and what it can become, in words."""
    metric = plan.metric(name)
    unit = UNITS.get(metric.dimension, "")
    limit = "at best" if metric.direction == "maximize" else "at the least"
    return f"{short_name(name)} {quantity(value, unit)}, {limit} {quantity(best, unit)}"


def cheap(plan: Plan) -> frozenset[str]:
    """The cheap metrics of goals and requirements."""
    return CHEAP.intersection(ref.metric for ref in plan.metric_refs() if not ref.baseline)


def _missed(plan: Plan, known: Measured, baseline: Measured) -> list[Violation]:
    values = environment(known, baseline)

    def between(reference: Expression) -> Interval:
        if not isinstance(reference, MetricRef):
            return ANY
        item = None if reference.baseline else measured_of(known, reference)
        value = values.metric(reference)
        if item is not None:
            return Interval(item.low, item.high)
        return ANY if value is None else Interval(value, value)

    found = []
    for rule in plan.requires:
        for part in operands(rule.expression, "and"):
            if all(measured_of(known, ref) is not None for ref in _of_trial(part)) and truth(part, between) is False:
                missed, said = shortfalls(part, values, lambda name: plan.metric(name).dimension)
                by = max(violations(part, values))
                if by > 0:
                    found.append(Violation(rule.text, by, said, tuple(missed)))
    return found


def _of_trial(expression: Expression) -> list[MetricRef]:
    return [ref for ref in references(expression) if isinstance(ref, MetricRef) and not ref.baseline]


def _best(plan: Plan, known: Measured) -> tuple[float, ...] | None:
    """The losses of the best that the trial can become; None where a goal has no bound.

    Without anything known a cheap metric may be as good as it likes to be bad: what can decide is asked for.
    """
    values = []
    for objective in plan.objectives:
        value = _bound(plan, objective, known)
        if value is None:
            return None
        values.append(value)
    return pareto.losses(plan, values)


def _bound(plan: Plan, objective: Objective, known: Measured) -> float | None:
    """The best value of an objective, as `objectives.objective_values` has it."""
    name, more = objective.metric.metric, objective.direction == "maximize"
    item = measured_of(known, objective.metric)
    if item is not None:
        if not is_relative(name):
            return item.high if more else item.low
        # A latency counts by its ratio to the baseline, turned round.
        return 1 / item.ratio_high if item.ratio is not None and item.ratio_high else None
    if not known and name in CHEAP:
        return -float("inf") if more else float("inf")
    metric = plan.metric(name)
    if metric.dimension == "ratio":
        return 1.0 if more else 0.0
    return None


def _beaten(
    plan: Plan, known: Measured, losses: Mapping[int, Sequence[float]]
) -> tuple[int, str] | None:
    """A trial that is better than the best that this one can become, and in which figures."""
    best = _best(plan, known)
    if best is None:
        return None
    for number, theirs in losses.items():
        if pareto.dominates(theirs, best):
            return number, _compared(plan, theirs, best, known)
    return None


def _compared(plan: Plan, theirs: Sequence[float], best: Sequence[float], known: Measured) -> str:
    parts = []
    for objective, one, other in zip(plan.objectives, theirs, best, strict=True):
        more, ref = objective.direction == "maximize", objective.metric
        unit = UNITS.get(plan.metric(ref.metric).dimension, "")
        name = short_name(ref.metric) if ref.target is None else f"{ref.target}.{short_name(ref.metric)}"
        if measured_of(known, ref) is not None and is_relative(ref.metric):
            texts = times(1 / one), f"at most {times(1 / other)}"
        else:
            sign = -1 if more else 1
            limit = "at most" if more else "at least"
            texts = quantity(sign * one, unit), f"{limit} {quantity(sign * other, unit)}"
        parts.append(f"{name} {texts[0]} against {texts[1]}")
    return ", ".join(parts)
