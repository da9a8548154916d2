"""Pareto dominance: which trials are nowhere worse than another and somewhere better, and which ones nobody dominates.

The view `front` (store/views.py) says the same in SQL; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from optlang.plan.model import Plan


def losses(plan: Plan, values: Sequence[float]) -> tuple[float, ...]:
    """The objectives' values, each in its own direction, with signs turned so that less is always better."""
    return tuple(
        -value if objective.direction == "maximize" else value
        for objective, value in zip(plan.objectives, values, strict=True)
    )


def dominates(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether `left` is nowhere worse than `right` and somewhere better (less is better)."""
    better = False
    for a, b in zip(left, right, strict=True):
        if not a <= b:
            return False
        better = better or a < b
    return better


Losses = TypeVar("Losses", bound=Sequence[float])


class Front(Generic[Losses]):
    """The points that no other dominates, of those that were added: each is compared with the members alone."""

    def __init__(self) -> None:
        self.members: dict[int, Losses] = {}
        """In the order in which they were added."""

    def add(self, key: int, losses: Losses) -> bool:
        """Whether the point is a member; those that it dominates are none any more."""
        if self.dominates(losses):
            return False
        for other in [other for other, own in self.members.items() if dominates(losses, own)]:
            del self.members[other]
        self.members[key] = losses
        return True

    def dominates(self, losses: Sequence[float]) -> bool:
        """Whether a member dominates a point."""
        return any(dominates(own, losses) for own in self.members.values())


def front(points: Mapping[int, Sequence[float]]) -> list[int]:
    """The keys of the points that no other dominates (less is better), in their order."""
    found = Front[Sequence[float]]()
    for key, point in points.items():
        found.add(key, point)
    return list(found.members)
