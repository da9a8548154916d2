"""What comes next in a run, and what is recorded of it. Others do the work; others choose the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from optlang import interfaces
from optlang.interfaces import OptlangError
from optlang.measure.machine import available_cores
from optlang.plan.model import FloatDomain, Plan
from optlang.run import waits
from optlang.run.attempts import Attempts, Ended
from optlang.run.batch_dependence import depends
from optlang.run.budget import Budget
from optlang.run.busy import Busy
from optlang.run.disk import DiskLimit
from optlang.run.dispatch import Dispatcher, SetupError
from optlang.run.early_end import EarlyEnd
from optlang.run.engine import MEASURE, Engine
from optlang.run.events import RunStarted, TrialFinished, Watcher
from optlang.run.forecast import Estimate
from optlang.run.history import History, TrialRecord
from optlang.run.job import Failure, Workload
from optlang.run.job_builder import JobBuilder
from optlang.run.lanes import Lanes
from optlang.run.promotion import Promotion
from optlang.run.rebuilt import Rebuilt, rebuild
from optlang.run.refusals import known_refusals, refusal_text
from optlang.run.scratch import Scratch
from optlang.run.search_loop import SearchLoop, Why
from optlang.run.settling import Settling
from optlang.run.stop import InterruptedRun, StopRequest
from optlang.run.waits import Waits
from optlang.search.ablation import AblationTrial, ablation_trials, baseline_recipe, reference_path
from optlang.search.bare_runtimes import divided, first_of
from optlang.search.choose import chosen
from optlang.space.known_refusals import KnownRefusal
from optlang.space.locate import locate
from optlang.space.recipe import Point, Recipe, place_label, resolve
from optlang.space.space import Space
from optlang.store.writer import Writer

LISTED = 10_000
"""Points that are looked at, at most, to see whether the space has as many as the study asks for."""

FEW = 1000
"""Points that are looked at, at most, to say how many trials there are where the time alone ends the search."""


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


class Scheduler:
    """Carries out one session of a run: `go` returns when it is over."""

    def __init__(
        self, plan: Plan, folder: Path, home: Path, scratch: Scratch, store: Writer, engine: Engine, watcher: Watcher,
        run_id: str, unavailable: Mapping[str, str], begun: float,
    ) -> None:
        self.session = scratch.session
        self._plan, self._store, self._watcher, self._run = plan, store, watcher, run_id
        self._unavailable = unavailable
        before = store.trials(run_id)
        self._refusals = known_refusals(plan, folder, ((row.trial, row.reason, row.notes) for row in before))
        self._space = Space(plan, unavailable, self._refusals)
        self._history = History(plan, self._space, before, home, unavailable)
        self._workload = Workload(
            interfaces.Factory(
                plan.model.calls, plan.model.arguments, plan.model.weights, plan.model.weights_key,
                plan.model.weights_strict,
            ),
            interfaces.Factory(plan.data.calls, plan.data.arguments), folder, home, plan.search.device, scratch.session,
            threads=_threads(plan, engine),
            metrics=tuple(
                interfaces.NamedMetric(metric.name, metric.direction, interfaces.Factory(made.calls, made.arguments))
                for metric in plan.metrics if (made := metric.made_by) is not None
            ),
        )
        self._stop = StopRequest()
        self._lanes = Lanes([
            Dispatcher(plan, self._workload, engine, store, watcher, self._stop, lane) for lane in range(engine.lanes)
        ], self._stop, watcher.message, local=not engine.apart)
        apart = Dispatcher(plan, self._workload, engine, store, watcher, self._stop, MEASURE) if engine.apart else None
        self._measuring = apart or self._lanes.first
        self._busy = Busy()
        self._jobs = JobBuilder(plan, self._workload, self._history, run_id, self._busy)
        self._budget = Budget(plan, self._history, before, begun, lanes=engine.lanes)
        self._early = EarlyEnd(plan, self._history, self._jobs, self._budget.forecast, store, run_id)
        self._promotion = Promotion(plan, self._history, store.curves(run_id))
        self._attempts = Attempts(
            plan, folder, run_id, self.session, store, watcher, self._stop, self._history, self._jobs, self._budget,
            self._early, self._promotion, self._refusals, self._trial_ended, apart,
        )
        self._search = SearchLoop(
            plan, run_id, self._space, store, self._lanes, self._attempts, self._history, self._budget,
            self._promotion, self._refusals, self._stop, watcher.message,
        )
        self._disk = DiskLimit(
            home, run_id, self.session, plan.search.disk, engine.lanes, self._history, store, watcher.message
        )
        self._settling = Settling(
            plan, run_id, store, self._measuring, self._workload, self._history, self._jobs, self._budget,
            self._busy, self._disk, self._stop, watcher.message,
        )
        self._ladder: list[AblationTrial] = []
        self._wanted: int | None = 0

    def interruptible(self) -> AbstractContextManager[None]:
        """While the block runs, signals stop the run; see `StopRequest.listening`."""
        return self._stop.listening()

    # ---- the order of trials

    def go(self, ladder: bool | None) -> Outcome:
        """Baseline, ladder, searched trials, the front measured again; True stops after the ladder, False leaves it
        out, None does as the study says.

        Of the ladder come before the search the runtimes without any step, and each technique on the first of them.
        """
        plan, history = self._plan, self._history
        for path, reason in self._unavailable.items():
            self._watcher.message(f"without {runtime_label(plan, path)}: {reason}")
        if ladder or (ladder is None and plan.search.ladder):
            found = ablation_trials(plan, Space(plan, self._unavailable), self._unavailable)
            self._ladder = [trial for trial in found if history.has(trial) or self._allowed(trial)]
        if ladder is not True and (sampler := chosen(plan).said) is not None:
            self._watcher.message(f"the sampler is {sampler}")
        most = plan.search.most
        asked = 0 if ladder is True else None if most is None else max(most, history.searched)
        self._wanted = self._reachable(asked)
        fewer = self._wanted is not None and (asked is None or self._wanted < asked)
        self._watcher.run_started(self._progress(whole_space=fewer))
        over = ladder is True or (
            most is not None and history.searched >= most and self._promotion.best(last=True) is None
        )
        if history.baseline is not None and not self._waiting and over and history.is_settled():
            return self.outcome("ladder" if ladder is True else "complete")
        self._disk.begin()
        self._prepare_baseline()
        self._try([trial for trial in self._ladder if trial.alone == "none"])
        techniques = [trial for trial in self._ladder if trial.alone != "none"]
        before, after = divided(techniques, first_of(plan, self._history.bare()))
        self._try(before)
        why: Why = "ladder" if ladder is True else self._search.carried_out(self._ladder)
        self._try(after)
        for line in self._early.summary():
            self._watcher.message(line)
        self._disk.searched()
        if self._over() == "soon":
            return self.outcome("interrupted")
        self._settling.front()
        if not self._stop.when:
            self._settling.score_test()
        if (removed := self._disk.summary()) is not None:
            self._watcher.message(removed)
        return self.outcome("interrupted" if self._stop.when else why)

    def _try(self, trials: Sequence[AblationTrial]) -> None:
        """Carry out what of the ladder is not known yet, as far as there is time."""
        left = [trial for trial in trials if not self._history.has(trial)]
        if left:
            shared = iter(left)
            self._lanes.together(lambda dispatcher: self._tried(dispatcher, shared))

    def _tried(self, dispatcher: Dispatcher, trials: Iterator[AblationTrial]) -> Waits[None]:
        """One lane's part of these trials."""
        if not (yield from self._lanes.has_room(dispatcher)):
            return
        if dispatcher is not self._measuring:
            # The first lane goes on with the trials meanwhile.
            yield from dispatcher.loading()
        for trial in trials:
            # Another one may have turned out to have the same effect.
            if self._history.has(trial):
                continue
            if self._over() or not self._budget.enough_for(trial.recipe):
                break
            if self._allowed(trial):
                yield from dispatcher.loading()
                yield from self._attempts.new(dispatcher, trial.recipe, "ladder", trial.point, trial.alone)
                yield from self._lanes.look_for_room(dispatcher)
            else:
                self._ladder.remove(trial)

    @property
    def _waiting(self) -> list[Recipe]:
        """What of the ladder was not carried out yet."""
        return [trial.recipe for trial in self._ladder if not self._history.has(trial)]

    def _allowed(self, trial: AblationTrial) -> bool:
        return self._refusals.against(trial.recipe) is None

    def _over(self) -> str:
        return self._stop.when or ("timeout" if self._budget.up else "")

    def _reachable(self, asked: int | None) -> int | None:
        """How many searched trials there can be: fewer than the study asks for where its space has fewer points.

        None where it asks for as many as there is time for, and the space has many points.
        """
        if any(isinstance(knob.domain, FloatDomain) for knob in self._plan.knobs) or (
            asked is not None and asked <= self._history.searched
        ):
            return asked
        listed = FEW if asked is None else LISTED
        known = self._history.known | {trial.recipe.effect for trial in self._ladder}
        known.add(baseline_recipe(self._plan, self._unavailable).effect)
        found: set[str] = set()
        for count, point in enumerate(islice(self._space.points(), listed), 1):
            found.add(resolve(self._plan, point).effect)
            if count == listed or (asked is not None and len(found - known) + self._history.searched >= asked):
                return asked
        return self._history.searched + len(found - known)

    def repeat(
        self, number: int, recipe: Recipe, origin: str, point: Point | None, alone: str | None, *, tested: bool
    ) -> None:
        """The baseline and one trial, nothing else; where `tested` both are scored on the data's test part too.

        Raises InterruptedRun where a signal stops it before the trial is over.
        """
        self._wanted = int(number > 0)
        self._watcher.run_started(self._progress())
        self._prepare_baseline()
        if number and (
            self._stop.when or self._alone(recipe, origin, point, alone, number=number).interrupted
        ):
            raise InterruptedRun
        if tested and self._history.timed(number):
            self._settling.scored(sorted({0, number}))

    def rebuild(self, number: int, recipe: Recipe, folder: Path) -> Rebuilt:
        """Build a trial's artifacts again, in `folder`; OptlangError where that fails."""
        return rebuild(self._jobs, self._measuring, self._history.trial(number), recipe, folder)

    def try_alone(self, trials: Sequence[AblationTrial]) -> None:
        """The baseline and these trials, nothing else. Raises InterruptedRun where a signal stops it."""
        self._ladder = list(trials)
        self._watcher.run_started(self._progress())
        self._prepare_baseline()
        for trial in trials:
            if self._stop.when or self._alone(trial.recipe, "ladder", None, trial.alone).interrupted:
                raise InterruptedRun

    def end_with(self, members: int) -> float:
        """The seconds that the end of a run takes with so many trials in its front, as those of this session are."""
        return self._budget.end_with(members)

    def outcome(self, why: Why) -> Outcome:
        """How the run stands."""
        history = self._history
        return Outcome(self._run, why, history.searched, history.met, history.worked)

    # ---- the baseline

    def _prepare_baseline(self) -> None:
        """Have the baseline, and report a requirement that it misses; OptlangError where its files are gone."""
        if self._history.baseline is None:
            recipe = baseline_recipe(self._plan, self._unavailable)
            record = self._alone(recipe, "baseline", locate(self._plan, self._space, recipe), None)
            if record.interrupted:
                raise InterruptedRun
            if record.state != "complete":
                raise SetupError(Failure(f"the baseline failed: {record.reason}", record.error or ""))
            waits.alone(self._lanes.look_for_room(self._measuring))
        for artifact in self._history.trial(0).artifacts.values():
            missing = [file.name for file in artifact.files if not (artifact.folder / file.name).is_file()]
            if missing:
                raise OptlangError(
                    f"the baseline's artifact is gone: {artifact.folder / missing[0]}",
                    help="put it back, or begin a new run with --new",
                )
        missed = self._history.missed_by_baseline
        if missed is not None:
            self._watcher.message(f"the baseline itself does not meet the requirements: {missed}")

    # ---- one trial

    def _alone(
        self, recipe: Recipe, origin: str, point: Point | None, alone: str | None, number: int | None = None
    ) -> TrialRecord:
        """Carry out a trial, and nothing else meanwhile."""
        self._measuring.load()
        return waits.alone(self._attempts.new(self._measuring, recipe, origin, point, alone, number=number))

    def _trial_ended(self, ended: Ended) -> None:
        """Say what became of a trial, and what follows from it."""
        record, result, refusal = ended.record, ended.result, ended.refusal
        assert record.recipe is not None
        self._watcher.trial_finished(self._finished(record, ended.seconds, depends(result.notes)))
        if record.origin != "baseline":
            # The baseline's own trial was timed alone, the others in turns with it.
            self._settling.watch_drift(record.recipe, result.measurements)
        if refusal is not None and self._excludes_more(refusal, record.recipe):
            self._watcher.message(refusal_text(refusal))
        self._disk.after(record)

    def _excludes_more(self, refusal: KnownRefusal, recipe: Recipe) -> bool:
        """Whether the refusal excludes more than the trial that it comes from."""
        if refusal.depends != "settings" or len(refusal.steps) < len(recipe.steps):
            return True
        return not refusal.places and any(len(target.runtimes) > 1 for target in self._plan.targets)

    # ---- what a watcher sees

    def _progress(self, whole_space: bool = False) -> RunStarted:
        """How many trials of which kind this session is to end with, and how many of them are finished."""
        history = self._history
        drawn = history.searched if self._wanted is None else min(history.searched, self._wanted)
        finished = drawn + (history.baseline is not None) + sum(map(history.has, self._ladder))
        return RunStarted(
            self._plan.study, len(self._ladder), self._wanted, finished, drawn, whole_space, self._plan.search.timeout
        )

    def _finished(self, record: TrialRecord, seconds: float, dependent: bool) -> TrialFinished:
        progress = self._progress()
        searched = None if progress.searched is None else progress.searched - progress.drawn
        left = self._budget.left(self._waiting, searched)
        best = self._promotion.best(last=True) if searched == 0 else None
        if best is not None:
            # How many go on after it depends on how it does.
            left += Estimate(self._promotion.seconds(best, self._budget.forecast), whole=False)
        seconds_left = left.seconds if left.whole or left.seconds else None
        return TrialFinished(
            record.number, record.origin, record.state, record.reason, seconds, self._history.comparisons(record),
            self._history.front(), progress.done, progress.total, seconds_left, dependent,
            self._history.tied_with(record.number), at_least=not left.whole, paused=self._promotion.paused,
        )


def _threads(plan: Plan, engine: Engine) -> int | None:
    """How many threads a training may use, where several go on at once."""
    if plan.search.ray is not None:
        return plan.search.ray.cpus
    return None if engine.lanes == 1 else max(1, available_cores() // engine.lanes)


def runtime_label(plan: Plan, path: str) -> str:
    """The runtime at this path, as the study calls it; also what a baseline would run on (see `reference_path`)."""
    for target in plan.targets:
        if path == reference_path(target):
            return f"eager as the baseline of {target.name}"
    return next(
        place_label(plan, target, use.label) for target in plan.targets for use in target.runtimes if use.path == path
    )
