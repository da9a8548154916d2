"""The points of a run's search: the sampler and its screening, given what the store has of this run and earlier ones.

What a trial would cost is computed from what is stored, so that a run that goes on chooses as it would have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from optlang.plan.model import Plan
from optlang.plan.quantities import counted
from optlang.run import warm_start
from optlang.run.budget import past_trial
from optlang.run.forecast import Forecast
from optlang.search.observation import Observation, Suggestion
from optlang.search.sampler import Sampler
from optlang.search.screening import STATE, Costs, Screening
from optlang.space.recipe import Point, Recipe
from optlang.space.trainings import without_training
from optlang.store.writer import TrialRow, Writer


class Draws:
    """Draws the searched trials of one run. `make` makes its sampler, `say` gets what the search is given of earlier
    runs, `pauses` says after how many epochs a new trial would pause; `lanes` trials go on at the same time."""

    def __init__(
        self, plan: Plan, make: Callable[[], Sampler], store: Writer, run: str, before: Mapping[int, Observation],
        say: Callable[[str], None], pauses: Callable[[Recipe], int | None] = lambda _: None, lanes: int = 1,
    ) -> None:
        self._plan, self._make, self._store, self._run = plan, make, store, run
        self._forecast, self._pauses, self._several = Forecast(plan), pauses, lanes > 1
        self._given = list(warm_start.observations(plan, store, run, say))
        for item in store.warm_start(run) or () if plan.search.warm_start else ():
            # Its steps are in the cache.
            trial = past_trial(store.trial(item.from_run, item.from_trial))
            self._forecast.add(replace(trial, origin="earlier", number=None))
        for row in store.trials(run):
            self._add(row)
        self._told = dict(before)
        self._open: dict[int, Point] = {}
        """The points that were asked for and not told yet, by their trials."""
        self._newest = max(self._told, default=-1)
        self._begin()

    def _begin(self) -> None:
        """A sampler and a screening that know all that is known, in the order of the trials' numbers."""
        self._stale = False
        self._sampler = self._make()
        costs = costs_of(self._plan, self._forecast, self._pauses)
        self._screening = Screening(self._plan, self._sampler, costs, self._plan.search.screening)
        for given in self._given:
            self._sampler.recall(given)
            self._screening.tell(given, own=False)
        for _, told in sorted(self._told.items()):
            self._sampler.recall(told)
            self._screening.tell(told)

    def ask(self) -> Suggestion:
        """The point of the next trial; raises `Exhausted` where the space has none left that was not tried."""
        if self._stale:
            self._begin()
        number = self._store.next_trial(self._run)
        if self._several:
            self._screening.expect(list(self._open.values()))
        asked = self._screening.ask(number)
        self._open[number] = asked.point
        return asked

    def tell(self, number: int, told: Observation | None) -> None:
        """Take in a trial that is over or paused; None: the search learns nothing from it, or not yet."""
        self._add(self._store.trial(self._run, number))
        self._open.pop(number, None)
        if told is None:
            return
        # A sampler takes nothing back, and what it draws may depend on the order: a later process gets that of numbers.
        # Where several trials go on at the same time, no later process would draw the same anyway.
        self._stale = self._stale or (number <= self._newest and not self._several)
        self._newest = max(self._newest, number)
        self._told[number] = told
        if not self._stale:
            self._sampler.tell(told)
            self._screening.tell(told)

    def summary(self) -> str | None:
        """How often a point was chosen by what was expected of it, and how often nothing could be; None: never."""
        found = [state for row in self._store.trials(self._run) if (state := (row.sampler_state or {}).get(STATE))]
        judged = [state for state in found if isinstance(state, dict)]
        chosen = sum("of" in state for state in judged)
        blind = len(judged) - chosen
        parts = []
        if chosen:
            most = max(state.get("of", 0) for state in judged)
            parts.append(
                f"{counted(chosen, 'trial')} chosen, each among up to {most} points by the gain and the time that were "
                "expected"
            )
        if blind:
            parts.append(
                f"before {counted(blind, 'trial')} the prediction was no better than a constant, and the sampler's own "
                "point was taken"
            )
        return f"screening: {'; '.join(parts)}" if parts else None

    def _add(self, row: TrialRow) -> None:
        trial = past_trial(row)
        if row.interrupted or row.seconds is None:
            self._forecast.keep(trial.runtime, trial.steps)
        else:
            self._forecast.add(trial)


def costs_of(plan: Plan, forecast: Forecast, pauses: Callable[[Recipe], int | None] = lambda _: None) -> Costs:
    """What trials would cost by what `forecast` has taken in, also later, up to where they pause."""
    def trains(recipe: Recipe) -> bool:
        return any(step.epochs for step in forecast.new(recipe))

    def shape(recipe: Recipe) -> str | None:
        """What names the recipe without its trainings; None where these decide its size and speed."""
        if not any(step.epochs for step in recipe.steps):
            return recipe.effect
        kept = without_training(plan, recipe)
        return None if kept is None else kept.effect

    return Costs(lambda recipes: forecast.each(recipes, pauses), trains, shape)
