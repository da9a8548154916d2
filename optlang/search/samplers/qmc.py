"""A scrambled Sobol' sequence over the genes of points: spread more evenly than random draws, and as blind.

Sobol', 1967; scrambling by Owen, 1998; for hyperparameters: Bergstra and Bengio, 2012. Optuna's own sampler of this
kind spreads the knobs of its first trial only and draws all others at random; here each knob has its coordinate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optlang.plan.model import Plan
from optlang.search.observation import TRIES, Observation, Suggestion, seed_of
from optlang.search.samplers.encoding import point_of
from optlang.space.recipe import Point
from optlang.space.space import Space

_DRAWN = "drawn"


class QuasiRandom:
    """The sequence of the study's seed, from where the last trial that it knows of left it."""

    tries = TRIES

    def __init__(self, plan: Plan, space: Space) -> None:
        self._plan, self._space = plan, space
        self._next = 0
        self._sequence: Any = None

    def add(self, told: Observation) -> None:
        """Go on after this point; how it did says nothing to a sequence."""
        drawn = told.state.get(_DRAWN)
        if isinstance(drawn, int) and drawn >= self._next:
            self._next = drawn + 1

    def expect(self, points: Sequence[Point]) -> None:
        """What is drawn does not depend on it."""

    def draw(self, seed: int, attempt: int) -> Suggestion:
        """The next member of the sequence, whatever the seed of the draw."""
        from scipy.stats import qmc

        if self._sequence is None or self._sequence.num_generated > self._next:
            count = max(1, len(self._plan.knobs))
            self._sequence = qmc.Sobol(count, scramble=True, rng=seed_of(self._plan.search.seed, "sequence"))
        if self._next > self._sequence.num_generated:
            self._sequence.fast_forward(self._next - self._sequence.num_generated)
        drawn, self._next = self._next, self._next + 1
        coordinates = self._sequence.random(1)[0].tolist()
        genes = {knob.path: gene for knob, gene in zip(self._plan.knobs, coordinates, strict=False)}
        return Suggestion(point_of(self._space, genes), {_DRAWN: drawn})

    def postpone(self, asked: Suggestion) -> None:
        """It has gone on already."""

    def refuse(self, asked: Suggestion, *, forbidden: bool) -> bool:
        """It has gone on already."""
        return False
