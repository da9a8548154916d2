"""All points of a finite space, each once, in an order that follows from the seed."""

from __future__ import annotations

import json
from collections.abc import Sequence

from optlang.analysis.lower.search_settings import GRID_POINTS
from optlang.interfaces import OptlangError
from optlang.plan.model import Plan
from optlang.search.observation import Observation, Suggestion, seed_of
from optlang.space.recipe import Point
from optlang.space.space import Exhausted, Space


class Grid:
    """The points that may run. OptlangError where a knob is continuous, or there are more than `GRID_POINTS`.

    A point's place in the order is its own, not the list's: what is missing on this machine moves no other.
    """

    tries = GRID_POINTS + 1

    def __init__(self, plan: Plan, space: Space) -> None:
        size = space.size()
        if size.continuous:
            raise OptlangError(f"a grid has no end: `{size.continuous[0]}` is continuous", help="give it a step")
        if not size.exact or size.points > GRID_POINTS:
            raise OptlangError(
                f"a grid of {'' if size.exact else 'up to '}{size.points:,} points is more than {GRID_POINTS:,}",
                help="take another sampler, or wider steps",
            )
        self._seed = plan.search.seed
        # Those that were not drawn yet, and where among them this trial's draws are.
        self._left = sorted(space.points(), key=self._place)
        self._at = 0

    def _place(self, point: Point) -> tuple[int, str]:
        text = json.dumps(point, sort_keys=True)
        return seed_of(self._seed, text), text

    def add(self, told: Observation) -> None:
        """The search knows what was run: it asks for the next point then."""

    def expect(self, points: Sequence[Point]) -> None:
        """What is drawn does not depend on it."""

    def draw(self, seed: int, attempt: int) -> Suggestion:
        """The first point that is left. A later process begins at the first of all, and passes over what was run."""
        if attempt == 0:
            self._at = 0
        if self._at == len(self._left):
            raise Exhausted
        return Suggestion(self._left.pop(self._at), {})

    def postpone(self, asked: Suggestion) -> None:
        """It stays where it was, and this trial goes on behind it."""
        self._left.insert(self._at, asked.point)
        self._at += 1

    def refuse(self, asked: Suggestion, *, forbidden: bool) -> bool:
        """It is gone already."""
        return False
