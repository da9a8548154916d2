"""How much of a session's time is left, what it is enough for, and how long the rest of the run will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from optlang.plan.model import Plan
from optlang.run.ending import Ending
from optlang.run.forecast import Estimate, Forecast, PastStep, PastTrial
from optlang.run.front_passes import due
from optlang.run.history import History, TrialRecord
from optlang.run.job import BASELINE, Result
from optlang.space.recipe import Recipe
from optlang.store.writer import TrialRow


class Budget:
    """The time of one session, which began at `begun` on the clock; `before` are the run's trials of earlier ones.

    So many `lanes` carry out trials at the same time.
    """

    def __init__(
        self, plan: Plan, history: History, before: Iterable[TrialRow], begun: float,
        clock: Callable[[], float] = time.monotonic, lanes: int = 1,
    ) -> None:
        self._lanes = lanes
        self._limit, self._history, self._clock, self._begin = plan.search.timeout, history, clock, begun
        self._last: float | None = None
        """When the last trial of this session ended; None before the first."""
        self.forecast, self._ending = Forecast(plan), Ending(plan.measure)
        for row in before:
            trial = past_trial(row)
            if row.interrupted or row.seconds is None:
                self.forecast.keep(trial.runtime, trial.steps)
            else:
                self.forecast.add(trial)

    def add(self, record: TrialRecord, result: Result, seconds: float, before: float = 0.0) -> None:
        """Take in a trial of this session that has just ended or paused, after so many seconds now and `before`."""
        now = self._clock()
        # What passed since the last trial is its own too: drawing its point. Before the first, the model was loaded.
        whole = seconds if self._last is None else max(seconds, now - self._last)
        self._last = now
        trial = past_of(record, result, whole + before)
        if record.interrupted:
            self.forecast.keep(trial.runtime, trial.steps)
            return
        self.forecast.add(trial)
        if result.spent is not None:
            self._ending.add(record.number, result.spent)

    @property
    def up(self) -> bool:
        """Whether the time is over; never before the first trial of the session."""
        return self._limit is not None and self._last is not None and self._elapsed() >= self._limit

    def passed(self, trials: Sequence[int], seconds: float) -> None:
        """Take in what measuring these trials side by side took."""
        self._ending.passed(trials, seconds)

    def enough_for(self, recipe: Recipe | None, after: Iterable[Recipe] = ()) -> bool:
        """Whether a trial may start, a searched one where the recipe is None: it, those of the ladder that come `after`
        the search, and the end of the run fit in.

        The first trial of a session always may, or a run whose trials are long would never go on.
        """
        one = self.forecast.one_searched() if recipe is None else self.forecast.ladder([recipe]).seconds
        return self.enough(one, after)

    def enough(self, seconds: float, after: Iterable[Recipe] = ()) -> bool:
        """Whether a trial of so many seconds may start; see `enough_for`."""
        if self._limit is None or self._last is None:
            return True
        return self._elapsed() + seconds + self.forecast.ladder(after).seconds + self._end().seconds <= self._limit

    def enough_for_pass(self, trials: Sequence[int]) -> bool:
        """Whether these trials can be measured side by side once more, and the front scored on the test data."""
        if self._limit is None:
            return True
        needed = (self._ending.settling(trials) or 0.0) + (self._ending.scoring(self._untested()) or 0.0)
        return self._elapsed() + needed <= self._limit

    def left(self, ladder: Iterable[Recipe], searched: int | None) -> Estimate:
        """How long the rest of the session will take: these trials of the ladder, so many searched ones (None: as many
        as there is time for), and the end."""
        time_left = None if self._limit is None else max(0.0, self._limit - self._elapsed())
        if searched is None and time_left is not None:
            return Estimate(time_left)
        trials = self.forecast.ladder(ladder) + self.forecast.searched(searched or 0)
        # Trainings go on at the same time; that measurements do not makes it an estimate from below.
        estimate = replace(trials, seconds=trials.seconds / self._lanes) + self._end()
        return estimate if time_left is None or estimate.seconds < time_left else Estimate(time_left)

    def _elapsed(self) -> float:
        return self._clock() - self._begin

    def _end(self) -> Estimate:
        """Measuring the front as it is now once more, and scoring it."""
        parts = [self._ending.settling(due(self._history)), self._ending.scoring(self._untested())]
        return Estimate(sum(part or 0.0 for part in parts), whole=None not in parts)

    def end_with(self, members: int) -> float:
        """Measuring a front of so many trials again, and scoring it: each takes the mean of this session's."""
        # No trial has these numbers; the baseline, 0, has its own figures.
        numbers = [-number for number in range(1, members + 1)]
        tested = [0, *numbers] if self._history.tested else []
        return (self._ending.settling(numbers) or 0.0) + (self._ending.scoring(tested) or 0.0)

    def _untested(self) -> list[int]:
        numbers = self._history.untested()
        return list({0, *numbers}) if numbers else []


def past_of(record: TrialRecord, result: Result, seconds: float) -> PastTrial:
    """A trial of this session that has just ended or paused."""
    settings = {step.path: step.settings for step in record.steps}
    steps = tuple(
        PastStep(step.technique, settings.get(step.path, {}), step.cached, step.seconds)
        for step in result.steps if record.origin == "baseline" or not step.path.startswith(BASELINE)
    )
    return PastTrial(record.origin, record.runtime, seconds, steps, bool(record.measurements), record.number)


def past_trial(row: TrialRow) -> PastTrial:
    """A stored trial."""
    steps = []
    for step in row.steps:
        settings, cached, seconds = step.get("settings"), step.get("cached"), step.get("seconds")
        if isinstance(seconds, int | float) and not isinstance(seconds, bool):
            steps.append(PastStep(
                str(step["technique"]), settings if isinstance(settings, Mapping) else {},
                cached if isinstance(cached, bool) else None, float(seconds),
            ))
    return PastTrial(
        row.origin, row.runtime or "", row.seconds or 0.0, tuple(steps), bool(row.measurements), row.trial
    )
