"""Which of several points is trained next: the one whose expected gain of the front is largest for its expected cost.

A forest of randomized trees (Geurts et al., 2006, as SMAC uses forests: Hutter et al., 2011) learns all goals and
requirements from the trials so far, over the genes of their points (samplers/encoding.py). Each tree is one opinion of
a candidate; the gain is the mean over them of the hypervolume that the candidate would add to the front (Emmerich et
al., 2006), where the tree has it meet the requirements. What a training leaves as it is, and a trial with the same
steps but for their trainings has measured, is not guessed. Knows no cache and no clock: its caller says what a trial
would cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from optlang.plan.domains import every_value, size
from optlang.plan.model import Knob, Plan
from optlang.search import pareto
from optlang.search.early import CHEAP
from optlang.search.observation import Observation, Suggestion, seed_of
from optlang.search.sampler import Sampler
from optlang.search.samplers.encoding import gene_of, unordered
from optlang.space.recipe import Point, Recipe, resolve

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_Front: TypeAlias = "pareto.Front[tuple[float, ...]]"

ENOUGH = 8
"""Trials with figures that a prediction needs."""

TREES, OPINIONS, VOLUME = 16, 32, 1024
"""Trees of the forest, draws of what it predicts, and points by which a gain of the hypervolume is measured."""

OWN = 4
"""One in so many trials is the sampler's own, so that a wrong prediction keeps the search from nothing for long."""

MARGIN = 0.1
"""How far behind the worst of the front, as a share of the front's extent, a point adds nothing any more."""

STATE = "screening"
"""What a trial's sampler state has of it: of how many candidates it was chosen, or why it was not."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What the caller knows of trials that were not carried out.

    `seconds` are those that the recipes are expected to take, `trains` whether one has a training whose result is not
    in the cache, `shape` names the recipe without its trainings (None: its trainings decide its size and speed).
    """

    seconds: Callable[[Sequence[Recipe]], list[float]]
    trains: Callable[[Recipe], bool]
    shape: Callable[[Recipe], str | None]


@dataclass(slots=True)
class Screening:
    """Asks the sampler for candidates, and takes one of them; `batch` is of how many, 0 leaves it to the sampler."""

    plan: Plan
    sampler: Sampler
    costs: Costs
    batch: int
    _seen: _Seen = field(init=False)
    _fronts: tuple[_Front, _Front, _Front] = field(init=False)
    """Of this run's trials that meet all requirements, of all its trials, and of all that was taken in."""
    _shapes: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    """The losses of what was measured, by what its trainings leave as it is."""

    def __post_init__(self) -> None:
        self._seen = _Seen(self.plan)
        self._fronts = (pareto.Front(), pareto.Front(), pareto.Front())

    def tell(self, told: Observation, *, own: bool = True) -> None:
        """Add what became of a point, of this run or an earlier one; the caller passes it to the sampler too."""
        number = len(self._seen.told)
        self._seen.add(told)
        if told.values is None:
            return
        losses = pareto.losses(self.plan, told.values)
        shape = self.costs.shape(resolve(self.plan, told.point))
        if shape is not None:
            self._shapes.setdefault(shape, []).append(losses)
        met = own and all(value <= 0 for value in told.violations)
        for front, belongs in zip(self._fronts, (met, own, True), strict=True):
            if belongs:
                front.add(number, losses)

    def ask(self, number: int) -> Suggestion:
        """The point of trial `number`; raises `Exhausted` as the sampler does.

        It is the sampler's own in one of `OWN` trials, where that trains nothing new, where too little is known, and
        where the forest predicts what it has not seen no better than a constant. The same history and number make the
        same choice.
        """
        first = self.sampler.ask(number)
        if self.batch < 2 or self._seen.measured < ENOUGH or number % OWN == 0:
            return first
        if not self.costs.trains(resolve(self.plan, first.point)):
            return first
        candidates = [first, *self.sampler.others(number, first, self.batch - 1)]
        if len(candidates) == 1:
            return first
        forest = _Forest(self._seen, seed_of(self.plan.search.seed, number, "forest"))
        if not forest.better_than_a_constant:
            return Suggestion(first.point, {**first.state, STATE: {"predicted": False}})
        recipes = [resolve(self.plan, item.point) for item in candidates]
        gains = self._gains(forest, candidates, recipes)
        seconds = self.costs.seconds(recipes)
        rates = [gain / max(spent, 1e-3) for gain, spent in zip(gains, seconds, strict=True)]
        best = max(range(len(rates)), key=lambda index: (rates[index], -index))
        if rates[best] <= 0:
            return first
        chosen = candidates[best]
        return Suggestion(chosen.point, {**chosen.state, STATE: {"taken": best, "of": len(candidates)}})

    def _gains(self, forest: _Forest, candidates: Sequence[Suggestion], recipes: Sequence[Recipe]) -> list[float]:
        """The expected gain of each candidate, in shares of the box that the front is measured in."""
        losses, violations = forest.opinions([item.point for item in candidates])
        cheap = [index for index, item in enumerate(self.plan.objectives) if item.metric.metric in CHEAP]
        for at, recipe in enumerate(recipes):
            shape = self.costs.shape(recipe)
            known = self._shapes.get(shape, []) if shape is not None else []
            for index in cheap if known else ():
                losses[:, at, index] = sum(item[index] for item in known) / len(known)
        return _improvements(self._front(), losses, violations)

    def _front(self) -> list[tuple[float, ...]]:
        """The losses of this run's front, of all its trials where none meets the requirements, else of all."""
        return next((list(front.members.values()) for front in self._fronts if front.members), [])


class _Seen:
    """What was taken in, as numbers, each point once: a row of features, and what became of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.told: list[Observation] = []
        self.measured = 0
        self._knobs = tuple(knob for knob in plan.knobs if size(knob.domain) != 1)
        self._rows: list[list[float]] = []
        self._results: list[list[float] | None] = []

    def add(self, told: Observation) -> None:
        """Take in what became of a point."""
        self.told.append(told)
        self._rows.append(self.cells(told.point))
        self.measured += told.values is not None
        self._results.append(
            None if told.values is None else [*pareto.losses(self.plan, told.values), *map(float, told.violations)]
        )

    def features(self) -> Array:
        """A row a point."""
        import numpy as np

        return np.array(self._rows)

    def targets(self) -> Array:
        """A row a point: losses and violations. A trial without figures counts as the worst in all."""
        import numpy as np

        goals = len(self.plan.objectives)
        worst = np.array([row for row in self._results if row is not None]).max(axis=0)
        worst[goals:] = 1.0
        return np.array([worst if row is None else row for row in self._results])

    def cells(self, point: Point) -> list[float]:
        """A point as numbers: one for each knob, one column a value where nearness of values says nothing."""
        return [cell for knob in self._knobs for cell in _cells(knob, point)]


class _Forest:
    """What the trials say of points that were not tried."""

    def __init__(self, seen: _Seen, seed: int) -> None:
        from sklearn.ensemble import ExtraTreesRegressor
        from threadpoolctl import threadpool_limits

        self._seen, self._plan = seen, seen.plan
        self._goals = len(self._plan.objectives)
        features, targets = seen.features(), seen.targets()
        self._middle, self._scale = targets.mean(axis=0), targets.std(axis=0)
        self._scale[self._scale == 0] = 1.0
        self._forest = ExtraTreesRegressor(TREES, bootstrap=True, min_samples_leaf=1, random_state=seed)
        scaled = (targets - self._middle) / self._scale
        with threadpool_limits(1):
            self._forest.fit(features, scaled)
        self._judge(features, scaled)

    def _judge(self, features: Array, scaled: Array) -> None:
        """How well each trial is predicted by the trees that were grown without it (Breiman, 1996)."""
        import numpy as np

        total, times = np.zeros_like(scaled), np.zeros(len(scaled))
        for tree, kept in zip(self._forest.estimators_, self._forest.estimators_samples_, strict=True):
            out = np.setdiff1d(np.arange(len(scaled)), kept)
            total[out] += tree.predict(features[out]).reshape(len(out), -1) if len(out) else 0.0
            times[out] += 1
        seen = times > 0
        error = ((total[seen] / times[seen][:, None] - scaled[seen]) ** 2).mean(axis=0)
        self._noise = np.sqrt(error)
        spread = scaled[seen].var(axis=0)
        # What the trainings decide is what a prediction is for; the other goals are counted or measured.
        metrics = [item.metric.metric for item in self._plan.objectives]
        asked = [index for index, name in enumerate(metrics) if name not in CHEAP] or list(range(self._goals))
        self.better_than_a_constant = bool(all(error[index] < spread[index] for index in asked))

    def opinions(self, points: Sequence[Point]) -> tuple[Array, Array]:
        """The losses of the points and by how much requirements are missed: a row an opinion, then the points."""
        import numpy as np
        from scipy.special import ndtri
        from scipy.stats import qmc

        features = np.array([self._seen.cells(point) for point in points], dtype=np.float32)
        trees = np.array([tree.predict(features).reshape(len(points), -1) for tree in self._forest.estimators_])
        # A tree repeats what some trial had, which never is a gain: their mean and spread say what may be.
        draws = ndtri(qmc.Sobol(trees.shape[2], scramble=True, rng=0).random(OPINIONS))
        found = trees.mean(axis=0) + trees.std(axis=0) * draws[:, None, :]
        found = found * self._scale + self._middle
        return found[:, :, :self._goals], found[:, :, self._goals:]


def _cells(knob: Knob, point: Point) -> list[float]:
    """The knob in the forest's own coordinates; -1 where it is not there, which a tree can tell apart."""
    there = knob.path in point
    count = size(knob.domain)
    if not unordered(knob.domain) or count is None or count > 12:
        return [gene_of(knob.domain, point[knob.path]) if there else -1.0]
    return [float(there and point[knob.path] == value) for value in every_value(knob.domain)]


def _improvements(front: Sequence[Sequence[float]], losses: Array, violations: Array) -> list[float]:
    """The mean over the opinions of the hypervolume that each point adds to the front, as a share of the box.

    `losses` has a row for each opinion, then the points, then the goals. The box reaches from the best that anything
    has to a little behind the worst of the front; its volume is that of a Sobol' sequence's points in it.
    """
    import numpy as np
    from scipy.stats import qmc

    members = np.array(front)
    count, number, goals = losses.shape
    best = np.minimum(members.min(axis=0), losses.reshape(-1, goals).min(axis=0))
    worst = members.max(axis=0)
    worst = worst + np.maximum(MARGIN * (worst - best), 1e-9 * np.abs(worst) + 1e-12)
    places = best + (worst - best) * qmc.Sobol(goals, scramble=True, rng=0).random(VOLUME)
    free = places[~(members[:, None, :] <= places).all(axis=2).any(axis=0)]
    met = (violations <= 0).all(axis=2)
    gains = np.zeros((count, number))
    for index in range(count):
        gains[index] = (losses[index][:, None, :] <= free).all(axis=2).sum(axis=1)
    found: list[float] = ((gains * met).mean(axis=0) / VOLUME).tolist()
    return found
