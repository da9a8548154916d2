"""Which trials are within noise of each other in every goal: they tie, and one stands for all.

The view `front` (store/front_view.py) says the same in SQL; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from optlang.interfaces import Measurement
from optlang.plan.metrics import ALIKE, is_relative
from optlang.plan.model import Metric, Plan
from optlang.search.objectives import Measured, measured_of, objective_values

Spread: TypeAlias = "tuple[float, float]"
"""Within which values an objective's may lie, for all that is known: low and high."""


def spreads(plan: Plan, measured: Measured, baseline: Measured) -> list[Spread]:
    """One for each objective, around the values of `objective_values`; KeyError where a metric was not measured."""
    values = objective_values(plan, measured, baseline)
    found = []
    for objective, value in zip(plan.objectives, values, strict=True):
        item = measured_of(measured, objective.metric)
        assert item is not None
        found.append(_spread(plan.metric(objective.metric.metric), item, value))
    return found


def _spread(metric: Metric, item: Measurement, value: float) -> Spread:
    """The 95 % interval of the comparison with the baseline where there is one, else the metric's own.

    What is counted has none: bytes and the like within `ALIKE` of each other are alike.
    """
    low, high = value, value
    if item.ratio and item.ratio_low and item.ratio_high and min(item.ratio, item.ratio_low, item.ratio_high) > 0:
        if metric.direction == "maximize":
            low, high = value * item.ratio_low / item.ratio, value * item.ratio_high / item.ratio
        else:
            low, high = value * item.ratio / item.ratio_high, value * item.ratio / item.ratio_low
    elif not is_relative(metric.name):
        if item.low is not None and item.high is not None and (metric.judges or item.low < item.high):
            low, high = item.low, item.high
        elif not metric.judges:
            low, high = value * (1 - ALIKE / 2), value * (1 + ALIKE / 2)
    return min(low, high), max(low, high)


def alike(left: Sequence[Spread], right: Sequence[Spread]) -> bool:
    """Whether the spreads of two trials overlap in every objective."""
    # A loop: a generator for each pair would take twice as long.
    for a, b in zip(left, right, strict=True):  # noqa: SIM110
        if a[0] > b[1] or b[0] > a[1]:
            return False
    return True


def standing(members: Mapping[int, Sequence[float]], known: Mapping[int, Sequence[Spread]]) -> list[int]:
    """The members of a front, by their losses, that stand for their ties: best in the first objective first."""
    kept: list[int] = []
    for number in sorted(members, key=lambda number: (*members[number], number)):
        if tied_with(known[number], kept, known) is None:
            kept.append(number)
    return kept


def tied_with(
    spread: Sequence[Spread], kept: Sequence[int], known: Mapping[int, Sequence[Spread]]
) -> int | None:
    """The first of the trials `kept` that one with this spread ties with; None where it ties with none."""
    return next((member for member in kept if known[member] and alike(known[member], spread)), None)


def ties(
    front: Collection[int], losses: Mapping[int, Sequence[float]], known: Mapping[int, Sequence[Spread]]
) -> dict[int, int]:
    """The trials that tie with a member of the front, each with the one that stands for it.

    That is the member that is better in the first objective (the next one, where they are equal there; at last the one
    with the lower number), among those that no better one stands for. Trials that are dominated, though by no more than
    noise, are among the ties. `losses` and `known` are of all trials that may be in the front, the baseline left out:
    it stands for itself alone.
    """
    kept = standing({number: own for number, own in losses.items() if number in front}, known)
    themselves = set(kept)
    found: dict[int, int] = {}
    for number in sorted(losses, key=lambda number: (number not in front, *losses[number], number)):
        other = None if number in themselves else tied_with(known[number], kept, known)
        if other is not None:
            found[number] = other
    return found
