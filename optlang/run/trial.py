"""One trial, in a worker: apply the steps, build the artifact, weigh it, score it, and time it beside the baseline."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import (
    JSON,
    Artifact,
    ArtifactFile,
    Measurement,
    ModelState,
    OptlangError,
    Refusal,
    Runtime,
    TargetSpec,
)
from optlang.measure import latency, quality, size
from optlang.measure.answers import Answers, deployed
from optlang.measure.lock import machine_lock
from optlang.measure.process import BareProcess, Deployment
from optlang.plan.metrics import MEDIAN
from optlang.run import batch_dependence, steps
from optlang.run.cache import Clock
from optlang.run.job import FrontJob, Result, StepRun, TargetJob, TrialJob, Workload, member_name
from optlang.techniques.shared.parametrizations import without_parametrizations
from optlang.workload import imports
from optlang.workload.data.dataset import Dataset

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

EXAMPLES = 8
"""How many samples are left beside an artifact."""

Report = Callable[[Mapping[str, JSON]], None]


@dataclass(slots=True)
class TrialContext:
    """What trials of one workload share in a worker: the data, the validation answers, the warm baseline process."""

    workload: Workload
    data: Dataset
    bench: latency.Bench = field(default_factory=lambda: latency.Bench(machine_lock()))
    validation: dict[str, Array] = field(init=False)
    targets: Any = field(init=False)
    _answers: dict[tuple[tuple[ArtifactFile, ...], int], dict[str, Array]] = field(default_factory=dict)
    """The baseline's, by its files and the samples a call."""

    def __post_init__(self) -> None:
        self.validation, self.targets = self.data.arrays("validation")

    def answers(self, baseline: Deployment) -> dict[str, Array]:
        """The baseline's answers to the validation data, through its own runtime in calls of its target's batch."""
        key = (baseline.artifact.files, baseline.target.batch)
        if key not in self._answers:
            with BareProcess(baseline) as process:
                self.remember(baseline, deployed(process, self.validation).outputs)
        return self._answers[key]

    def remember(self, baseline: Deployment, answers: dict[str, Array]) -> None:
        """Keep the baseline's answers: every other trial is compared with them, sample by sample."""
        self._answers[baseline.artifact.files, baseline.target.batch] = answers

    def samples(self, target: TargetSpec) -> dict[str, Array]:
        """A batch of real samples, of the target's size, to time with."""
        return {name: tensor.numpy() for name, tensor in self.data.example(target.batch).items()}


def carry_out(job: TrialJob, trial_context: TrialContext, report: Report, done: list[StepRun]) -> Result:
    """What the trial comes to; raises whatever goes wrong. `done` gets the steps as they are done.

    Steps that do not ask what a runtime wants are done once for all targets: the others find them in the cache.
    """
    measured: list[Measurement] = []
    artifacts: dict[str, Artifact] = {}
    notes: dict[str, JSON] = {}
    several = len(job.targets) > 1
    for place in job.targets:
        found: list[StepRun] = []
        try:
            result = _on_target(job, place, trial_context, report, found)
        except OptlangError as error:
            if isinstance(error, Refusal):
                error.target = place.target.name
            if several:
                error.message = f"on {place.target.name}: {error.message}"
            raise
        finally:
            _merge(done, found)
        measured += (replace(item, target=place.target.name) for item in result.measurements)
        artifacts[place.target.name] = result.artifact
        notes |= {f"{place.target.name}.{name}" if several else name: value for name, value in result.notes.items()}
    return Result(tuple(done), tuple(measured), artifacts, notes)


@dataclass(frozen=True, slots=True)
class _OnTarget:
    measurements: tuple[Measurement, ...]
    artifact: Artifact
    notes: Mapping[str, JSON]


def _on_target(
    job: TrialJob, place: TargetJob, trial_context: TrialContext, report: Report, done: list[StepRun]
) -> _OnTarget:
    """The artifact is scored through the runtime that it was built for, never through torch in its place."""
    study = job.workload.study
    runtime: Runtime = imports.find(place.runtime.calls, study)()
    try:
        stepped = steps.apply(
            place.steps, job.workload, trial_context.data, runtime.wants,
            _clock(job, place, runtime, trial_context), report, done,
        )
        report({"doing": "build", "runtime": place.runtime.name})
        state = _plain(stepped.state, trial_context, study)
        shutil.rmtree(place.folder, ignore_errors=True)
        place.folder.mkdir(parents=True)
        began = time.perf_counter()
        artifact = runtime.build(state, place.target, place.runtime.settings, place.folder, trial_context.data, study)
        seconds = time.perf_counter() - began
    finally:
        steps.clear_scratch(job.workload)
    told = {**_told(trial_context, artifact, place.target), "parameters": stepped.counted.shapes}
    artifact = replace(artifact, about={**told, **artifact.about})
    # One figure of one build: it has no interval.
    built = Measurement("build_time", seconds, "s", 1, seconds, seconds)
    known = [*size.weigh(artifact), *size.in_few_bits(artifact), built, *stepped.counted.measurements]
    notes = dict(state.notes)
    if stepped.counted.uncounted:
        notes["macs.uncounted"] = list(stepped.counted.uncounted)
    missing = runs(runtime)
    if missing is not None:
        return _OnTarget(tuple(known), artifact, notes | {"not run": missing})
    report({"doing": "measure", "runtime": place.runtime.name})
    member = Deployment(
        member_name(job.trial), place.runtime.name, place.runtime.calls, artifact, place.target,
        place.runtime.settings, study,
    )
    timed = trial_context.bench.measure(
        member, place.baseline, trial_context.samples(place.target), job.effort, answer=trial_context.validation
    )
    answers = timed.answers
    assert answers is not None
    few = {name: item[answers.part] for name, item in trial_context.validation.items()}
    reference = batch_dependence.Reference(stepped.module, few, study)
    batch_dependence.check_finite(answers, reference, place.runtime.name.rpartition(".")[2])
    notes |= batch_dependence.notes(answers, reference)
    answered: dict[str, JSON] = {"outputs": _tensors(answers.outputs, artifact), "samples_a_call": answers.batch}
    artifact = replace(artifact, about={**answered, **artifact.about})
    _keep_examples(place.folder, trial_context.validation, answers)
    if place.baseline is None:
        trial_context.remember(member, answers.outputs)
    scored = quality.score(
        trial_context.data.task, answers.outputs, trial_context.targets,
        trial_context.answers(place.baseline or member), job.directions, job.ratios,
    )
    return _OnTarget((*scored, *known, *timed.measurements), artifact, notes)


def _plain(state: ModelState, trial_context: TrialContext, study: Path) -> ModelState:
    """The state as it is deployed: with the weights that its module computes. As it is where that cannot be."""
    try:
        return without_parametrizations(state, trial_context.data, study)
    except Refusal as error:
        return replace(state, notes={**state.notes, "parametrized.left": error.message})


def _told(trial_context: TrialContext, artifact: Artifact, target: TargetSpec) -> dict[str, JSON]:
    """What the deployer must know of an artifact: its inputs, and the call that it was measured with."""
    told: dict[str, JSON] = {
        "inputs": _tensors(trial_context.validation, artifact),
        "measured": {"device": target.device, "threads": target.threads, "batch": target.batch},
    }
    if trial_context.data.preprocessing is not None:
        told["preprocessing"] = trial_context.data.preprocessing
    return told


def _tensors(arrays: Mapping[str, Array], artifact: Artifact) -> dict[str, JSON]:
    """Types and shapes by name; the first axis is the number of samples, any that the caller likes or a fixed one."""
    samples = artifact.about.get("batch") or "samples"
    return {
        name: {"dtype": str(item.dtype), "shape": [samples, *map(int, item.shape[1:])]}
        for name, item in arrays.items()
    }


def runs(runtime: Runtime) -> str | None:
    """Why what the runtime builds cannot be run on this machine; None where it can."""
    asked = getattr(runtime, "runs", None)
    reason: str | None = None if asked is None else asked()
    return reason


def _merge(done: list[StepRun], found: Sequence[StepRun]) -> None:
    """Add what was done for one more target. A step has one row a trial, whose seconds are those of all targets."""
    known = {item.path: index for index, item in enumerate(done)}
    for item in found:
        if item.path not in known:
            done.append(item)
            continue
        first = done[known[item.path]]
        done[known[item.path]] = replace(
            first, seconds=first.seconds + item.seconds, cached=first.cached and item.cached
        )


def _clock(job: TrialJob, place: TargetJob, runtime: Runtime, trial_context: TrialContext) -> Clock:
    """What times a state on the way, as the finished artifact will be timed, for techniques that aim at a latency."""
    about: JSON = [place.runtime.calls, dict(place.runtime.settings), asdict(place.target)]

    def seconds(state: ModelState) -> float:
        study = job.workload.study
        missing = runs(runtime)
        if missing is not None:
            raise Refusal(f"nothing can be timed on {place.runtime.name} here: {missing}")
        with tempfile.TemporaryDirectory(prefix="aim-", dir=steps.scratch(job.workload)) as name:
            artifact = runtime.build(
                _plain(state, trial_context, study), place.target, place.runtime.settings, Path(name),
                trial_context.data, study,
            )
            member = Deployment("on the way", place.runtime.name, place.runtime.calls, artifact, place.target,
                            place.runtime.settings, study)
            timed = trial_context.bench.measure(member, place.baseline, trial_context.samples(place.target), job.effort)
        return next(item.value for item in timed.measurements if item.metric == MEDIAN)

    return Clock(about, seconds)


def _keep_examples(folder: Path, inputs: Mapping[str, Array], answers: Answers) -> None:
    """Leave a few samples and the artifact's answers to them beside it: whoever deploys it can check theirs.

    Where an answer may depend on the other samples of its call these are whole calls of the target's batch.
    """
    import numpy

    total, batch = len(next(iter(inputs.values()))), answers.batch
    count = min(EXAMPLES, total) if answers.uniform else -(-EXAMPLES // batch) * batch
    places = numpy.arange(count) % total
    for name, arrays in (("example_inputs.npz", inputs), ("example_outputs.npz", answers.outputs)):
        few: dict[str, Any] = {key: item[places] for key, item in arrays.items()}
        numpy.savez(folder / name, **few)


def measure_front(job: FrontJob, trial_context: TrialContext, report: Report) -> dict[int, tuple[Measurement, ...]]:
    """The latencies of the members and the baseline, all in one cycle, by the trials' numbers; the baseline's is 0."""
    report({"doing": f"measure {len(job.members)} side by side"})
    # Its own processes do the measuring: the one kept warm would be one more than the cores are for.
    trial_context.bench.close()
    samples = trial_context.samples(job.baseline.target)
    found = latency.compare(job.baseline, tuple(job.members.values()), samples, job.effort, machine_lock())
    return {number: tuple(found[member.name]) for number, member in {0: job.baseline, **job.members}.items()}
