"""Which of several points is trained next: the one whose expected gain of the front is largest for its expected cost.

Models (prediction.py) learn all goals and requirements from the trials so far. What they say of a candidate is drawn
several times; the gain is the mean over these draws of the hypervolume that the candidate would add to the front
(Emmerich et al., 2006), where it meets the requirements. What a training leaves as it is, and a trial with the same
steps but for their trainings has measured, is not guessed. Knows no cache and no clock: its caller says what a trial
would cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from optlang.plan.model import Plan
from optlang.search import pareto
from optlang.search.early import CHEAP
from optlang.search.observation import Observation, Suggestion, seed_of
from optlang.search.prediction import Prediction, Seen
from optlang.search.sampler import Sampler
from optlang.space.cost import trial_cost
from optlang.space.recipe import Point, Recipe, resolve

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_Front: TypeAlias = "pareto.Front[tuple[float, ...]]"

ENOUGH = 8
"""Trials with figures that a prediction needs."""

OPINIONS, VOLUME = 32, 1024
"""Draws of what is predicted, and points by which a gain of the hypervolume is measured."""

MANY = 500
"""After so many trials only those are screened that train: what a prediction takes grows with the trials."""

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
    _seen: Seen = field(init=False)
    _trains: bool = field(init=False)
    """Whether any trial of the study may train."""
    _fronts: tuple[_Front, _Front, _Front] = field(init=False)
    """Of this run's trials that meet all requirements, of all its trials, and of all that was taken in."""
    _expected: Sequence[Point] = ()
    _shapes: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    """The losses of what was measured, by what its trainings leave as it is."""

    def __post_init__(self) -> None:
        self._seen = Seen(self.plan)
        self._trains = trial_cost(self.plan, self.plan.steps).epochs.high > 0
        self._fronts = (pareto.Front(), pareto.Front(), pareto.Front())

    def tell(self, told: Observation, *, own: bool = True) -> None:
        """Add what became of a point, of this run or an earlier one; the caller passes it to the sampler too."""
        number = len(self._seen)
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

    def expect(self, points: Sequence[Point]) -> None:
        """These points, and no others, are being tried now: what they are predicted to have gains nothing twice."""
        self._expected = points
        self.sampler.expect(points)

    def ask(self, number: int) -> Suggestion:
        """The point of trial `number`; raises `Exhausted` as the sampler does.

        It is the sampler's own in one of `OWN` trials, in every other one that trains nothing new, where too little is
        known, and where no goal is predicted better than by a constant. The same history and number make the same
        choice.
        """
        first = self.sampler.ask(number)
        if self.batch < 2 or self._seen.measured < ENOUGH or number % OWN == 0:
            return first
        # Most of what trains nothing new is near to what was tried, and cheap.
        often = number % 2 == 0 and self._trains and len(self._seen) <= MANY
        if not often and not self.costs.trains(resolve(self.plan, first.point)):
            return first
        candidates = [first, *self.sampler.others(number, first, self.batch - 1)]
        if len(candidates) == 1:
            return first
        prediction = Prediction(self._seen, seed_of(self.plan.search.seed, number, "forest"))
        if not prediction.better_than_constants:
            return Suggestion(first.point, {**first.state, STATE: {"predicted": False}})
        recipes = [resolve(self.plan, item.point) for item in candidates]
        gains = self._gains(prediction, candidates, recipes)
        seconds = self.costs.seconds(recipes)
        rates = [gain / max(spent, 1e-3) for gain, spent in zip(gains, seconds, strict=True)]
        best = max(range(len(rates)), key=lambda index: (rates[index], -index))
        if rates[best] <= 0:
            return first
        chosen = candidates[best]
        return Suggestion(chosen.point, {**chosen.state, STATE: {"taken": best, "of": len(candidates)}})

    def _gains(
        self, prediction: Prediction, candidates: Sequence[Suggestion], recipes: Sequence[Recipe]
    ) -> list[float]:
        """The expected gain of each candidate, in shares of the box that the front is measured in."""
        import numpy as np
        from scipy.special import ndtri
        from scipy.stats import qmc

        draws = ndtri(qmc.Sobol(len(prediction.models), scramble=True, rng=0).random(OPINIONS))
        points = [*(item.point for item in candidates), *self._expected]
        features = np.array([self._seen.cells(point) for point in points])
        goals = len(self.plan.objectives)
        found = prediction.opinions(features, draws)
        losses, violations = found[:, :, :goals], found[:, :, goals:]
        cheap = [index for index, item in enumerate(self.plan.objectives) if item.metric.metric in CHEAP]
        for at, recipe in enumerate(recipes):
            shape = self.costs.shape(recipe)
            known = self._shapes.get(shape, []) if shape is not None else []
            for index in cheap if known else ():
                losses[:, at, index] = sum(item[index] for item in known) / len(known)
        return _improvements(self._front(), losses, violations, len(candidates))

    def _front(self) -> list[tuple[float, ...]]:
        """The losses of this run's front, of all its trials where none meets the requirements, else of all."""
        return next((list(front.members.values()) for front in self._fronts if front.members), [])


def _improvements(
    front: Sequence[Sequence[float]], losses: Array, violations: Array, candidates: int
) -> list[float]:
    """The mean over the opinions of the hypervolume that each candidate adds to the front, as a share of the box.

    `losses` has a row for each opinion, then the points, then the goals. Points behind the `candidates` are those that
    are being tried: what an opinion says of them belongs to the front that it is compared with. The box reaches from
    the best that anything has to a little behind the worst of the front; its volume is that of a Sobol' sequence's
    points in it.
    """
    import numpy as np
    from scipy.stats import qmc

    members = np.array(front)
    count, _, goals = losses.shape
    best = np.minimum(members.min(axis=0), losses[:, :candidates].reshape(-1, goals).min(axis=0))
    worst = members.max(axis=0)
    worst = worst + np.maximum(MARGIN * (worst - best), 1e-9 * np.abs(worst) + 1e-12)
    places = best + (worst - best) * qmc.Sobol(goals, scramble=True, rng=0).random(VOLUME)
    free = places[~(members[:, None, :] <= places).all(axis=2).any(axis=0)]
    met: Array = np.all(violations <= 0, axis=2)
    gains = np.zeros((count, candidates))
    for index in range(count):
        inside = (losses[index][:, None, :] <= free).all(axis=2)
        taken = inside[candidates:][met[index, candidates:]].any(axis=0)
        gains[index] = (inside[:candidates] & ~taken).sum(axis=1)
    found: list[float] = ((gains * met[:, :candidates]).mean(axis=0) / VOLUME).tolist()
    return found
