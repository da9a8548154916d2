"""The end of a run: its front measured again until it holds, and scored on the data's test part."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from optlang.interfaces import Measurement, TargetSpec
from optlang.plan.model import Plan
from optlang.run import test_data
from optlang.run.budget import Budget
from optlang.run.busy import Busy
from optlang.run.disk import DiskLimit
from optlang.run.dispatch import Dispatcher
from optlang.run.front_passes import Measured, passes
from optlang.run.history import History
from optlang.run.job import Workload
from optlang.run.job_builder import JobBuilder
from optlang.run.rebuilt import Rebuilding
from optlang.run.stop import StopRequest
from optlang.space.recipe import Recipe
from optlang.store.journal import now
from optlang.store.writer import Writer


class Settling:
    """Measures trials of one run again; `say` gets what the user should know."""

    def __init__(
        self, plan: Plan, run: str, store: Writer, dispatcher: Dispatcher, workload: Workload, history: History,
        jobs: JobBuilder, budget: Budget, busy: Busy, disk: DiskLimit, stop: StopRequest, say: Callable[[str], None],
    ) -> None:
        self._plan, self._run, self._store, self._dispatcher, self._workload = plan, run, store, dispatcher, workload
        self._history, self._jobs, self._budget, self._busy, self._stop = history, jobs, budget, busy, stop
        self._say = say
        self._rebuilding = Rebuilding(run, history, jobs, dispatcher, store, disk, say, self.measured)

    def front(self) -> None:
        """Measure the front again, side by side with what is close to it, until it is stable."""
        begin = time.monotonic()
        for found in passes(
            self._history, self._jobs, self._dispatcher, self._workload, self._say,
            self._budget.enough_for_pass, self._rebuilding.ready,
        ):
            self._budget.passed(list(found), time.monotonic() - begin)
            for number, measurements in sorted(found.items()):
                self.measured(number, measurements)
            self._watch_cycles(found)
            if self._stop.when:
                return
            begin = time.monotonic()

    def _watch_cycles(self, found: Measured) -> None:
        """See `watch_drift`; the trials that were measured in one cycle have one baseline."""
        seen: set[TargetSpec] = set()
        for number, measurements in found.items():
            recipe = self._history.trial(number).recipe
            if number != 0 and recipe is not None and not seen.issuperset(place.target for place in recipe.places):
                seen |= {place.target for place in recipe.places}
                self.watch_drift(recipe, measurements)

    def watch_drift(self, recipe: Recipe, measurements: Sequence[Measurement]) -> None:
        """Take in what the baseline took next to a trial, and report once where that says that the machine is busy."""
        for place in recipe.places:
            self._busy.add(place.target, measurements)
        said = self._busy.message()
        if said is not None:
            self._say(said)

    def score_test(self) -> None:
        """Score what of the front is not scored yet on the data's test part, where there is one."""
        numbers = self._history.untested()
        if not numbers:
            return
        scored = self.scored(numbers)
        front = {number: self._history.trial(number).measurements for number in self._history.front()}
        if scored and (sentence := test_data.said(self._plan, front)) is not None:
            self._say(sentence)

    def scored(self, numbers: Sequence[int]) -> bool:
        """Score these trials on the test data, and keep that; whether there is any figure."""
        # The baseline's answers are what the others are compared with.
        job = self._jobs.tests(self._rebuilding.ready(list(dict.fromkeys([0, *numbers]))))
        found = test_data.measured(self._dispatcher, job, self._say)
        for number in numbers:
            if number in found:
                self.measured(number, found[number])
        return bool(found)

    def measured(self, number: int, measurements: Sequence[Measurement]) -> None:
        """Keep newer measurements of a trial, and what they change in the verdict on it."""
        before = self._history.trial(number).state
        record = self._history.measured_again(number, measurements)
        self._store.record({
            "event": "measured", "run": self._run, "trial": number, "pass": self._store.next_pass(self._run, number),
            "measurements": [asdict(item) for item in measurements], "at": now(), "state": record.state,
            "reason": record.reason, "violations": [asdict(item) for item in record.violations],
        })
        if record.state != before:
            verdict = "meets the requirements" if record.reason is None else f"misses a requirement: {record.reason}"
            self._say(f"measured again, trial {number} {verdict}")
