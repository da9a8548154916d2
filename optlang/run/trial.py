"""One trial, in a worker: apply the steps, build the artifact, weigh it, score it, and time it beside the baseline."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.forms import JSON, File, Measurement, Runtime, Subject, TargetSpec
from optlang.measure import latency, quality, size
from optlang.measure.lock import machine_lock
from optlang.measure.process import BareProcess, Member
from optlang.run import steps
from optlang.run.job import FrontJob, Result, StepRun, TrialJob, Workload, member_name
from optlang.workload import objects
from optlang.workload.data import Data

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

EXAMPLES = 8
"""How many samples are left beside an artifact."""

Report = Callable[[Mapping[str, JSON]], None]


@dataclass(slots=True)
class Laboratory:
    """What trials of one workload share in a worker: the data, the validation answers, the warm baseline process."""

    workload: Workload
    data: Data
    bench: latency.Bench = field(default_factory=lambda: latency.Bench(machine_lock()))
    validation: dict[str, Array] = field(init=False)
    targets: Any = field(init=False)
    _answers: tuple[tuple[File, ...], dict[str, Array]] | None = None

    def __post_init__(self) -> None:
        self.validation, self.targets = self.data.arrays("validation")

    def answers(self, baseline: Member) -> dict[str, Array]:
        """The baseline's answers to the validation data, through its own runtime."""
        files = baseline.artifact.files
        if self._answers is None or self._answers[0] != files:
            with BareProcess(baseline) as process:
                self.remember(baseline, process.outputs(self.validation))
        assert self._answers is not None
        return self._answers[1]

    def remember(self, baseline: Member, answers: dict[str, Array]) -> None:
        """Keep the baseline's answers: every other trial is compared with them, sample by sample."""
        self._answers = (baseline.artifact.files, answers)

    def samples(self, target: TargetSpec) -> dict[str, Array]:
        """A batch of real samples, of the target's size, to time with."""
        return {name: tensor.numpy() for name, tensor in self.data.example(target.batch).items()}


def carry_out(job: TrialJob, laboratory: Laboratory, report: Report, done: list[StepRun]) -> Result:
    """What the trial comes to; raises whatever goes wrong. `done` gets the steps as they are done.

    The artifact is scored through the runtime that it was built for, never through torch in its place.
    """
    runtime: Runtime = objects.find(job.runtime.calls, job.workload.study)()
    try:
        stepped = steps.apply(
            job.steps, job.workload, laboratory.data, runtime.wants, _clock(job, runtime, laboratory), report, done
        )
        report({"doing": "build", "runtime": job.runtime.name})
        shutil.rmtree(job.folder, ignore_errors=True)
        job.folder.mkdir(parents=True)
        artifact = runtime.build(
            stepped.subject, job.target, job.runtime.settings, job.folder, laboratory.data, job.workload.study
        )
    finally:
        steps.clear_scratch(job.workload)
    report({"doing": "measure", "runtime": job.runtime.name})
    member = Member(
        member_name(job.trial), job.runtime.name, job.runtime.calls, artifact, job.target, job.runtime.settings,
        job.workload.study,
    )
    timed = laboratory.bench.measure(
        member, job.baseline, laboratory.samples(job.target), job.effort, answer=laboratory.validation
    )
    assert timed.outputs is not None
    _keep_examples(job.folder, laboratory.validation, timed.outputs)
    if job.baseline is None:
        laboratory.remember(member, timed.outputs)
    scored = quality.score(
        laboratory.data.task, timed.outputs, laboratory.targets, laboratory.answers(job.baseline or member),
        job.directions, job.ratios,
    )
    measured: list[Measurement] = [*scored, *size.weigh(artifact), *timed.measurements, *stepped.counted]
    on_target = tuple(replace(item, target=job.target.name) for item in measured)
    return Result(tuple(done), on_target, artifact, dict(stepped.subject.notes))


def _clock(job: TrialJob, runtime: Runtime, laboratory: Laboratory) -> steps.Clock:
    """What times a subject on the way, as the finished artifact will be timed, for techniques that aim at a latency."""
    about: JSON = [job.runtime.calls, dict(job.runtime.settings), asdict(job.target)]

    def seconds(subject: Subject) -> float:
        study = job.workload.study
        with tempfile.TemporaryDirectory(prefix="optlang-aim-", dir=job.workload.home) as name:
            artifact = runtime.build(
                subject, job.target, job.runtime.settings, Path(name), laboratory.data, study
            )
            member = Member("on the way", job.runtime.name, job.runtime.calls, artifact, job.target,
                            job.runtime.settings, study)
            timed = laboratory.bench.measure(member, job.baseline, laboratory.samples(job.target), job.effort)
        return next(item.value for item in timed.measurements if item.metric == "latency.p50")

    return steps.Clock(about, seconds)


def _keep_examples(folder: Path, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
    """Leave a few samples and the artifact's answers to them beside it: whoever deploys it can check theirs."""
    import numpy

    for name, arrays in (("example_inputs.npz", inputs), ("example_outputs.npz", outputs)):
        few: dict[str, Any] = {key: item[:EXAMPLES] for key, item in arrays.items()}
        numpy.savez(folder / name, **few)


def measure_front(job: FrontJob, laboratory: Laboratory, report: Report) -> dict[int, tuple[Measurement, ...]]:
    """The latencies of the members, all in one cycle with the baseline, by the trials' numbers."""
    report({"doing": f"measure {len(job.members)} side by side"})
    # Its own processes do the measuring: the one kept warm would be one more than the cores are for.
    laboratory.bench.close()
    samples = laboratory.samples(job.baseline.target)
    found = latency.compare(job.baseline, tuple(job.members.values()), samples, job.effort, machine_lock())
    return {number: tuple(found[member.name]) for number, member in job.members.items()}
