"""Builds a trial's artifacts again, in a worker: its steps from the cache or carried out, its answers scored as before.

Nothing is timed: an artifact whose files are those that were measured has the latencies that were measured.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from optlang.interfaces import Artifact, Measurement, Runtime
from optlang.measure import quality
from optlang.measure.answers import Answers, deployed
from optlang.measure.process import BareProcess
from optlang.measure.remote.devices import steadily
from optlang.run import in_use, steps
from optlang.run.hardware import unrunnable
from optlang.run.job import Result, StepRun, TargetJob, TrialJob, member_name
from optlang.run.trial import Report, TrialContext, built, deployment, keep_examples, merge, of_target
from optlang.workload import imports


def rebuild(job: TrialJob, context: TrialContext, report: Report, runs: list[StepRun]) -> Result:
    """The artifacts of the trial, with all that is measured of them but times; raises whatever goes wrong."""
    measured: list[Measurement] = []
    artifacts: dict[str, Artifact] = {}
    for target_job in job.targets:
        found: list[StepRun] = []
        name = target_job.target.name
        with of_target(job, target_job, context), in_use.trial(job.workload):
            try:
                artifacts[name], items = _on_target(job, target_job, context, report, found)
            finally:
                merge(runs, found, name)
        measured += (replace(item, target=name) for item in items)
    return Result(tuple(runs), tuple(measured), artifacts)


def _on_target(
    job: TrialJob, target_job: TargetJob, context: TrialContext, report: Report, runs: list[StepRun]
) -> tuple[Artifact, tuple[Measurement, ...]]:
    runtime: Runtime = imports.find(target_job.runtime.calls, job.workload.study)()
    _, made = built(job, target_job, runtime, context, report, runs)
    known = tuple(item for item in made.measurements if item.metric != "build_time")
    if unrunnable(runtime, target_job) is not None:
        return made.artifact, known
    report({"doing": "score", "runtime": target_job.runtime.name})
    samples = context.validation
    member = deployment(member_name(job.trial), target_job, made.artifact, job.workload.study)
    reference = context.reference(target_job.baseline or member)
    with tempfile.TemporaryDirectory(prefix="again-", dir=steps.scratch(job.workload)) as name:
        place = Path(name) / "all"

        def answered() -> Answers:
            # Of an attempt that was cut.
            shutil.rmtree(place, ignore_errors=True)
            with BareProcess(member) as process:
                return deployed(process, samples.inputs, place)

        answers = steadily(member.target.remote, answered, context.bench.waiting)
        keep_examples(target_job.folder, samples.inputs, answers)
        scored = quality.score(
            context.data.task, answers.outputs, samples.targets, reference.answers, job.directions, job.ratios,
            before=reference.tally,
        )
    return made.artifact, (*scored, *known)
