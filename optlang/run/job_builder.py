"""Jobs for the worker, from recipes: each step with its technique's object and seed, each target with its baseline."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from optlang.interfaces import TargetSpec
from optlang.measure.latency import Repetitions
from optlang.measure.process import Deployment
from optlang.plan.metrics import MEDIAN
from optlang.plan.model import Plan, Runtime
from optlang.run.busy import Busy
from optlang.run.history import History
from optlang.run.job import BASELINE, RuntimeJob, StepJob, TargetJob, TestJob, TrialJob, Workload, member_name
from optlang.run.stopping import Stopping
from optlang.space.recipe import Applied, Place, Recipe, steps_of


class JobBuilder:
    """Makes the jobs of one run; artifacts are built in folders of `home`."""

    def __init__(
        self, plan: Plan, workload: Workload, history: History, run_id: str, busy: Busy
    ) -> None:
        self._plan, self._workload, self._history, self._busy = plan, workload, history, busy
        self._artifacts = workload.home / "artifacts" / run_id
        measure = plan.measure
        self._effort = Repetitions(measure.rounds, measure.processes, measure.round_seconds, measure.round_calls)
        self._front_effort = replace(self._effort, rounds=measure.front_rounds, processes=measure.front_processes)

    def trial(
        self, number: int, recipe: Recipe, origin: str, stopping: Stopping | None = None, pause: int | None = None
    ) -> TrialJob:
        """The job of a trial, up to the pause; the baseline itself is compared with nothing."""
        directions, ratios = self._judged()
        search = self._plan.search
        scored = (search.stop_early or search.halving is not None) and origin != "baseline"
        judged = self._plan.judged if scored else ()
        return TrialJob(
            trial=number, workload=self._workload,
            targets=tuple(self._target(number, recipe, place, origin) for place in recipe.places),
            directions=directions, ratios=ratios, judged=judged,
            stopping=stopping, pause=pause,
        )

    def baseline_steps(self) -> tuple[Applied, ...]:
        """How the baseline is made, which every other trial begins with."""
        return tuple(replace(step, path=f"{BASELINE}{step.path}") for step in steps_of(self._plan.baseline, {}))

    def members(self, number: int) -> dict[str, Deployment]:
        """What a trial has to run on each target where it was timed."""
        record = self._history.trial(number)
        assert record.recipe is not None, f"trial {number} lies outside the space"
        timed = {item.target for item in record.measurements if item.metric == MEDIAN}
        found = {}
        for place in record.recipe.places:
            name = place.target.name
            if name in timed:
                runtime = self._runtime(place)
                found[name] = Deployment(
                    member_name(number), place.label, runtime.calls, record.artifacts[name], place.target,
                    runtime.settings, runtime.study,
                )
        return found

    def front_effort(self, target: TargetSpec, members: int) -> Repetitions:
        """How carefully to measure so many trials in one cycle with the baseline."""
        return self._busy.effort(self._front_effort, target, members + 1)

    def tests(self, numbers: Sequence[int]) -> TestJob:
        """The job of scoring trials on the test data."""
        directions, ratios = self._judged()
        return TestJob(
            self._workload, {number: self.members(number) for number in numbers}, directions, ratios
        )

    def _judged(self) -> tuple[dict[str, Literal["minimize", "maximize"]], frozenset[str]]:
        """Which way the task's metrics are better, and which of them are shares."""
        judged = [metric for metric in self._plan.metrics if metric.task]
        return (
            {metric.name: metric.direction for metric in judged},
            frozenset(metric.name for metric in judged if metric.dimension == "ratio"),
        )

    def reference(self, target: TargetSpec) -> Deployment | None:
        """The baseline as a trial is compared with it: with the trial's own threads and samples a call."""
        member = self.members(0).get(target.name)
        return None if member is None else replace(member, target=target)

    def _target(self, number: int, recipe: Recipe, place: Place, origin: str) -> TargetJob:
        runtime = self._plan.runtime(place.runtime)
        before = (self._step(step, None) for step in self.baseline_steps())
        folder = self._artifacts / str(number)
        return TargetJob(
            place.target, self._runtime(place), (*before, *(self._step(step, runtime) for step in recipe.steps)),
            folder if len(self._plan.targets) == 1 else folder / place.target.name,
            None if origin == "baseline" else self.reference(place.target),
            self._busy.effort(self._effort, place.target, 2),
        )

    def _step(self, step: Applied, runtime: Runtime | None) -> StepJob:
        """A step of a trial on `runtime`, or one of the baseline's own."""
        technique = self._plan.technique(step.technique)
        return StepJob(
            step.path, technique.name, technique.calls, step.settings, technique.needs,
            _seed(self._plan.search.seed, step.path),
            performed=runtime is not None and runtime.carries_out(technique.name), prepares=technique.prepares,
        )

    def _runtime(self, place: Place) -> RuntimeJob:
        calls = self._plan.runtime(place.runtime).calls
        return RuntimeJob(place.runtime, calls, place.settings, self._workload.study)


def _seed(seed: int, path: str) -> int:
    """Computed from the study's seed and the step's path, never from the trial's number: equal steps are equal."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{path}".encode()).digest()[:4], "big")
