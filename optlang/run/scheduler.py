"""What comes next in a run, and what is written down of it. Others do the work; others choose the run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from optlang import interfaces
from optlang.interfaces import JSON, Artifact, Measurement, OptlangError, OutsideError, TargetSpec
from optlang.measure import signals
from optlang.measure.latency import Repetitions
from optlang.measure.process import Deployment
from optlang.plan.metrics import MEDIAN
from optlang.plan.model import Plan, Runtime
from optlang.run.batch_dependence import depends
from optlang.run.engine import Engine, WorkerDied, WorkerTimeout, wait
from optlang.run.events import Comparison, RunStarted, TrialFinished, TrialStarted, Watcher
from optlang.run.history import INTERRUPTED, History, TrialRecord
from optlang.run.job import (
    BASELINE,
    Failure,
    FrontJob,
    PrepareJob,
    Result,
    RuntimeJob,
    StepJob,
    TargetJob,
    TrialJob,
    Workload,
    member_name,
)
from optlang.run.progress_file import ProgressReader
from optlang.run.refusals import late, note_of, recalled, refusal_of
from optlang.run.refusals import spoken as spoken_refusal
from optlang.run.scratch import Scratch
from optlang.search import objectives
from optlang.search.ablation import AblationTrial, ablation_trials, baseline_recipe
from optlang.search.sampler import Sampler
from optlang.space.known_refusals import KnownRefusal
from optlang.space.locate import locate
from optlang.space.recipe import Applied, Place, Point, Recipe, label_of, resolve, steps_of
from optlang.space.space import Exhausted, Space
from optlang.store.journal import now
from optlang.store.writer import Writer

PASSES = 3
"""How often the front is measured again at most, until it holds."""

NEAR = 4
"""How many trials that are within one interval of the front are measured again beside it."""

DEVICE = "cpu"
"""What models are trained on, wherever they are measured."""

WORKER_LOG = "worker.log"
"""What the worker of this session prints, the user's own Python included; its end is kept with a trial that fails."""

LOOK = 0.1
"""Seconds between two looks at a worker's progress."""

Why = Literal["complete", "interrupted", "timeout", "exhausted", "ladder"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its id, why it stopped, how many searched trials it has in all.

    `met` says whether any trial but the baseline met all requirements, `worked` whether any could be measured.
    """

    run: str
    why: Why
    searched: int
    met: bool
    worked: bool


class InterruptedRun(Exception):  # noqa: N818 - the user's wish, not an error
    """Ctrl-C or another signal to stop for the second time, or a trial that did not finish in time after one."""


class SetupError(OptlangError):
    """Nothing can be run: `details` is the whole text of what went wrong in the worker."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.details = failure.text


class Scheduler:
    def __init__(
        self, plan: Plan, folder: Path, home: Path, scratch: Scratch, store: Writer, engine: Engine, watcher: Watcher,
        run_id: str, unavailable: Mapping[str, str],
    ) -> None:
        self.session = scratch.session
        self._plan, self._store, self._engine, self._watcher = plan, store, engine, watcher
        self._run, self._home, self._unavailable = run_id, home, unavailable
        before = store.trials(run_id)
        self._refusals = recalled(plan, folder, ((row.trial, row.reason, row.notes) for row in before))
        self._space = Space(plan, unavailable, self._refusals)
        self._history = History(plan, self._space, before, home, unavailable)
        self._workload = Workload(
            interfaces.Factory(plan.model.calls, plan.model.arguments, plan.model.weights),
            interfaces.Factory(plan.data.calls, plan.data.arguments), folder, home, DEVICE, scratch.session,
        )
        measure = plan.measure
        self._effort = Repetitions(measure.rounds, measure.processes, measure.round_seconds, measure.round_calls)
        self._front_effort = replace(self._effort, rounds=measure.front_rounds, processes=measure.front_processes)
        self._scratch = scratch
        self._progress = scratch.folder / "progress.jsonl"
        self._stop: Literal["", "soon", "now"] = ""
        self._said = False
        # SIGTERM or SIGHUP: they may have struck processes below the worker, too; when the trial must be over.
        self._struck, self._deadline = False, float("inf")
        self._began = time.monotonic()
        self._cold = True
        self._spent: list[float] = []
        self._ladder: list[AblationTrial] = []
        self._wanted = 0
        self._trouble: str | None = None
        # The path of the step that a worker does, and since when.
        self._at: tuple[str | None, float] = (None, 0.0)

    # ---- signals

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C lets the running trial finish, SIGTERM and SIGHUP for a time; a second signal ends at once."""
        last = 0.0

        def hear(number: int) -> None:
            # Nothing more here: a signal comes in the middle of anything, say of a line that is being printed.
            nonlocal last
            at, before = time.monotonic(), last
            if number != signals.INTERRUPT:
                if self._struck and at - before < signals.TWICE:
                    return
                self._struck, last = True, at
                self._deadline = min(self._deadline, at + signals.GRACE)
            self._stop = "now" if self._stop else "soon"

        with signals.heard_by(hear):
            yield

    # ---- the order of things

    def go(self, ladder: bool | None) -> Outcome:
        """Baseline, ladder, searched trials, the front measured again; True stops after the ladder, False leaves it
        out, None does as the study says."""
        plan = self._plan
        ladder_only = ladder is True
        wanted = plan.search.trials
        for path, reason in self._unavailable.items():
            self._watcher.message(f"without {spoken(plan, path)}: {reason}")
        if ladder or (ladder is None and plan.search.ladder):
            found = ablation_trials(plan, Space(plan, self._unavailable), self._unavailable)
            self._ladder = [rung for rung in found if self._history.climbed(rung) or self._may_run(rung)]
        self._wanted = 0 if ladder_only else max(wanted, self._history.searched)
        self._watcher.run_started(self._planned())
        missing = [rung for rung in self._ladder if not self._history.climbed(rung)]
        if self._history.baseline is not None and not missing and (
            ladder_only or self._history.searched >= wanted
        ) and self._history.front_is_settled():
            return self.outcome("ladder" if ladder_only else "complete")
        if self._history.baseline is None:
            self._run_baseline()
        self._check_baseline()
        for rung in missing:
            if self._over():
                break
            if self._may_run(rung):
                self._trial(rung.recipe, "ladder", rung.point, rung.alone)
            else:
                self._ladder.remove(rung)
        why: Why = "ladder"
        if not ladder_only:
            why = self._searched_trials(wanted)
        if self._over() == "soon":
            return self.outcome("interrupted")
        self._settle_front()
        return self.outcome("interrupted" if self._stop else why)

    def _searched_trials(self, wanted: int) -> Why:
        sampler = Sampler(self._plan, self._space, self._history.known)
        for earlier in self._history.told():
            sampler.recall(earlier)
        while self._history.searched < wanted:
            over = self._over()
            if over:
                return "timeout" if over == "timeout" else "interrupted"
            try:
                asked = sampler.ask(self._store.next_trial(self._run))
            except Exhausted:
                self._watcher.message(
                    "every point of the space has been tried" + (", or is refused as before" if self._refusals else "")
                )
                return "exhausted"
            done = self._trial(resolve(self._plan, asked.point), "sampler", asked.point, None, asked.state)
            told = self._history.tell(done)
            if told is not None:
                sampler.tell(told)
        return "complete"

    def _may_run(self, rung: AblationTrial) -> bool:
        return self._refusals.against(rung.recipe) is None

    def _over(self) -> str:
        if self._stop:
            return self._stop
        limit = self._plan.search.timeout
        return "timeout" if limit is not None and time.monotonic() - self._began >= limit else ""

    def outcome(self, why: Why) -> Outcome:
        """How the run stands."""
        history = self._history
        return Outcome(self._run, why, history.searched, history.met, history.worked)

    # ---- work

    def _heed(self) -> None:
        """Say that a signal to stop was heard; raise InterruptedRun at the second one, or past the deadline."""
        if self._stop and not self._said:
            self._said = True
            at_last, again = (
                (f", in {signals.GRACE:g} s at the latest", "a second signal") if self._struck else ("", "Ctrl-C again")
            )
            self._watcher.message(
                f"stopping when this trial is done{at_last}; {again} stops now (nothing finished is lost)"
            )
        if time.monotonic() > self._deadline:
            self._stop = "now"
        if self._stop == "now":
            raise InterruptedRun

    def _wait(self, future: Future[T], reader: ProgressReader) -> T:
        while True:
            done = wait(future, LOOK)
            self._heed()
            for what in reader.new():
                if what.get("path") != self._at[0]:
                    self._at = (what.get("path"), time.monotonic())
                self._watcher.progress(what)
            # The store may have lines that it could not write while somebody else held the database.
            self._store.drain()
            trouble = self._store.trouble
            if trouble is not None and trouble != self._trouble:
                self._watcher.message(f"{trouble}; the run goes on, and its results wait in the journal")
            self._trouble = trouble
            if done:
                return future.result()

    def _prepare(self) -> None:
        """Have a worker that has loaded the model and the data: that time is not a trial's."""
        from optlang.run.worker import prepare

        names = {ref.metric for ref in self._plan.metric_refs()}
        task = tuple(sorted(name for name in names if self._plan.metric(name).task))
        reader = ProgressReader(self._progress)
        self._watcher.progress({"doing": "load the model and the data"})
        job = PrepareJob(self._workload, task, self._progress)
        try:
            failure = self._wait(self._engine.submit(prepare, job, self._plan.search.trial_timeout), reader)
        except (WorkerDied, WorkerTimeout) as error:
            raise OutsideError(f"loading the model and the data: {error}") from error
        if failure is not None:
            raise SetupError(failure)
        self._cold = False

    def _run_baseline(self) -> None:
        recipe = baseline_recipe(self._plan, self._unavailable)
        point = locate(self._plan, self._space, recipe)
        done = self._trial(recipe, "baseline", point, None)
        if done.interrupted:
            raise InterruptedRun
        if done.state != "complete":
            raise SetupError(Failure(f"the baseline failed: {done.reason}", done.error or ""))

    def _check_baseline(self) -> None:
        """OptlangError where the baseline's files, which every trial is timed beside, are gone."""
        for artifact in self._history.trial(0).artifacts.values():
            missing = [file.name for file in artifact.files if not (artifact.folder / file.name).is_file()]
            if missing:
                raise OptlangError(
                    f"the baseline's artifact is gone: {artifact.folder / missing[0]}",
                    help="put it back, or begin a new run with --new",
                )

    def _job(self, number: int, recipe: Recipe, origin: str) -> TrialJob:
        judged = [metric for metric in self._plan.metrics if metric.task]
        return TrialJob(
            trial=number, workload=self._workload,
            targets=tuple(self._place(number, recipe, place, origin) for place in recipe.places),
            effort=self._effort, progress=self._progress,
            directions={metric.name: metric.direction for metric in judged},
            ratios=frozenset(metric.name for metric in judged if metric.dimension == "ratio"),
        )

    def _place(self, number: int, recipe: Recipe, place: Place, origin: str) -> TargetJob:
        plan = self._plan
        runtime = plan.runtime(place.runtime)
        before = (self._step(step, None) for step in steps_of(plan.baseline, {}))
        folder = self._home / "artifacts" / self._run / str(number)
        return TargetJob(
            place.target, self._runtime(place), (*before, *(self._step(step, runtime) for step in recipe.steps)),
            folder if len(plan.targets) == 1 else folder / place.target.name,
            None if origin == "baseline" else self._reference(place.target),
        )

    def _baseline_steps(self) -> tuple[Applied, ...]:
        """How the baseline is made, which every other trial begins with."""
        return tuple(replace(step, path=f"{BASELINE}{step.path}") for step in steps_of(self._plan.baseline, {}))

    def _step(self, step: Applied, runtime: Runtime | None) -> StepJob:
        """A step of a trial on `runtime`, or one of the baseline's own."""
        technique = self._plan.technique(step.technique)
        path = f"{BASELINE}{step.path}" if runtime is None else step.path
        return StepJob(
            path, technique.name, technique.calls, step.settings, technique.needs, _seed(self._plan.search.seed, path),
            performed=runtime is not None and runtime.carries_out(technique.name),
        )

    def _runtime(self, place: Place) -> RuntimeJob:
        calls = self._plan.runtime(place.runtime).calls
        return RuntimeJob(place.runtime, calls, place.settings, self._workload.study)

    def _trial(
        self, recipe: Recipe, origin: str, point: Point | None, alone: str | None,
        state: Mapping[str, JSON] | None = None,
    ) -> TrialRecord:
        from optlang.run.worker import carry_out

        if self._cold:
            self._prepare()
        number = self._store.next_trial(self._run)
        begun = time.monotonic()
        planned = [asdict(step) for step in (self._baseline_steps() if origin == "baseline" else recipe.steps)]
        self._store.record({
            "event": "start", "run": self._run, "session": self.session, "trial": number, "origin": origin,
            "in_space": point is not None, "point": dict(point or {}), "alone": alone,
            "steps": planned, "runtime": recipe.label,
            "target": ", ".join(place.target.name for place in recipe.places),
            "started": now(),
        })
        self._watcher.trial_started(TrialStarted(number, origin, point or {}, planned, recipe.label))
        reader = ProgressReader(self._progress)
        job = self._job(number, recipe, origin)
        self._at, refusal = (None, 0.0), None
        try:
            result = self._wait(self._engine.submit(carry_out, job, self._plan.search.trial_timeout), reader)
        except WorkerDied as error:
            self._cold = True
            result = Result(failure=Failure(str(error), self._log_tail()))
        except WorkerTimeout as error:
            self._cold = True
            result = Result(failure=Failure(str(error), "the trial's time-out is `trial_timeout` in search { }"))
            path, since = self._at
            refusal = late(self._plan, number, recipe, path or "", time.monotonic() - since, str(error))
        except InterruptedRun:
            result = Result(failure=Failure(INTERRUPTED, "", again=False))
        if result.failure is not None and result.failure.refused is None and self._struck:
            # A compiler or a browser below the worker does not outlive SIGTERM: what failed may have failed by it.
            result = replace(result, failure=Failure(INTERRUPTED, result.failure.text, again=False))
        seconds = time.monotonic() - begun
        refusal = self._proved(number, recipe, result.failure, refusal)
        if refusal is not None:
            result = replace(result, notes={**result.notes, **note_of(self._plan, refusal, self._workload.study)})
        done = self._history.add(number, recipe, origin, point, alone, result, state or {})
        self._store.record({
            "event": "end", "run": self._run, "trial": number, "state": done.state, "reason": done.reason,
            "error": done.error, "finished": now(), "seconds": seconds,
            # The baseline's own steps are told with the baseline; every other trial found them in the cache.
            "steps": [asdict(step) for step in result.steps if origin == "baseline" or not _of_baseline(step.path)],
            "measurements": [asdict(item) for item in result.measurements],
            "artifacts": [_artifact_event(target, artifact) for target, artifact in result.artifacts.items()],
            "notes": dict(result.notes), "violations": [asdict(item) for item in done.violations],
            "sampler_state": dict(state or {}),
        })
        self._spent.append(seconds)
        if refusal is not None:
            self._refusals.add(refusal)
        self._watcher.trial_finished(self._view(done, seconds, depends(result.notes)))
        if refusal is not None and self._goes_on(refusal, recipe):
            self._watcher.message(spoken_refusal(refusal))
        if self._stop == "now":
            raise InterruptedRun
        return done

    def _proved(
        self, number: int, recipe: Recipe, failure: Failure | None, late: KnownRefusal | None
    ) -> KnownRefusal | None:
        """What is known from now on: nothing of a trial that went well, or that was stopped."""
        if failure is None or not failure.again:
            return None
        return late or refusal_of(self._plan, number, recipe, failure)

    def _goes_on(self, refusal: KnownRefusal, recipe: Recipe) -> bool:
        """Whether the refusal is about more than the trial that it comes from."""
        if refusal.depends != "settings" or len(refusal.steps) < len(recipe.steps):
            return True
        return not refusal.places and any(len(target.runtimes) > 1 for target in self._plan.targets)

    def _log_tail(self) -> str:
        try:
            return (self._scratch.folder / WORKER_LOG).read_text(errors="replace")[-4000:]
        except OSError:
            return ""

    def _planned(self) -> RunStarted:
        """How many trials of which kind this session is to end with, and how many of them are over."""
        history = self._history
        drawn = min(history.searched, self._wanted)
        done = drawn + (history.baseline is not None) + sum(map(history.climbed, self._ladder))
        return RunStarted(self._plan.study, len(self._ladder), self._wanted, done, drawn)

    def _view(self, done: TrialRecord, seconds: float, dependent: bool) -> TrialFinished:
        planned = self._planned()
        # The first trial of a session also loads the model and the data, or trains the baseline.
        recent = self._spent[1:]
        left = (planned.total - planned.done) * sum(recent) / len(recent) if recent else None
        figures = {_named(*key): self._figure(done, key, item) for key, item in self._history.measured(done).items()}
        return TrialFinished(
            done.number, done.origin, done.state, done.reason, seconds, figures, self._history.front(), planned.done,
            planned.total, left, dependent,
        )

    def _figure(self, done: TrialRecord, key: objectives.Key, item: Measurement) -> Comparison:
        """A measurement against the baseline's: side by side where it was measured so."""
        baseline = self._history.baseline
        if done.origin == "baseline":
            return Comparison(item.value, item.unit)
        stored = None if baseline is None else self._history.measured(baseline).get(key)
        reference = item.baseline if item.baseline is not None else stored.value if stored is not None else None
        direction = next((metric.direction for metric in self._plan.metrics if metric.name == item.metric), None)
        times = lost = None
        if direction == "minimize" and item.ratio is not None:
            times = item.ratio
        elif direction == "minimize" and reference is not None and item.value:
            times = reference / item.value
        elif direction == "maximize" and reference is not None:
            lost = reference - item.value
        return Comparison(item.value, item.unit, times, lost)

    # ---- the front

    def _members(self, number: int) -> dict[str, Deployment]:
        """What a trial has to run on each target where it was timed."""
        done = self._history.trial(number)
        assert done.recipe is not None, f"trial {number} lies outside the space"
        timed = {item.target for item in done.measurements if item.metric == MEDIAN}
        found = {}
        for place in done.recipe.places:
            name = place.target.name
            if name in timed:
                runtime = self._runtime(place)
                found[name] = Deployment(
                    member_name(number), place.label, runtime.calls, done.artifacts[name], place.target,
                    runtime.settings, runtime.study,
                )
        return found

    def _reference(self, target: TargetSpec) -> Deployment | None:
        """The baseline as a trial is compared with it: with the trial's own threads and samples a call."""
        member = self._members(0).get(target.name)
        return None if member is None else replace(member, target=target)

    def _settle_front(self) -> None:
        """Measure the front again, side by side with what is close to it, until it holds."""
        measured: set[int] = set()
        for turn in range(1, PASSES + 1):
            front = self._history.front()
            # Later passes are for those that the last one has brought into the front.
            candidates = [*front, *self._history.near(NEAR)] if turn == 1 else front
            numbers = [
                number for number in candidates if number not in (0, *measured) and self._history.timed(number)
            ]
            if not numbers or (turn == 1 and self._history.front_is_settled()):
                return
            self._watcher.message(f"measuring the {len(numbers)} best again, side by side with the baseline")
            members = [(number, member) for number in numbers for member in self._members(number).values()]
            again = self._measured_again(members)
            if again is None:
                return
            for number, measurements in sorted(again.items()):
                self._store.record({
                    "event": "measured", "run": self._run, "trial": number,
                    "pass": self._store.next_pass(self._run, number),
                    "measurements": [asdict(item) for item in measurements], "at": now(),
                })
                self._history.measured_again(number, measurements)
            measured |= set(again)
            if self._over():
                return

    def _measured_again(self, members: Sequence[tuple[int, Deployment]]) -> dict[int, tuple[Measurement, ...]] | None:
        """The members' latencies beside the baseline's, those of one target in one cycle; None where that failed.

        The baseline's own are among them, where it ran with the threads and samples a call that its trial has.
        """
        from optlang.run.worker import measure_front

        found: dict[int, tuple[Measurement, ...]] = {}
        for target in dict.fromkeys(member.target for _, member in members):
            reference = self._reference(target)
            if reference is None:
                continue
            if self._cold:
                self._prepare()
            alike = {number: member for number, member in members if member.target == target}
            job = FrontJob(self._workload, reference, alike, self._front_effort, self._progress)
            reader = ProgressReader(self._progress)
            try:
                again = self._wait(self._engine.submit(measure_front, job, None), reader)
            except (WorkerDied, WorkerTimeout) as error:
                again = Failure(str(error), "")
            if isinstance(again, Failure):
                self._watcher.message(f"the front could not be measured again: {again.reason}")
                return found or None
            for number, measurements in again.items():
                if number == 0 and self._members(0)[target.name].target != target:
                    continue
                found[number] = (*found.get(number, ()), *measurements)
        return found


def _of_baseline(path: str) -> bool:
    return path.startswith(BASELINE)


def _seed(seed: int, path: str) -> int:
    """Follows from the study's seed and the step's path, never from the trial's number: equal steps are equal."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{path}".encode()).digest()[:4], "big")


def _named(target: str | None, metric: str) -> str:
    return metric if target is None else f"{target}.{metric}"


def spoken(plan: Plan, path: str) -> str:
    """The runtime at this path, as the study calls it."""
    return next(
        label_of(plan, target, use.label) for target in plan.targets for use in target.runtimes if use.path == path
    )


def _artifact_event(target: str, artifact: Artifact) -> dict[str, Any]:
    files = [asdict(file) for file in artifact.files]
    whole = hashlib.sha256("".join(f"{file.name}:{file.sha256}\n" for file in artifact.files).encode()).hexdigest()
    return {
        "target": target, "path": str(artifact.folder), "format": artifact.format,
        "bytes": sum(file.bytes for file in artifact.files), "sha256": whole, "files": files,
        "inputs": list(artifact.inputs), "outputs": list(artifact.outputs), "about": dict(artifact.about),
    }
