"""Ends trials before their training, or in it, where that cannot change what becomes of them, and estimates what that
saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optlang.interfaces import JSON, Measurement
from optlang.plan.model import Plan
from optlang.plan.quantities import counted, in_seconds
from optlang.run.budget import past_of, past_trial
from optlang.run.dispatch import Dispatcher
from optlang.run.engine import WorkerDied, WorkerTimeout
from optlang.run.forecast import Forecast, PastTrial, Rates
from optlang.run.history import History, TrialRecord
from optlang.run.job import Result, UntrainedJob
from optlang.run.job_builder import JobBuilder
from optlang.run.past_curves import PastCurves
from optlang.run.segments import epochs_of
from optlang.run.stopping import EPOCH, MEASURED, SAVED, Stopping
from optlang.run.waits import Waits
from optlang.search import early
from optlang.space.recipe import Applied, Recipe
from optlang.space.trainings import without_training
from optlang.store.writer import TrialRow, Writer

WORTH = 4.0
"""So many times as long as building and measuring must trainings take, for size and latency to be measured only to end
some of them: that costs about as much as building and measuring the trial does."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of a trial before its training: its result where that is decided, what may end it in it, and what
    was measured of its model without it."""

    result: Result | None = None
    stopping: Stopping | None = None
    measured: tuple[Measurement, ...] = ()


@dataclass(slots=True)
class EarlyEnd:
    """Decides the searched trials of one run before their training or in it, as far as that is possible."""

    plan: Plan
    history: History
    jobs: JobBuilder
    forecast: Forecast
    """It knows which steps the cache has a result of."""
    store: Writer
    run: str
    _curves: PastCurves = field(init=False)
    _rates: Rates = field(init=False, default_factory=Rates)

    def __post_init__(self) -> None:
        self._curves = PastCurves(self.plan)
        curves = self.store.curves(self.run)
        for row in self.store.trials(self.run):
            self._learn(self.history.trial(row.trial), past_trial(row), curves.get(row.trial, ()))

    def add(self, record: TrialRecord, result: Result, seconds: float) -> None:
        """Take in a trial that is over and took so long, as it is stored: a later session decides by the same."""
        self._learn(record, past_of(record, result, seconds), epochs_of(result.steps))

    def _learn(self, record: TrialRecord, trial: PastTrial, epochs: Sequence[Mapping[str, Any]]) -> None:
        if not record.interrupted:
            self._rates.add(trial)
            self._curves.add(record.steps, record.measurements, epochs)

    def look(
        self, dispatcher: Dispatcher, number: int, recipe: Recipe, *, pauses: bool = False,
        known: tuple[Measurement, ...] = (),
    ) -> Waits[Look]:
        """What is known of a trial before its training, or before it goes on.

        Where it `pauses` in its trainings, all is measured that it will be compared by there; `known` is what was
        measured before it paused. What goes wrong here goes wrong in the trial itself too, or is no matter of it: the
        trial then goes on. Raises InterruptedRun.
        """
        ends = self.plan.search.stop_early
        if not ends and not pauses:
            return Look(measured=known)
        new = self.forecast.new(recipe)
        ahead = {step.path for step in new}
        past = {path: curves for path, curves in self._curves.of(recipe.steps).items() if path in ahead} if ends else {}
        kept = without_training(self.plan, recipe)
        spared = [] if kept is None else [step for step in new if step not in kept.steps]
        wanted = self.history.deciding() if spared and ends else frozenset()
        if pauses or (past and spared and self._worth(recipe, spared)):
            wanted |= early.cheap(self.plan)
        measured = known
        if not measured and kept is not None and wanted:
            measured = yield from self._measured(dispatcher, number, kept, wanted)
        verdict = self.history.decided(measured) if measured and ends else None
        if verdict is not None:
            return Look(Result(notes=self._notes(measured, spared), ended=verdict), measured=measured)
        stopping = Stopping(
            self.plan, tuple(map(early.bounded, measured)), self.history.reference, self.history.rivals(), past,
            self._later(new),
        ) if past else None
        return Look(stopping=stopping, measured=measured)

    def _measured(
        self, dispatcher: Dispatcher, number: int, kept: Recipe, metrics: frozenset[str]
    ) -> Waits[tuple[Measurement, ...]]:
        """These metrics of the trial's model without its training; none where they cannot be measured."""
        from optlang.run.worker import measure_untrained

        job = UntrainedJob(self.jobs.trial(number, kept, "sampler"), metrics)
        try:
            found = yield from dispatcher.running(measure_untrained, job, self.plan.search.trial_timeout)
        except (WorkerDied, WorkerTimeout):
            found = None
        if found is None:
            yield from dispatcher.loading()
        return found or ()

    def _notes(self, measured: Iterable[Measurement], spared: Sequence[Applied]) -> dict[str, JSON]:
        several = len(self.plan.targets) > 1
        seconds = self._rates.all_of(spared)
        notes: dict[str, JSON] = {
            f"{MEASURED}{item.target}.{item.metric}" if several else f"{MEASURED}{item.metric}": item.value
            for item in measured
        }
        return notes if seconds is None else {**notes, SAVED: round(seconds, 3)}

    def _worth(self, recipe: Recipe, spared: Sequence[Applied]) -> bool:
        """Whether the trainings are long enough, by what this run has stored, to measure what may end them.

        Where no goal and no requirement is on a time, an epoch counts as much as building and measuring: the same seed
        is to make the same search.
        """
        if not self.plan.timed:
            return sum(step.epochs for step in spared) >= WORTH
        seconds = self._rates.all_of(spared)
        rest = self._rates.rests.get(recipe.label)
        return seconds is not None and rest is not None and seconds >= WORTH * rest.mean

    def _later(self, new: Sequence[Applied]) -> dict[str, float]:
        """By the path of each step, the seconds that the trainings behind it will take; those not known count as 0."""
        found, seconds = dict[str, float](), 0.0
        for step in reversed(new):
            found[step.path] = seconds
            if step.epochs:
                seconds += self._rates.of(step).seconds
        return found

    def summary(self) -> list[str]:
        """How many trials of the run ended before their training and in it, and what that saved: a line each."""
        rows = self.store.trials(self.run)
        inside = [row for row in rows if EPOCH in row.notes]
        before = [row for row in rows if row not in inside and any(name.startswith(MEASURED) for name in row.notes)]
        return [
            *_said(before, "ended before the training, since the result was known"),
            *_said(inside, "stopped in a training, by the learning curves of the others"),
        ]


def _said(rows: Sequence[TrialRow], what: str) -> list[str]:
    if not rows:
        return []
    known = [found for row in rows if isinstance(found := row.notes.get(SAVED), int | float)]
    text = f"{counted(len(rows), 'trial')} {what}"
    return [f"{text}: about {in_seconds(sum(known))} of training saved" if known else text]
