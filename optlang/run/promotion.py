"""Where the trials of one run pause, and which of them goes on: see `search.halving`, which decides.

Without `halving` no trial pauses, and what a run with it has left is taken to its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optlang.interfaces import Measurement
from optlang.plan.model import Plan
from optlang.plan.quantities import counted
from optlang.run.forecast import Forecast
from optlang.run.history import History, TrialRecord, paused_at
from optlang.search.early import CHEAP
from optlang.search.halving import Rungs, rungs, standing
from optlang.search.objectives import by_metric
from optlang.space.recipe import Recipe
from optlang.store.projection import PAUSED

Epochs = Sequence[Mapping[str, Any]]
"""The epochs of a trial as they are stored: with path, epoch, metric, value and target."""


@dataclass(slots=True)
class Promotion:
    """Learns from the trials of a run, one after another; `curves` are those of the earlier sessions' trials."""

    plan: Plan
    history: History
    curves: Mapping[int, Epochs]
    _rungs: Rungs = field(init=False)
    _unscored: set[int] = field(init=False, default_factory=set)
    """The trials that are paused, and of which nothing says how they stand: they cannot be compared."""

    def __post_init__(self) -> None:
        halving = self.plan.search.halving
        self._rungs = Rungs(halving.reduce if halving else 1)
        for record in self.history.records:
            self.add(record, self.curves.get(record.number, ()))

    def add(self, record: TrialRecord, epochs: Epochs) -> None:
        """Take in a trial that has ended or paused, with its learning curves so far."""
        if record.recipe is None or record.point is None or record.origin == "baseline":
            return
        self.begin(record.number)
        scored = [self._stood(record, pause.rung, pause.epoch, pause.known) for pause in record.pauses]
        if record.state == PAUSED and scored[-1]:
            self._rungs.pause(record.number, record.pauses[-1].rung)
        elif record.state == PAUSED:
            self._unscored.add(record.number)
        elif not record.pauses:
            self._passed(record, epochs)

    def begin(self, number: int) -> None:
        """A trial goes on: until it is paused again it is none of those that may."""
        self._rungs.go_on(number)
        self._unscored.discard(number)

    @property
    def paused(self) -> int:
        """How many trials are paused."""
        return len(self._rungs.paused) + len(self._unscored)

    def pause(self, recipe: Recipe, record: TrialRecord | None) -> int | None:
        """After how many epochs a trial pauses next, which is paused now or (None) new; None: it runs to its end."""
        halving = self.plan.search.halving
        if halving is None or not self.plan.judged:
            return None
        if record is not None and record.number in self._unscored:
            return None
        had = 0 if record is None else record.pauses[-1].epoch
        return next((rung for rung in rungs(halving, self.epochs(recipe)) if rung > had), None)

    def rung(self, epochs: int, asked: int) -> int:
        """The rung of a trial that was to pause after `asked` epochs and has had so many, which may be more."""
        halving = self.plan.search.halving
        assert halving is not None
        return max(asked, *rungs(halving, epochs + 1))

    def epochs(self, recipe: Recipe) -> int:
        """The epochs of all trainings of a trial."""
        return sum(
            step.epochs for step in recipe.steps if "training" in self.plan.technique(step.technique).needs
        )

    def best(self, *, last: bool = False) -> int | None:
        """The trial that goes on next, None where none may; `last` says that no new one will come."""
        if self._unscored or self.plan.search.halving is None:
            return min(self._unscored or self._rungs.paused, default=None)
        return self._rungs.best(last=last)

    def seconds(self, number: int, forecast: Forecast, *, whole: bool = False) -> float:
        """What a paused trial is expected to take up to its next pause, or to its end."""
        record = self.history.trial(number)
        assert record.recipe is not None
        pause = None if whole else self.pause(record.recipe, record)
        return forecast.going_on(record.recipe, record.pauses[-1].epoch, pause).seconds

    def reasons(self) -> dict[int, str]:
        """Why the trials that are paused were not taken on."""
        found = {}
        for number in sorted(self._rungs.paused):
            better, others = self._rungs.better(number)
            pause = self.history.trial(number).pauses[-1]
            found[number] = f"{paused_at(pause)}: {better} of {counted(others, 'other trial')} were better there"
        return found

    def _stood(self, record: TrialRecord, rung: int, epoch: int, known: Sequence[Measurement]) -> bool:
        """Whether it is known how the trial stood there."""
        assert record.recipe is not None
        measured = by_metric(self.plan, known)
        how = standing(self.plan, measured, self.history.reference, self._behind(record.recipe, epoch))
        if how is not None:
            self._rungs.stood(record.number, rung, how)
        return how is not None

    def _passed(self, record: TrialRecord, epochs: Epochs) -> None:
        """A trial that did not pause stood at the rungs too, where its curves say how."""
        halving = self.plan.search.halving
        if halving is None or record.recipe is None:
            return
        known = [item for item in record.measurements if item.metric in CHEAP]
        for rung in rungs(halving, self.epochs(record.recipe)):
            scores = _scores_after(record.recipe, epochs, rung, [target.name for target in self.plan.targets])
            if scores:
                self._stood(record, rung, rung, [*known, *scores])

    def _behind(self, recipe: Recipe, epoch: int) -> int:
        """How many trainings a trial has behind it that has had so many epochs."""
        found = done = 0
        for step in recipe.steps:
            if step.epochs and done + step.epochs < epoch:
                found += 1
            done += step.epochs
        return found


def _scores_after(recipe: Recipe, rows: Epochs, epoch: int, targets: Sequence[str]) -> list[Measurement]:
    """What a trial scored after so many epochs in all; nothing where that is not known."""
    done = 0
    for step in recipe.steps:
        if done < epoch <= done + step.epochs:
            there = [row for row in rows if (row["path"], row["epoch"]) == (step.path, epoch - done)]
            return [
                Measurement(row["metric"], row["value"], "", 1, row["value"], row["value"], target)
                for row in there if row["value"] is not None
                for target in ([row["target"]] if row.get("target") else targets)
            ]
        done += step.epochs
    return []
