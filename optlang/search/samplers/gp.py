"""Bayesian optimization with Gaussian processes by Optuna, on the genes of points that may run.

One process an objective and a requirement (Matern 5/2, a length a knob), and the expected improvement of the front's
hypervolume (Daulton et al., 2020) times the chance to meet the requirements (Gardner et al., 2014). Optuna models only
knobs that every trial has, and looks for its next point in the whole box. Here every knob is a dimension, one that is
not there has a value of its own (imputation: Lévesque et al., 2017), and the next point is looked for by local search
among those that may run and were not run (as SMAC does: Hutter et al., 2011), so that no forbid and no fact is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

from optlang.plan.domains import size
from optlang.plan.model import Plan
from optlang.search import pareto
from optlang.search.observation import TRIES, Observation, Suggestion
from optlang.search.samplers.encoding import ABSENT, gene_of, position, unordered
from optlang.search.samplers.neighbors import changed, drawn, uniform
from optlang.search.samplers.optuna_adapter import Score, maximize, quiet
from optlang.space.recipe import Point, resolve
from optlang.space.space import Space

if TYPE_CHECKING:
    import numpy as np

DRAWN, STARTS, NEIGHBORS, ROUNDS = 500, 10, 12, 4
"""Points drawn at random to begin with; of the best of these and of the front so many are walked on from, each to its
best neighbor, for so many rounds."""


class Gaussian:
    """Gaussian processes after `startup` random draws that could be measured."""

    tries = TRIES

    def __init__(
        self, plan: Plan, space: Space, known: set[str], startup: int, leaves_out: Callable[[Point], bool]
    ) -> None:
        self._plan, self._space, self._known, self._startup = plan, space, known, startup
        self._leaves_out = leaves_out
        self._knobs = tuple(knob for knob in plan.knobs if size(knob.domain) != 1)
        self._told: list[Observation] = []
        self._expected: Sequence[Point] = ()

    def add(self, told: Observation) -> None:
        """Take in what became of a point."""
        self._told.append(told)

    def expect(self, points: Sequence[Point]) -> None:
        """The expected improvement is that over what the processes expect of these."""
        self._expected = points

    def draw(self, seed: int, attempt: int) -> Suggestion:
        """The point of the greatest expected improvement, or a random one before `startup` and after a refusal."""
        random = Random(seed)
        measured = [told for told in self._told if told.values is not None]
        if attempt > 0 or len(measured) < max(2, self._startup) or not self._knobs:
            return Suggestion(self.drawn(random), {})
        return Suggestion(self._best(measured, seed, random), {})

    def postpone(self, asked: Suggestion) -> None:
        """Nothing is learned from it."""

    def refuse(self, asked: Suggestion, *, forbidden: bool) -> bool:
        """Nothing is learned from it."""
        return False

    def drawn(self, random: Random) -> Point:
        """A random point, which may be forbidden."""
        return uniform(self._space, random)

    @quiet()
    def _best(self, measured: Sequence[Observation], seed: int, random: Random) -> Point:
        import optuna

        study = optuna.create_study(directions=[objective.direction for objective in self._plan.objectives])
        distributions: dict[str, optuna.distributions.BaseDistribution] = {
            knob.path: optuna.distributions.CategoricalDistribution(tuple(range(size(knob.domain) or 1)))
            if unordered(knob.domain) else optuna.distributions.FloatDistribution(0.0, 1.0)
            for knob in self._knobs
        }
        for told, values, violations in self._examples(measured):
            study.add_trial(optuna.trial.create_trial(
                values=values, params=self._params(told.point), distributions=distributions,
                constraints={str(index): value for index, value in enumerate(violations)},
            ))
        for point in self._expected:
            study.add_trial(optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING, params=self._params(point), distributions=distributions
            ))
        search = _Search(self, measured, random)
        maximize(study, distributions, seed, search)
        assert search.found is not None
        return search.found

    def _params(self, point: Point) -> dict[str, float]:
        return {
            knob.path: int(value) if unordered(knob.domain) else value
            for knob, value in zip(self._knobs, self.row(point), strict=True)
        }

    def _examples(self, measured: Sequence[Observation]) -> list[tuple[Observation, list[float], list[float]]]:
        """What the processes are fitted to: objectives and violations, one more for whether the trial failed.

        A failure has no values of its own: it is given the means, which say nothing, and the violation.
        """
        failed = [told for told in self._told if told.values is None]
        rows = [(told, [float(value) for value in told.values or ()], [float(v) for v in told.violations])
                for told in measured]
        if not failed:
            return rows
        means = [sum(column) / len(rows) for column in zip(*(values for _, values, _ in rows), strict=True)]
        offs = [sum(column) / len(rows) for column in zip(*(broken for _, _, broken in rows), strict=True)]
        return [(told, values, [*broken, -1.0]) for told, values, broken in rows] + [
            (told, means, [*offs, 1.0]) for told in failed
        ]

    def row(self, point: Point) -> list[float]:
        """The point in the processes' own coordinates: an index for unordered knobs, a gene for all others."""
        found = []
        for knob in self._knobs:
            if unordered(knob.domain):
                found.append(float(position(knob.domain, point[knob.path])) if knob.path in point else 0.0)
            else:
                found.append(gene_of(knob.domain, point[knob.path]) if knob.path in point else ABSENT)
        return found

    def front(self, measured: Sequence[Observation]) -> list[Point]:
        """The points of the front, or all where none meets the requirements."""
        feasible = {
            index: pareto.losses(self._plan, told.values or ())
            for index, told in enumerate(measured) if all(value <= 0 for value in told.violations)
        }
        return [measured[index].point for index in pareto.front(feasible)] or [told.point for told in measured]

    def new(self, point: Point) -> bool:
        """Whether it may run, was not run, and is not left out of this trial."""
        if self._space.forbidden(point) is not None or self._leaves_out(point):
            return False
        return resolve(self._plan, point).effect not in self._known

    def random_point(self, random: Random) -> Point | None:
        """A point that may run, or None where this draw is none."""
        return self._allowed(drawn(self._space, random))

    def neighbor(self, point: Point, random: Random) -> Point | None:
        """A point near another that may run, or None where this draw is none."""
        return self._allowed(changed(self._plan, self._space, point, random))

    def _allowed(self, point: Point | None) -> Point | None:
        return point if point is not None and self._space.forbidden(point) is None else None


class _Search:
    """Looks for the point with the greatest value of an acquisition function."""

    def __init__(self, owner: Gaussian, measured: Sequence[Observation], random: Random) -> None:
        self._owner, self._measured, self._random = owner, measured, random
        self.found: Point | None = None

    def __call__(self, score: Score) -> np.ndarray:
        """The normalized parameters of the best point, which it leaves in `found`."""
        import numpy as np

        owner, random = self._owner, self._random
        drawn = [point for _ in range(DRAWN) if (point := owner.random_point(random)) is not None]
        front = owner.front(self._measured)
        near = [
            other for point in random.sample(front, min(STARTS, len(front))) for _ in range(NEIGHBORS)
            if (other := owner.neighbor(point, random)) is not None
        ]
        ranked = self._ranked(score, [*drawn, *near])
        for _ in range(ROUNDS):
            near = [
                other for _, point in ranked[:STARTS] for _ in range(NEIGHBORS)
                if (other := owner.neighbor(point, random)) is not None
            ]
            best = ranked[0][0] if ranked else None
            ranked = sorted([*ranked[:5 * STARTS], *self._ranked(score, near)], key=lambda item: -item[0])
            if not ranked or ranked[0][0] == best:
                break
        self.found = next((point for _, point in ranked if owner.new(point)), None) or owner.drawn(random)
        return np.array(owner.row(self.found))

    def _ranked(self, score: Score, points: Sequence[Point]) -> list[tuple[float, Point]]:
        import numpy as np

        if not points:
            return []
        values = score(np.array([self._owner.row(point) for point in points]))
        return sorted(zip(values.tolist(), points, strict=True), key=lambda item: -item[0])

