"""Carries out trials: records how each starts and ends, and lets all that learns from trials of the run know."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from optlang.interfaces import JSON, Measurement, OutsideError
from optlang.plan.model import Plan
from optlang.run import full_disk
from optlang.run.budget import Budget
from optlang.run.dispatch import Dispatcher
from optlang.run.early_end import EarlyEnd, Look
from optlang.run.engine import MEASURE, WorkerDied, WorkerTimeout
from optlang.run.events import TrialStarted, Watcher
from optlang.run.history import History, Pause, TrialRecord
from optlang.run.job import OUTSIDE, Failure, Result, StepRun, TrialJob
from optlang.run.job_builder import JobBuilder
from optlang.run.promotion import Promotion
from optlang.run.refusals import refusal_note, refusal_of, timeout_refusal
from optlang.run.segments import before_of, epochs_of, joined
from optlang.run.stop import InterruptedRun, StopRequest
from optlang.run.trial_events import end_event
from optlang.run.waits import Waits
from optlang.space.known_refusals import KnownRefusal, KnownRefusals
from optlang.space.recipe import Point, Recipe
from optlang.store.journal import now
from optlang.store.projection import INTERRUPTED
from optlang.store.writer import Writer

OUTSIDE_MOST = 3
"""After so many trials in a row that failed by something outside, as a device that is away, the run ends."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A trial that is carried out: new, or one that goes on from where it was `paused`.

    `before` are its steps as they were then, `seconds` what they took with all that was not a step.
    """

    number: int
    recipe: Recipe
    origin: str
    point: Point | None
    alone: str | None
    state: Mapping[str, JSON]
    paused: TrialRecord | None = None
    before: tuple[StepRun, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial that has ended or paused: its record, its result, what it proves to be refused, the seconds it took."""

    record: TrialRecord
    result: Result
    refusal: KnownRefusal | None
    seconds: float


def _gone(failure: Failure) -> OutsideError:
    """What ends a run that cannot be measured any more."""
    return OutsideError(
        failure.reason, help="nothing that has finished is lost: the same command goes on", details=failure.text
    )


def _name(dispatcher: Dispatcher) -> str:
    """What the store calls its worker."""
    return "measure" if dispatcher.lane == MEASURE else str(dispatcher.lane)


@dataclass(slots=True)
class Attempts:
    """The trials of one session of a run. `ended` is called with each that has ended or paused."""

    plan: Plan
    study: Path
    run: str
    session: str
    store: Writer
    watcher: Watcher
    stop: StopRequest
    history: History
    jobs: JobBuilder
    budget: Budget
    early: EarlyEnd
    promotion: Promotion
    refusals: KnownRefusals
    ended: Callable[[Ended], None]
    measuring: Dispatcher | None = None
    """The worker that builds and measures, where the dispatchers of trials only train."""
    running: set[int] = field(default_factory=set)
    """The numbers of those that are carried out now."""
    outside: int = 0
    """How many trials in a row failed by something outside."""
    searched: set[int] = field(default_factory=set)
    """Those of them that the search has drawn, and that are not paused ones which go on."""

    def new(
        self, dispatcher: Dispatcher, recipe: Recipe, origin: str, point: Point | None, alone: str | None,
        state: Mapping[str, JSON] | None = None, number: int | None = None,
    ) -> Waits[TrialRecord]:
        """A trial from its start to its end, or to its first pause. The dispatcher's worker has loaded the data."""
        number = self.store.next_trial(self.run) if number is None else number
        steps = [asdict(step) for step in (self.jobs.baseline_steps() if origin == "baseline" else recipe.steps)]
        self.store.record({
            "event": "start", "run": self.run, "session": self.session, "trial": number, "origin": origin,
            "in_space": point is not None, "point": dict(point or {}), "alone": alone,
            "steps": steps, "runtime": recipe.label,
            "target": ", ".join(place.target.name for place in recipe.places),
            "started": now(),
        })
        self.watcher.trial_started(
            TrialStarted(number, origin, point or {}, steps, recipe.label, lane=max(0, dispatcher.lane))
        )
        trial = Begun(number, recipe, origin, point, alone, state or {})
        searched = origin == "sampler"
        if searched:
            self.searched.add(number)
        pause = self.promotion.pause(recipe, None) if searched else None
        return (yield from self._carried_on(dispatcher, trial, pause))

    def going_on(self, dispatcher: Dispatcher, record: TrialRecord) -> Waits[TrialRecord]:
        """A paused trial up to its next pause, or to its end; see `new`."""
        assert record.recipe is not None
        pause = self.promotion.pause(record.recipe, record)
        self.promotion.begin(record.number)
        row = self.store.trial(self.run, record.number)
        self.store.record({
            "event": "resume", "run": self.run, "session": self.session, "trial": record.number, "started": now(),
        })
        steps = [asdict(step) for step in record.recipe.steps]
        self.watcher.trial_started(TrialStarted(
            record.number, record.origin, record.point or {}, steps, record.recipe.label, record.pauses[-1].epoch,
            max(0, dispatcher.lane),
        ))
        trial = Begun(
            record.number, record.recipe, record.origin, record.point, record.alone, record.sampler_state, record,
            before_of(row, self.store.curve(self.run, record.number)), row.seconds or 0.0,
        )
        return (yield from self._carried_on(dispatcher, trial, pause))

    def _carried_on(self, dispatcher: Dispatcher, trial: Begun, pause: int | None) -> Waits[TrialRecord]:
        """Carry the trial out up to the pause, and record what became of it."""
        started = time.monotonic()
        self.running.add(trial.number)
        try:
            result, refusal, measured = yield from self._carried_out(dispatcher, trial, pause)
        finally:
            self.running.remove(trial.number)
            self.searched.discard(trial.number)
        failure = result.failure
        words = None if failure is None else full_disk.full(failure)
        if words is not None:
            result = replace(result, failure=Failure(INTERRUPTED, "", again=False), artifacts={})
            refusal = None
        given = result.failure
        if trial.paused is not None and given is not None and (given.outside or given.reason == INTERRUPTED):
            # It is paused as it was: the store has it so once this session is over.
            self.history.paused_again(trial.paused)
            if failure is not None and words is not None:
                raise full_disk.error(trial.number, words, failure)
            if given.outside:
                raise _gone(given)
            raise InterruptedRun
        seconds = time.monotonic() - started
        steps = [replace(step, worker=step.worker or _name(dispatcher)) for step in result.steps]
        result = replace(result, steps=joined(trial.before, steps))
        record = self._recorded(trial, pause, result, measured, trial.seconds + seconds)
        self.budget.add(record, result, seconds, trial.seconds)
        self.early.add(record, result, trial.seconds + seconds)
        self.promotion.add(record, epochs_of(result.steps))
        if refusal is not None:
            self.refusals.add(refusal)
        self.ended(Ended(record, result, refusal, trial.seconds + seconds))
        if failure is not None and words is not None:
            raise full_disk.error(trial.number, words, failure)
        if self.stop.when == "now":
            raise InterruptedRun
        self.outside = self.outside + 1 if failure is not None and failure.outside else 0
        if failure is not None and (self.outside == OUTSIDE_MOST or (failure.outside and not trial.number)):
            raise _gone(failure)
        return record

    def _recorded(
        self, trial: Begun, pause: int | None, result: Result, measured: tuple[Measurement, ...], seconds: float
    ) -> TrialRecord:
        """The trial as the history and the store have it; `measured` is what was measured before its training."""
        pauses = () if trial.paused is None else trial.paused.pauses
        if result.paused is not None:
            assert pause is not None
            pauses = (*pauses, Pause(
                self.promotion.rung(result.paused.epochs, pause), result.paused.epochs,
                self.promotion.epochs(trial.recipe), result.paused.step, result.paused.scores, measured,
            ))
        record = self.history.add(
            trial.number, trial.recipe, trial.origin, trial.point, trial.alone, result, trial.state, pauses
        )
        self.store.record(end_event(self.run, record, result, seconds))
        return record

    def _carried_out(
        self, dispatcher: Dispatcher, trial: Begun, pause: int | None
    ) -> Waits[tuple[Result, KnownRefusal | None, tuple[Measurement, ...]]]:
        """The trial's result, what it proves to be refused (nothing where it went well, or was stopped), and what was
        measured of it before its training."""
        number, recipe = trial.number, trial.recipe
        at = measuring = self.measuring or dispatcher
        trained = Result()
        refusal: KnownRefusal | None = None
        looked = Look(measured=trial.paused.pauses[-1].measured if trial.paused is not None else ())
        try:
            if trial.origin == "sampler":
                looked = yield from self.early.look(
                    measuring, number, recipe, pauses=pause is not None, known=looked.measured
                )
            if looked.result is not None:
                return looked.result, None, looked.measured
            job = self.jobs.trial(number, recipe, trial.origin, looked.stopping, pause)
            if measuring is not dispatcher:
                at = dispatcher
                trained = yield from self._trained(dispatcher, job)
                at = measuring
            result = trained
            if trained.failure is None and trained.ended is None and trained.paused is None:
                result = yield from self._measured(dispatcher, measuring, job, trained)
        except WorkerDied as error:
            result = Result(trained.steps, failure=Failure(str(error), at.log_tail()))
        except WorkerTimeout as error:
            text = "the trial's time-out is `trial_timeout` in search { }"
            result = Result(trained.steps, failure=Failure(str(error), text))
            path, since = at.step
            refusal = timeout_refusal(self.plan, number, recipe, path or "", time.monotonic() - since, str(error))
        except InterruptedRun:
            result = Result(failure=Failure(INTERRUPTED, "", again=False))
        failure = result.failure
        if failure is not None and failure.refused is None and self.stop.terminated:
            # A compiler or a browser below the worker does not outlive SIGTERM: what failed may have failed by it.
            failure = Failure(INTERRUPTED, failure.text, again=False)
            result = replace(result, failure=failure)
        if failure is not None and failure.outside:
            result = replace(result, notes={**result.notes, OUTSIDE: True})
        if failure is None or not failure.again:
            return result, None, looked.measured
        refusal = refusal or refusal_of(self.plan, number, recipe, failure)
        if refusal is not None:
            result = replace(result, notes={**result.notes, **refusal_note(self.plan, refusal, self.study)})
        return result, refusal, looked.measured

    def _trained(self, dispatcher: Dispatcher, job: TrialJob) -> Waits[Result]:
        """What came of the trial's trainings: their results lie in the cache."""
        from optlang.run.worker import train

        return (yield from dispatcher.running(train, job, self.plan.search.trial_timeout))

    def _measured(
        self, dispatcher: Dispatcher, measuring: Dispatcher, job: TrialJob, trained: Result
    ) -> Waits[Result]:
        """The whole trial: of what is `trained` already the worker that measures finds the results in the cache."""
        from optlang.run.worker import carry_out

        if measuring is not dispatcher:
            yield from measuring.loading()
        limit = self.plan.search.trial_timeout
        left = max(min(limit, 1.0), limit - sum(step.seconds for step in trained.steps))
        job = replace(job, workload=replace(job.workload, trained_on=trained.trained_on))
        result = yield from measuring.running(carry_out, job, left, dispatcher.lane)
        there = {step.path: step.key for step in trained.steps}
        if any(step.cached is False and there.get(step.path) not in (None, step.key) for step in result.steps):
            self.watcher.message(
                f"trial {job.trial} was trained once more where it is measured: the model, the data or the code are "
                "not the same on the machines that train"
            )
        # Seconds and curves are those of the training.
        return replace(result, steps=joined(trained.steps, result.steps), notes={**trained.notes, **result.notes})
