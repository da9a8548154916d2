"""The metrics that a trial's training leaves as they are, measured on its model without that training.

What was measured is kept in the cache under a key of its own: points that differ in a training alone share it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace

from optlang.interfaces import JSON, Measurement, Runtime
from optlang.measure.machine import described
from optlang.plan.metrics import MEDIAN
from optlang.run import devices, machine, steps
from optlang.run.cache import Cache, key_of
from optlang.run.hardware import unrunnable
from optlang.run.job import StepRun, TargetJob, TrialJob, UntrainedJob
from optlang.run.trial import Report, TrialContext, built, clock, deployment
from optlang.workload import imports

MEASUREMENTS = "measurements.json"


def measure(job: UntrainedJob, context: TrialContext, report: Report) -> tuple[Measurement, ...]:
    """The metrics that the job names, on each of its targets where it can be measured there."""
    found: list[Measurement] = []
    for target_job in job.trial.targets:
        measured = _on_target(job, target_job, context, report)
        found += (replace(item, target=target_job.target.name) for item in measured)
    return tuple(found)


def _on_target(
    job: UntrainedJob, target_job: TargetJob, context: TrialContext, report: Report
) -> tuple[Measurement, ...]:
    runtime: Runtime = imports.find(target_job.runtime.calls, job.trial.workload.study)()
    with devices.built_for(target_job.target, context.bench.waiting):
        return _known(job, target_job, runtime, context, report)


def _known(
    job: UntrainedJob, target_job: TargetJob, runtime: Runtime, context: TrialContext, report: Report
) -> tuple[Measurement, ...]:
    timed = MEDIAN in job.metrics and target_job.baseline is not None and unrunnable(runtime, target_job) is None
    cache = Cache(job.trial.workload.home / "cache")
    key = _key(job.trial, target_job, runtime, context, timed)

    def measured() -> str:
        found = _measured(job.trial, target_job, runtime, context, report, timed)
        return json.dumps([asdict(item) for item in found])

    kept = (Measurement(**item) for item in json.loads(cache.text(key, MEASUREMENTS, measured)))
    return tuple(item for item in kept if item.metric in job.metrics)


def _key(job: TrialJob, target_job: TargetJob, runtime: Runtime, context: TrialContext, timed: bool) -> str:
    workload = job.workload
    last = steps.result_key(
        target_job.steps, workload, context.opened(target_job.target, timed=False), runtime.wants,
        clock(job, target_job, runtime, context),
    )
    about: list[JSON] = [
        target_job.runtime.name, imports.fingerprint(target_job.runtime.calls, workload.study),
        dict(target_job.runtime.settings), target_job.target.facts(), machine.versions(), described(),
    ]
    if target_job.target.remote is not None:
        about.append(devices.about(target_job.target, runtime))
    if not timed or target_job.baseline is None:
        return key_of("untrained", last, about)
    reference: JSON = [asdict(file) for file in target_job.baseline.artifact.files]
    return key_of("untrained", last, about, reference, context.shapes_between(target_job.target))


def _measured(
    job: TrialJob, target_job: TargetJob, runtime: Runtime, context: TrialContext, report: Report, timed: bool
) -> tuple[Measurement, ...]:
    runs: list[StepRun] = []
    try:
        _, made = built(job, target_job, runtime, context, report, runs)
        if not timed:
            return made.measurements
        report({"doing": "measure untrained", "runtime": target_job.runtime.name})
        member = deployment("untrained", target_job, made.artifact, job.workload.study)
        samples = context.samples(target_job.target)
        latencies = context.bench.measure(
            member, target_job.baseline, samples, target_job.effort, between=context.between(target_job.target)
        ).measurements
        return (*made.measurements, *latencies)
    finally:
        # The artifact of the untrained model is no trial's.
        shutil.rmtree(target_job.folder, ignore_errors=True)
