"""How long trials of a run will take, by those that it has had. Knows no clock, no store and no worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from optlang.interfaces import JSON
from optlang.plan.model import Plan
from optlang.space.cost import trial_cost
from optlang.space.recipe import Applied, Recipe
from optlang.space.trainings import chains

ENOUGH = 3
"""After so many searched trials their mean says how long the others take."""

Rates: TypeAlias = "dict[tuple[str, bool], tuple[float, int]]"
"""By technique, and whether it trained: the seconds that it took, and for how many epochs or times."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds that something will take: about as many, or where it is not `whole` at least as many."""

    seconds: float
    whole: bool = True

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.seconds + other.seconds, self.whole and other.whole)


@dataclass(frozen=True, slots=True)
class PastStep:
    """A step of a trial; `cached` is None where it was broken off."""

    technique: str
    settings: Mapping[str, JSON]
    cached: bool | None
    seconds: float

    @property
    def applied(self) -> Applied:
        """What it did; at which place in the study is not kept."""
        return Applied("", self.technique, self.settings)

    @property
    def epochs(self) -> int:
        """The epochs that it trained, or would have if its result had not been in the cache; 0: no training."""
        return self.applied.epochs


@dataclass(frozen=True, slots=True)
class PastTrial:
    """A trial that is over: its seconds in all, the search for its point included.

    `steps` are without the baseline's, but for the baseline itself. `measured` says whether its artifact ran.
    """

    origin: str
    runtime: str
    seconds: float
    steps: Sequence[PastStep]
    measured: bool = True

    @property
    def rest(self) -> float:
        """The seconds that no step took: to build and to measure."""
        return max(0.0, self.seconds - sum(step.seconds for step in self.steps if not step.cached))


class Forecast:
    """Learns from the trials of a run, one after another in their order; `fresh` says what they would take, or would
    have taken, if the cache had held nothing before the run."""

    def __init__(self, plan: Plan, *, fresh: bool = False) -> None:
        self._plan, self._fresh = plan, fresh
        self._past: list[PastTrial] = []
        self._done: set[str] = set()
        """The chains of steps that the cache has a result of."""
        self._may_train = trial_cost(plan, plan.steps).epochs.high > 0

    def add(self, trial: PastTrial) -> None:
        """Take in a trial that was not interrupted."""
        self._past.append(trial)
        self.keep(trial.runtime, trial.steps)

    def keep(self, runtime: str, steps: Iterable[PastStep]) -> None:
        """Take in the results of a trial on this runtime that are in the cache now, though it was interrupted."""
        finished = [step.applied for step in steps if step.cached is not None]
        self._done.update(chain for chain, _ in self._chains(runtime, finished))

    def new(self, recipe: Recipe) -> list[Applied]:
        """The steps of a recipe that the cache has no result of."""
        return [step for chain, step in self._chains(recipe.label, recipe.steps) if chain not in self._done]

    @property
    def searched_trials(self) -> int:
        """How many searched trials it has taken in."""
        return sum(trial.origin == "sampler" for trial in self._past)

    def ladder(self, recipes: Iterable[Recipe]) -> Estimate:
        """All of these trials: what is in the cache, or was there for one before it, costs nothing.

        A technique that has not run yet, or a runtime, costs what is known to be spent at least.
        """
        found, rests = rates(self._past), self._rests()
        least = min((seconds for found in rests.values() for seconds in found), default=0.0)
        done = set() if self._fresh else set(self._done)
        total = Estimate(0.0)
        for recipe in recipes:
            known = rests.get(recipe.label)
            total += Estimate(sum(known) / len(known)) if known else Estimate(least, whole=False)
            for chain, step in self._chains(recipe.label, recipe.steps):
                if chain not in done:
                    done.add(chain)
                    total += cost(found, step)
        return total

    def each(self, recipes: Iterable[Recipe]) -> list[float]:
        """What each of these trials would cost if it were the next, in seconds.

        A technique or a runtime that has not run yet costs what the others do on average. Where no goal and no
        requirement is on a time, epochs are counted instead, and building and measuring as one: seconds are never the
        same twice, and the same seed is to make the same search.
        """
        if not self._plan.timed:
            return [1.0 + sum(step.epochs for step in self.new(recipe)) for recipe in recipes]
        known, rests = rates(self._past), self._rests()
        usual = _mean(seconds for found in rests.values() for seconds in found)
        step_usual = _mean(seconds / times for seconds, times in known.values())
        return [
            (_mean(rests[recipe.label]) if recipe.label in rests else usual) + sum(
                estimate.seconds if (estimate := cost(known, step)).whole else step_usual for step in self.new(recipe)
            )
            for recipe in recipes
        ]

    def searched(self, count: int) -> Estimate:
        """So many searched trials more, whose points are not known."""
        costs = self._searched()
        trained = any(
            step.epochs and (self._fresh or not step.cached)
            for trial in self._past if trial.origin == "sampler" for step in trial.steps
        )
        if len(costs) >= ENOUGH and (trained or not self._may_train):
            return Estimate(count * sum(costs) / len(costs))
        least = min([*costs, *(seconds for found in self._rests().values() for seconds in found)], default=0.0)
        return Estimate(count * least, whole=count == 0)

    def drawn(self, recipes: Sequence[Recipe], count: int) -> Estimate:
        """So many trials, by the mean of some that could be drawn: what several of them share is done once."""
        some = self.ladder(recipes)
        return Estimate(some.seconds * count / len(recipes), some.whole)

    def one_searched(self) -> float:
        """The next searched trial, by the mean of the others, or of the ladder before there are any; 0: unknown."""
        costs = self._searched() or [trial.seconds for trial in self._past if trial.origin == "ladder"]
        return sum(costs) / len(costs) if costs else 0.0

    def _searched(self) -> list[float]:
        """What the searched trials cost."""
        if not self._fresh:
            return [trial.seconds for trial in self._past if trial.origin == "sampler"]
        found = rates(self._past)
        done: set[str] = set()
        costs: list[float] = []
        for trial in self._past:
            spent = trial.rest
            applied = [step.applied for step in trial.steps]
            for step, (chain, _) in zip(trial.steps, self._chains(trial.runtime, applied), strict=True):
                if not step.cached:
                    spent += step.seconds
                elif chain not in done:
                    spent += cost(found, step.applied).seconds
                done.add(chain)
            if trial.origin == "sampler":
                costs.append(spent)
        return costs

    def _rests(self) -> dict[str, list[float]]:
        """What trials took to build and to measure, by runtime."""
        found: dict[str, list[float]] = {}
        for trial in self._past:
            if trial.measured and trial.origin != "baseline":
                found.setdefault(trial.runtime, []).append(trial.rest)
        return found

    def _chains(self, label: str, steps: Iterable[Applied]) -> Iterator[tuple[str, Applied]]:
        """See `chains`. Of past trials it is not known at which place in the study a step stood."""
        steps = list(steps)
        nowhere = (Applied("", step.technique, step.settings) for step in steps)
        for step, (chain, _, _) in zip(steps, chains(self._plan, nowhere, label), strict=True):
            yield chain, step


def _mean(values: Iterable[float]) -> float:
    """The mean; 0 of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def rates(trials: Iterable[PastTrial]) -> Rates:
    """What the steps of these trials took that were carried out and not found in the cache."""
    found: Rates = {}
    for trial in trials:
        for step in trial.steps:
            if step.cached is False:
                key = step.technique, step.epochs > 0
                seconds, times = found.get(key, (0.0, 0))
                found[key] = seconds + step.seconds, times + (step.epochs or 1)
    return found


def cost(known: Rates, step: Applied) -> Estimate:
    """What a step takes that is not in the cache."""
    rate = known.get((step.technique, step.epochs > 0))
    if rate is None:
        return Estimate(0.0, whole=False)
    seconds, times = rate
    return Estimate(seconds / times * (step.epochs or 1))
