"""Pareto dominance: which trials are nowhere worse than another and somewhere better, and which ones nobody dominates.

The view `front` (store/views.py) says the same in SQL; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optlang.plan.model import Plan


def losses(plan: Plan, values: Sequence[float]) -> tuple[float, ...]:
    """The objectives' values, each in its own direction, with signs turned so that less is always better."""
    return tuple(
        -value if objective.direction == "maximize" else value
        for objective, value in zip(plan.objectives, values, strict=True)
    )


def dominates(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether `left` is nowhere worse than `right` and somewhere better (less is better)."""
    return all(a <= b for a, b in zip(left, right, strict=True)) and any(
        a < b for a, b in zip(left, right, strict=True)
    )


def front(points: Mapping[int, Sequence[float]]) -> list[int]:
    """The keys of the points that no other dominates (less is better), in their order."""
    return [
        key for key, point in points.items()
        if not any(dominates(other, point) for number, other in points.items() if number != key)
    ]
