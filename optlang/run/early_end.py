"""Ends trials before their training where what is known without it decides them, and estimates what that saved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optlang.interfaces import JSON
from optlang.plan.model import Plan
from optlang.plan.quantities import counted, in_seconds
from optlang.run.dispatch import Dispatcher
from optlang.run.engine import WorkerDied, WorkerTimeout
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
        rows = self.store.trials(self.run)
        spared = [step for step in _new(recipe.steps, rows) if step not in kept.steps]
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
        seconds = estimated(spared, rows)
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
    spent: dict[str, tuple[float, int]] = {}
    for row in rows:
        for step in row.steps:
            epochs, seconds = _epochs(step.get("settings")), step.get("seconds")
            if step.get("cached") is False and isinstance(seconds, int | float) and epochs:
                name = str(step["technique"])
                before = spent.get(name, (0.0, 0))
                spent[name] = before[0] + seconds, before[1] + epochs
    total = 0.0
    for applied in spared:
        if applied.technique not in spent:
            return None
        seconds, epochs = spent[applied.technique]
        total += seconds / epochs * _epochs(applied.settings)
    return total


def _epochs(settings: JSON) -> int:
    epochs = settings.get("epochs") if isinstance(settings, Mapping) else None
    return epochs if isinstance(epochs, int) else 0


def _new(steps: Sequence[Applied], rows: Iterable[TrialRow]) -> list[Applied]:
    """The steps that no trial of the run has carried out after the same ones: the cache has no result of them."""
    known = set()
    for row in rows:
        done = [item for item in row.steps if item.get("cached") is not None]
        known |= {_prefix([(item["technique"], item["settings"]) for item in done[:end]])
                  for end in range(1, len(done) + 1)}
    named = [(step.technique, step.settings) for step in steps]
    return [step for number, step in enumerate(steps, 1) if _prefix(named[:number]) not in known]


def _prefix(steps: Sequence[tuple[JSON, JSON]]) -> str:
    return json.dumps(steps, sort_keys=True, default=str)
