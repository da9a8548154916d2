"""How long trials of a run will take, by those that it has had. Knows no clock, no store and no worker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from optlang.interfaces import JSON
from optlang.plan.model import Plan
from optlang.space.cost import trial_cost
from optlang.space.recipe import Applied, Recipe

ENOUGH = 3
"""After so many searched trials their mean says how long the others take."""

_OF_RUNTIME = frozenset({"runtime", "latency"})
"""What a technique needs that each runtime has its own of: from it on, no result serves another runtime."""


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
    def epochs(self) -> int:
        """The epochs that it trained, or would have if its result had not been in the cache; 0: no training."""
        return epochs_of(self.settings)


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
        self._may_train = trial_cost(plan, plan.steps).epochs.high > 0

    def add(self, trial: PastTrial) -> None:
        """Take in a trial that was not interrupted."""
        self._past.append(trial)

    @property
    def searched_trials(self) -> int:
        """How many searched trials it has taken in."""
        return sum(trial.origin == "sampler" for trial in self._past)

    def ladder(self, recipes: Iterable[Recipe]) -> Estimate:
        """All of these trials: what is in the cache, or was there for one before it, costs nothing.

        A technique that has not run yet, or a runtime, costs what is known to be spent at least.
        """
        rates, rests = self._rates(), self._rests()
        least = min((seconds for found in rests.values() for seconds in found), default=0.0)
        done = set() if self._fresh else self._done()
        total = Estimate(0.0)
        for recipe in recipes:
            known = rests.get(recipe.label)
            total += Estimate(sum(known) / len(known)) if known else Estimate(least, whole=False)
            for chain, step in self._chains(recipe.label, recipe.steps):
                if chain not in done:
                    done.add(chain)
                    total += _step(rates, step.technique, epochs_of(step.settings))
        return total

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

    def one_searched(self) -> float:
        """The next searched trial, by the mean of the others, or of the ladder before there are any; 0: unknown."""
        costs = self._searched() or [trial.seconds for trial in self._past if trial.origin == "ladder"]
        return sum(costs) / len(costs) if costs else 0.0

    def _searched(self) -> list[float]:
        """What the searched trials cost."""
        if not self._fresh:
            return [trial.seconds for trial in self._past if trial.origin == "sampler"]
        rates = self._rates()
        done: set[str] = set()
        costs: list[float] = []
        for trial in self._past:
            cost = trial.rest
            applied = [Applied("", step.technique, step.settings) for step in trial.steps]
            for step, (chain, _) in zip(trial.steps, self._chains(trial.runtime, applied), strict=True):
                if not step.cached:
                    cost += step.seconds
                elif chain not in done:
                    cost += _step(rates, step.technique, step.epochs).seconds
                done.add(chain)
            if trial.origin == "sampler":
                costs.append(cost)
        return costs

    def _rates(self) -> dict[tuple[str, bool], tuple[float, int]]:
        """By technique, and whether it trained: the seconds that it took, and for how many epochs or times."""
        found: dict[tuple[str, bool], tuple[float, int]] = {}
        for trial in self._past:
            for step in trial.steps:
                if step.cached is False:
                    key = step.technique, step.epochs > 0
                    seconds, times = found.get(key, (0.0, 0))
                    found[key] = seconds + step.seconds, times + (step.epochs or 1)
        return found

    def _rests(self) -> dict[str, list[float]]:
        """What trials took to build and to measure, by runtime."""
        found: dict[str, list[float]] = {}
        for trial in self._past:
            if trial.measured and trial.origin != "baseline":
                found.setdefault(trial.runtime, []).append(trial.rest)
        return found

    def _done(self) -> set[str]:
        """The chains of steps that the cache has a result of."""
        done: set[str] = set()
        for trial in self._past:
            finished = [Applied("", step.technique, step.settings) for step in trial.steps if step.cached is not None]
            done.update(chain for chain, _ in self._chains(trial.runtime, finished))
        return done

    def _chains(self, label: str, steps: Sequence[Applied]) -> Iterator[tuple[str, Applied]]:
        """Each step with what identifies its result: it and all steps before it, and the runtime where one needs it."""
        before: list[JSON] = []
        runtime = ""
        for step in steps:
            try:
                needs: Sequence[str] = self._plan.technique(step.technique).needs
            except KeyError:  # of an earlier plan, which had more techniques
                needs = ()
            runtime = runtime or (label if _OF_RUNTIME.intersection(needs) else "")
            before.append([step.technique, dict(step.settings)])
            yield json.dumps([before, runtime], sort_keys=True, default=str), step


def epochs_of(settings: JSON) -> int:
    """The epochs that a step with these settings trains; 0: it does not."""
    epochs = settings.get("epochs") if isinstance(settings, Mapping) else None
    return epochs if isinstance(epochs, int) and not isinstance(epochs, bool) else 0


def _step(rates: Mapping[tuple[str, bool], tuple[float, int]], technique: str, epochs: int) -> Estimate:
    known = rates.get((technique, epochs > 0))
    if known is None:
        return Estimate(0.0, whole=False)
    seconds, times = known
    return Estimate(seconds / times * (epochs or 1))
