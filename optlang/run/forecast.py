"""How long trials of a run will take, by those that it has had. Knows no clock, no store and no worker."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from optlang.interfaces import JSON
from optlang.plan.model import Plan
from optlang.space.cost import trial_cost
from optlang.space.recipe import Applied, Recipe
from optlang.space.trainings import chains

ENOUGH = 3
"""After so many searched trials their mean says how long the others take."""


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

    `steps` are without the baseline's, but for the baseline itself. `measured` says whether its artifact ran. `number`
    is the trial's own where it may come again: what is known of one that paused is replaced when it has gone on.
    """

    origin: str
    runtime: str
    seconds: float
    steps: Sequence[PastStep]
    measured: bool = True
    number: int | None = None

    @property
    def rest(self) -> float:
        """The seconds that no step took: to build and to measure."""
        return max(0.0, self.seconds - sum(step.seconds for step in self.steps if not step.cached))


@dataclass(slots=True)
class Total:
    """The sum of what was added, how much that was, and the least of it; what is added is not kept."""

    sum: float = 0.0
    count: int = 0
    least: float = math.inf

    def add(self, value: float, count: int = 1) -> None:
        """Take in a value, which may be that of several."""
        self.sum += value
        self.count += count
        self.least = min(self.least, value)

    @property
    def mean(self) -> float:
        """The mean; 0 of nothing."""
        return self.sum / self.count if self.count else 0.0


@dataclass(slots=True)
class Rates:
    """What the parts of trials took, summed as they come: a trial more costs the same however many there were.

    `steps` is by technique and whether it trained, what was carried out and not found in the cache, counted by epochs
    or times; `rests` is what trials took to build and to measure, by runtime.
    """

    steps: dict[tuple[str, bool], Total] = field(default_factory=dict)
    rests: dict[str, Total] = field(default_factory=dict)

    def add(self, trial: PastTrial) -> None:
        """Take in a trial."""
        for step in trial.steps:
            if step.cached is False:
                self.steps.setdefault((step.technique, step.epochs > 0), Total()).add(step.seconds, step.epochs or 1)
        if trial.measured and trial.origin != "baseline":
            self.rests.setdefault(trial.runtime, Total()).add(trial.rest)

    def of(self, step: Applied) -> Estimate:
        """What a step takes that is not in the cache."""
        known = self.steps.get((step.technique, step.epochs > 0))
        return Estimate(0.0, whole=False) if known is None else Estimate(known.mean * (step.epochs or 1))

    def all_of(self, steps: Iterable[Applied]) -> float | None:
        """The seconds that these steps take; None where one of them has not run."""
        costs = [self.of(step) for step in steps]
        return sum(item.seconds for item in costs) if all(item.whole for item in costs) else None

    @property
    def least_rest(self) -> float:
        """The shortest building and measuring; 0 where there was none."""
        return min((known.least for known in self.rests.values()), default=0.0)


class Forecast:
    """Learns from the trials of a run, one after another in their order; `fresh` says what they would take, or would
    have taken, if the cache had held nothing before the run."""

    def __init__(self, plan: Plan, *, fresh: bool = False) -> None:
        self._plan, self._fresh = plan, fresh
        self._past: list[PastTrial] = []
        self._places: dict[int, int] = {}
        """Where in it a trial is that may come again, by its number."""
        self._rates = Rates()
        self._searched, self._alone = Total(), Total()
        """The seconds of the searched trials, and of those of the ladder."""
        self._trained = False
        """Whether a searched trial trained, or would have if the cache had held nothing before the run."""
        self._done: set[str] = set()
        """The chains of steps that the cache has a result of."""
        self._may_train = trial_cost(plan, plan.steps).epochs.high > 0

    def add(self, trial: PastTrial) -> None:
        """Take in a trial that was not interrupted."""
        place = None if trial.number is None else self._places.get(trial.number)
        if place is not None:
            # It has gone on from where it paused.
            self._searched.sum -= self._past[place].seconds
            self._searched.count -= 1
            self._past[place] = trial
        else:
            if trial.number is not None:
                self._places[trial.number] = len(self._past)
            self._past.append(trial)
        self._rates.add(trial)
        if trial.origin == "sampler":
            self._searched.add(trial.seconds)
            self._trained |= any(step.epochs and (self._fresh or not step.cached) for step in trial.steps)
        elif trial.origin == "ladder":
            self._alone.add(trial.seconds)
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
        return self._searched.count

    def ladder(self, recipes: Iterable[Recipe]) -> Estimate:
        """All of these trials: what is in the cache, or was there for one before it, costs nothing.

        A technique that has not run yet, or a runtime, costs what is known to be spent at least.
        """
        least = self._rates.least_rest
        done = set() if self._fresh else set(self._done)
        total = Estimate(0.0)
        for recipe in recipes:
            known = self._rates.rests.get(recipe.label)
            total += Estimate(least, whole=False) if known is None else Estimate(known.mean)
            for chain, step in self._chains(recipe.label, recipe.steps):
                if chain not in done:
                    done.add(chain)
                    total += self._rates.of(step)
        return total

    def going_on(self, recipe: Recipe, epochs: int, pause: int | None) -> Estimate:
        """What a trial that has had so many epochs costs up to a pause; None: to its end, built and measured."""
        total = Estimate(0.0)
        if pause is None:
            known = self._rates.rests.get(recipe.label)
            total += Estimate(self._rates.least_rest if known is None else known.mean)
        for step, left in self._ahead(recipe, epochs, pause):
            one = self._rates.of(step)
            total += Estimate(one.seconds * left / step.epochs, one.whole) if step.epochs else one
        return total

    def each(self, recipes: Iterable[Recipe], pauses: Callable[[Recipe], int | None] = lambda _: None) -> list[float]:
        """What each of these trials would cost if it were the next, in seconds, up to where it pauses.

        A technique or a runtime that has not run yet costs what the others do on average. Where no goal and no
        requirement is on a time, epochs are counted instead, and building and measuring as one: seconds are never the
        same twice, and the same seed is to make the same search.
        """
        steps = [(recipe, self._ahead(recipe, 0, pauses(recipe))) for recipe in recipes]
        if not self._plan.timed:
            return [1.0 + sum(epochs for _, epochs in ahead) for _, ahead in steps]
        rests = self._rates.rests
        rest_usual, step_usual = Total(), Total()
        for known in rests.values():
            rest_usual.add(known.sum, known.count)
        for known in self._rates.steps.values():
            step_usual.add(known.mean)

        def spent(step: Applied, epochs: int) -> float:
            one = self._rates.of(step)
            whole = one.seconds if one.whole else step_usual.mean
            return whole * epochs / step.epochs if step.epochs else whole

        return [
            rests.get(recipe.label, rest_usual).mean + sum(spent(*one) for one in ahead) for recipe, ahead in steps
        ]

    def searched(self, count: int) -> Estimate:
        """So many searched trials more, whose points are not known."""
        costs = self._costs()
        if costs.count >= ENOUGH and (self._trained or not self._may_train):
            return Estimate(count * costs.mean)
        leasts = [known.least for known in (costs, *self._rates.rests.values()) if known.count]
        return Estimate(count * min(leasts, default=0.0), whole=count == 0)

    def drawn(self, recipes: Sequence[Recipe], count: int) -> Estimate:
        """So many trials, by the mean of some that could be drawn: what several of them share is done once."""
        some = self.ladder(recipes)
        return Estimate(some.seconds * count / len(recipes), some.whole)

    def one_searched(self) -> float:
        """The next searched trial, by the mean of the others, or of the ladder before there are any; 0: unknown."""
        return (self._costs() if self._searched.count else self._alone).mean

    def _ahead(self, recipe: Recipe, epochs: int, pause: int | None) -> list[tuple[Applied, int]]:
        """See `trained`; without the steps that the cache has a result of."""
        new = {step.path for step in self.new(recipe)}
        return [(step, left) for step, left in trained(recipe.steps, epochs, pause) if step.path in new]

    def _costs(self) -> Total:
        """What the searched trials cost."""
        if not self._fresh:
            return self._searched
        done: set[str] = set()
        costs = Total()
        for trial in self._past:
            spent = trial.rest
            applied = [step.applied for step in trial.steps]
            for step, (chain, _) in zip(trial.steps, self._chains(trial.runtime, applied), strict=True):
                if not step.cached:
                    spent += step.seconds
                elif chain not in done:
                    spent += self._rates.of(step.applied).seconds
                done.add(chain)
            if trial.origin == "sampler":
                costs.add(spent)
        return costs

    def _chains(self, label: str, steps: Iterable[Applied]) -> Iterator[tuple[str, Applied]]:
        """See `chains`. Of past trials it is not known at which place in the study a step stood."""
        steps = list(steps)
        nowhere = (Applied("", step.technique, step.settings) for step in steps)
        for step, (chain, _, _) in zip(steps, chains(self._plan, nowhere, label), strict=True):
            yield chain, step


def trained(steps: Iterable[Applied], epochs: int, pause: int | None) -> list[tuple[Applied, int]]:
    """Which of the steps are carried out up to a pause (None: all) by a trial whose trainings had so many epochs, and
    for how many epochs each; 0: it does not train."""
    found: list[tuple[Applied, int]] = []
    begun = 0
    for step in steps:
        if pause is not None and begun >= pause:
            break
        end = begun + step.epochs
        if end > epochs or (not step.epochs and begun >= epochs):
            found.append((step, min(end, end if pause is None else pause) - max(begun, epochs)))
        begun = end
    return found
