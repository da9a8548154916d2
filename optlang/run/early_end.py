"""Ends trials before their training where what is known without it decides them, and estimates what that saved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from optlang.interfaces import JSON
from optlang.plan.model import Plan
from optlang.plan.quantities import counted, in_seconds
from optlang.run.budget import past_trial
from optlang.run.dispatch import Dispatcher
from optlang.run.engine import WorkerDied, WorkerTimeout
from optlang.run.forecast import Forecast, cost, rates
from optlang.run.history import History
from optlang.run.job import Result, UntrainedJob
from optlang.run.job_builder import JobBuilder
from optlang.run.untrained import without_training
from optlang.space.recipe import Applied, Recipe
from optlang.store.writer import TrialRow, Writer

SAVED = "early.saved_seconds"
"""The note of a trial that ended before its training: the seconds that this is estimated to have saved."""

MEASURED = "early."
"""What the notes of its measured figures begin with, before the metric and, of several, the target."""


@dataclass(slots=True)
class EarlyEnd:
    """Decides the searched trials of one run before their training, as far as that is possible."""

    plan: Plan
    history: History
    jobs: JobBuilder
    dispatcher: Dispatcher
    forecast: Forecast
    """It knows which steps the cache has a result of."""
    store: Writer
    run: str

    def result(self, number: int, recipe: Recipe) -> Result | None:
        """The result of a trial that is decided; None where its training decides, or nothing of it is to be trained.

        What goes wrong here goes wrong in the trial itself too, or is no matter of it: the trial then goes on. Raises
        InterruptedRun.
        """
        from optlang.run.worker import measure_untrained

        metrics = self.history.deciding() if self.plan.search.stop_early else frozenset()
        kept = without_training(self.plan, recipe) if metrics else None
        if kept is None:
            return None
        spared = [step for step in self.forecast.new(recipe) if step not in kept.steps]
        if not spared:
            return None
        job = UntrainedJob(self.jobs.trial(number, kept, "sampler"), metrics)
        try:
            measured = self.dispatcher.run(measure_untrained, job, self.plan.search.trial_timeout)
        except (WorkerDied, WorkerTimeout):
            measured = None
        if measured is None:
            self.dispatcher.load()
            return None
        verdict = self.history.decided(measured)
        if verdict is None:
            return None
        several = len(self.plan.targets) > 1
        notes: dict[str, JSON] = {
            f"{MEASURED}{item.target}.{item.metric}" if several else f"{MEASURED}{item.metric}": item.value
            for item in measured
        }
        seconds = estimated(spared, self.store.trials(self.run))
        return Result(notes=notes | ({} if seconds is None else {SAVED: round(seconds, 3)}), ended=verdict)

    def summary(self) -> str | None:
        """How many trials of the run ended before their training, and what that saved; None where none did."""
        rows = [row for row in self.store.trials(self.run) if any(name.startswith(MEASURED) for name in row.notes)]
        if not rows:
            return None
        known = [found for row in rows if isinstance(found := row.notes.get(SAVED), int | float)]
        text = f"{counted(len(rows), 'trial')} ended before the training, since the result was known"
        return f"{text}: about {in_seconds(sum(known))} of training saved" if known else text


def estimated(spared: Iterable[Applied], rows: Iterable[TrialRow]) -> float | None:
    """The seconds that steps would take, by those of the same technique in the store, an epoch each; None: unknown."""
    known = rates(map(past_trial, rows))
    costs = [cost(known, step) for step in spared]
    return sum(item.seconds for item in costs) if all(item.whole for item in costs) else None
