"""A trial in a worker, as far as its job lets it train: paused at a number of epochs, carried out to its end, or
trained only, where another worker measures.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile

from optlang.interfaces import Runtime
from optlang.run import steps
from optlang.run.curves import ended_with
from optlang.run.job import Paused, Result, StepRun, TargetJob, TrialJob
from optlang.run.step_training import PausedTraining
from optlang.run.trial import SCORING, Report, TrialContext, clock, merge, of_target, watch_of
from optlang.run.trial import carry_out as whole
from optlang.workload import imports


def carry_out(job: TrialJob, context: TrialContext, report: Report, runs: list[StepRun]) -> Result:
    """The result of the trial, or where it stands once it has trained for as long as `job.pause` says.

    Nothing is built before the trainings on all targets are over. Raises whatever goes wrong. `runs` gets the steps as
    they are carried out.
    """
    if job.pause is None:
        return whole(job, context, report, runs)
    before = context.scoring_seconds
    paused = _paused(job, context, report, runs)
    result = Result(tuple(runs), paused=paused) if paused is not None else whole(job, context, report, runs)
    scoring = context.scoring_seconds - before
    return replace(result, notes={**result.notes, SCORING: round(scoring, 3)}) if scoring else result


def train(job: TrialJob, context: TrialContext, report: Report, runs: list[StepRun]) -> Result:
    """Carry out the trial's steps, into the cache, as far as its job lets it train, and build nothing.

    On each target that is up to a step that aims at a latency: only where it is measured can one be carried out.
    """
    before = context.scoring_seconds
    paused = _paused(replace(job, targets=tuple(map(_before_aiming, job.targets))), context, report, runs)
    scoring = context.scoring_seconds - before
    return Result(tuple(runs), notes={SCORING: round(scoring, 3)} if scoring else {}, paused=paused)


def _before_aiming(target_job: TargetJob) -> TargetJob:
    return replace(target_job, steps=tuple(takewhile(lambda step: "latency" not in step.needs, target_job.steps)))


def _paused(job: TrialJob, context: TrialContext, report: Report, runs: list[StepRun]) -> Paused | None:
    """Carry out the steps on all targets; None where no training has more epochs before it."""
    stands = {item.target.name: _on_target(job, item, context, report, runs) for item in job.targets}
    paused = [item for item, _ in stands.values() if item is not None]
    if not paused:
        return None
    first = min(paused, key=lambda item: item.epochs)
    return Paused(first.epochs, first.step, {name: scores for name, (_, scores) in stands.items()})


def _on_target(
    job: TrialJob, target_job: TargetJob, context: TrialContext, report: Report, runs: list[StepRun]
) -> tuple[PausedTraining | None, dict[str, float]]:
    """Where it is paused, and its scores there; None where its trainings are over, with those at their end."""
    runtime: Runtime = imports.find(target_job.runtime.calls, job.workload.study)()
    found: list[StepRun] = []
    try:
        with of_target(job, target_job, context):
            steps.apply(
                target_job.steps, job.workload, context.opened(target_job.target, timed=False), runtime.wants,
                clock(job, target_job, runtime, context), report, found, watch_of(job, target_job, context), job.pause,
            )
    except PausedTraining as paused:
        return paused, dict(paused.scores)
    finally:
        steps.clear_scratch(job.workload)
        merge(runs, found, target_job.target.name)
    trained = [ended_with(run.curve) for run in found if run.curve]
    return None, {name: value for name, value in trained[-1].items() if name in job.judged} if trained else {}
