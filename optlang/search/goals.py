"""What a trial's measurements are worth: objective values, requirements, and who dominates whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optlang.forms import Measurement
from optlang.plan.expressions import Environment, MetricRef, references, violations
from optlang.plan.model import Plan, Rule

Measured = Mapping[str, Measurement]
"""A trial's measurements by metric name."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A requirement that a trial does not meet, and by how much (a share of the bound; 0.05 is 5 % off)."""

    text: str
    by: float


def by_metric(measurements: Iterable[Measurement]) -> dict[str, Measurement]:
    """The latest measurement of each metric."""
    return {item.metric: item for item in measurements}


def objective_values(plan: Plan, measured: Measured) -> list[float]:
    """One number an objective, in the objective's own direction.

    Latencies count as their ratio to the baseline, which ran beside them, so that a machine that is busy in one hour
    and quiet in the next does not decide the front. KeyError where a metric was not measured.
    """
    values = []
    for objective in plan.objectives:
        item = measured[objective.metric.metric]
        paired = item.ratio is not None and item.ratio > 0 and item.metric.startswith("latency.")
        values.append(1 / item.ratio if paired and item.ratio else item.value)
    return values


def losses(plan: Plan, measured: Measured) -> tuple[float, ...]:
    """The objective values with their signs turned so that less is always better."""
    return tuple(
        -value if objective.direction == "maximize" else value
        for objective, value in zip(plan.objectives, objective_values(plan, measured), strict=True)
    )


def dominates(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether `left` is nowhere worse than `right` and somewhere better (less is better)."""
    return all(a <= b for a, b in zip(left, right, strict=True)) and any(
        a < b for a, b in zip(left, right, strict=True)
    )


def front(points: Mapping[int, Sequence[float]]) -> list[int]:
    """The keys of the points that no other dominates (less is better), in their order."""
    return [
        key for key, losses_ in points.items()
        if not any(dominates(other, losses_) for number, other in points.items() if number != key)
    ]


def requirement_violations(rule: Rule, measured: Measured, baseline: Measured) -> list[float]:
    """How far the requirement is from being met, one number a conjunct; at most 0 where it holds."""
    def metric(ref: MetricRef) -> float | None:
        found = (baseline if ref.baseline else measured).get(ref.metric)
        return None if found is None else found.value

    return violations(rule.expression, Environment(metric=metric))


def broken(plan: Plan, measured: Measured, baseline: Measured) -> list[Violation]:
    """The requirements that are not met, with how far each is from it."""
    found = []
    for rule in plan.requires:
        worst = max(requirement_violations(rule, measured, baseline))
        if worst > 0:
            found.append(Violation(rule.text, worst))
    return found


def constraints(plan: Plan, measured: Measured, baseline: Measured) -> list[float]:
    """All requirements as one list of numbers for the sampler, at most 0 where they hold."""
    return [value for rule in plan.requires for value in requirement_violations(rule, measured, baseline)]


def metrics_of(rule: Rule) -> list[MetricRef]:
    """The metrics that a requirement names."""
    return [ref for ref in references(rule.expression) if isinstance(ref, MetricRef)]
