"""One trial, in a worker: apply the steps, build the artifact, measure its size and quality, time it."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import (
    JSON,
    Artifact,
    Measurement,
    ModelState,
    OptlangError,
    Refusal,
    Runtime,
    TargetSpec,
)
from optlang.measure import latency, quality, size
from optlang.measure.answers import Answers, deployed
from optlang.measure.chunks import Chunks, Rows, taken
from optlang.measure.machine import machine_lock
from optlang.measure.process import BareProcess, Deployment, Environment
from optlang.measure.remote.devices import steadily
from optlang.measure.samples import Samples, kept
from optlang.plan.axes import AxisSizes, parsed
from optlang.plan.metrics import MEDIAN
from optlang.run import batch_dependence, devices, elsewhere, in_use, open_axes, steps
from optlang.run.cache import Clock, key_of, workload_key
from optlang.run.curves import Epoch
from optlang.run.ending import Spent
from optlang.run.hardware import unrunnable
from optlang.run.job import WORKLOAD, FrontJob, Result, StepRun, TargetJob, TrialJob, Workload, member_name
from optlang.run.scoring import Scorer
from optlang.run.step_training import Watch
from optlang.run.stopping import StoppedTraining
from optlang.techniques.shared.parametrizations import without_parametrizations
from optlang.workload import imports
from optlang.workload.data.dataset import Dataset

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

SCORING = "scoring.seconds"
"""The note of a trial whose trainings were scored after each epoch: what that took."""

EXAMPLES = 8
"""How many samples are stored next to an artifact."""

Report = Callable[[Mapping[str, JSON]], None]


@dataclass(frozen=True, slots=True)
class Reference:
    """The baseline's answers to the validation data, and the task's metrics for them: None without labels."""

    answers: Chunks
    tally: quality.Tally | None


@dataclass(slots=True)
class TrialContext:
    """What trials of one workload share in a worker: the data, the baseline's answers, its warm process."""

    workload: Workload
    data: Dataset
    bench: latency.Bench = field(default_factory=lambda: latency.Bench(machine_lock()))
    _samples: dict[str, Samples] = field(default_factory=dict)
    """By split."""
    _references: dict[str, Reference] = field(default_factory=dict)
    """By the baseline's files and the samples a call."""
    _scorers: dict[str, Scorer] = field(default_factory=dict)
    """By the metrics, and the baseline that answers are compared with."""
    _timed: dict[TargetSpec, dict[str, Array]] = field(default_factory=dict)
    """Samples that are timed with: the user's own data may take long to read."""
    _others: dict[TargetSpec, dict[str, Array] | None] = field(default_factory=dict)

    @property
    def validation(self) -> Samples:
        """The validation data; see `split`."""
        return self.split("validation")

    def split(self, name: str) -> Samples:
        """A part of the data in files, which are written once a session: every trial reads them."""
        if name not in self._samples:
            about: JSON = [name, self.data.fingerprint, *self.data.input_names]
            folder = self.workload.shared / key_of(about)
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._samples[name] = kept(folder, self.data, name)
        return self._samples[name]

    def reference(self, baseline: Deployment) -> Reference:
        """The baseline's answers to the validation data, through its own runtime in calls of its target's batch."""
        key = _key(baseline)
        if key not in self._references:
            folder = self.workload.shared / key
            if not folder.is_dir() and not elsewhere.bring(folder):
                steadily(baseline.target.remote, lambda: self._answer(baseline), self.bench.waiting)
            answers, targets = Chunks(folder), self.validation.targets
            tally = None if targets is None else quality.tally(self.data.task, answers, targets)
            self._references[key] = Reference(answers, tally)
        return self._references[key]

    def _answer(self, baseline: Deployment) -> None:
        with _answer_folder(self.workload) as aside, BareProcess(baseline) as process:
            deployed(process, self.validation.inputs, aside)
            self.keep(baseline, aside)

    def scorer(self, metrics: tuple[str, ...], baseline: Deployment | None, *, few: bool = False) -> Scorer:
        """What scores modules in training by these metrics, where it may be on `few` samples; see `scoring`."""
        key = key_of(list(metrics), None if baseline is None else _key(baseline), few)
        if key not in self._scorers:
            answers = None if baseline is None else lambda: self.reference(baseline).answers
            self._scorers[key] = Scorer(self.data, self.validation, metrics, self.workload.study, answers, few)
        return self._scorers[key]

    @property
    def scoring_seconds(self) -> float:
        """What scoring modules in training has taken so far."""
        return sum(scorer.seconds for scorer in self._scorers.values())

    def keep(self, baseline: Deployment, answers: Path) -> None:
        """Keep the baseline's answers: every other trial is compared with them, sample by sample."""
        folder = self.workload.shared / _key(baseline)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():
            try:
                answers.rename(folder)
            except OSError:
                # Another worker kept the same ones meanwhile.
                if not folder.is_dir():
                    raise
            elsewhere.send(folder)

    def opened(self, target: TargetSpec, *, timed: bool = True) -> Dataset:
        """The data with the axes that the target opens, and where `timed` with examples of the sizes it is timed with.

        Raises OptlangError, naming the target, for axes that no input has.
        """
        try:
            return self.data.opened(_axes(target.dynamic), _axes(target.shape) if timed else ())
        except OptlangError as error:
            error.message = f"target {target.name}: {error.message}"
            raise

    def samples(self, target: TargetSpec) -> dict[str, Array]:
        """A batch of real samples, of the target's size, to time with."""
        if target not in self._timed:
            example = self.opened(target).example(target.batch)
            self._timed[target] = {name: tensor.numpy() for name, tensor in example.items()}
        return self._timed[target]

    def between(self, target: TargetSpec) -> dict[str, Array] | None:
        """Such samples of another shape, where calls differ in shape: each call that is timed comes after one."""
        if target not in self._others:
            found = self.opened(target).other_example(target.batch)
            self._others[target] = None if found is None else {name: item.numpy() for name, item in found.items()}
        return self._others[target]

    def shapes_between(self, target: TargetSpec) -> list[list[int]]:
        """The shapes of these, which decide what is timed; none where calls have one shape."""
        return [list(item.shape) for item in (self.between(target) or {}).values()]


def _axes(texts: Sequence[str]) -> list[AxisSizes]:
    return [item for item in map(parsed, texts) if item is not None]


def _key(baseline: Deployment) -> str:
    return key_of("answers", [asdict(item) for item in baseline.artifact.files], baseline.target.batch)


@contextmanager
def _answer_folder(workload: Workload) -> Iterator[Path]:
    """Where a process writes its answers: a path where nothing is, removed in the end with all that is there."""
    with tempfile.TemporaryDirectory(prefix="answers-", dir=steps.scratch(workload)) as name:
        yield Path(name) / "all"


def carry_out(job: TrialJob, context: TrialContext, report: Report, runs: list[StepRun]) -> Result:
    """The result of the trial; raises whatever goes wrong. `runs` gets the steps as they are carried out.

    Steps that do not depend on the runtime are carried out once for all targets: the others find them in the cache.
    """
    measured: list[Measurement] = []
    artifacts: dict[str, Artifact] = {}
    notes: dict[str, JSON] = {}
    spent: Spent | None = None
    several = len(job.targets) > 1
    scored_before = context.scoring_seconds
    for target_job in job.targets:
        found: list[StepRun] = []
        try:
            with of_target(job, target_job, context), in_use.trial(job.workload):
                result = _on_target(job, target_job, context, report, found)
        except StoppedTraining:
            for other in job.targets:
                # What was built for the targets before this one is no trial's.
                shutil.rmtree(other.folder, ignore_errors=True)
            raise
        finally:
            merge(runs, found, target_job.target.name)
        if result.spent is not None:
            spent = result.spent if spent is None else spent + result.spent
        measured += (replace(item, target=target_job.target.name) for item in result.measurements)
        target = target_job.target.name
        artifacts[target] = result.artifact
        notes |= {f"{target}.{name}" if several else name: value for name, value in result.notes.items()}
    if all(target_job.baseline is None for target_job in job.targets):
        # With the keys of its steps it says of a later run whether it has the same baseline.
        notes[WORKLOAD] = workload_key(job.workload, context.data)
    scoring_seconds = context.scoring_seconds - scored_before
    if scoring_seconds:
        notes[SCORING] = round(scoring_seconds, 3)
    return Result(tuple(runs), tuple(measured), artifacts, notes, spent=spent)


@contextmanager
def of_target(job: TrialJob, target_job: TargetJob, context: TrialContext) -> Iterator[None]:
    """It builds for the target's processor; an error in it names the target, where there are several, and a refusal the
    step, as far as it is known."""
    try:
        with devices.built_for(target_job.target, context.bench.waiting):
            yield
    except OptlangError as error:
        if isinstance(error, Refusal):
            error.target = target_job.target.name
            performed = [step.path for step in target_job.steps if step.performed]
            if error.step is None and error.depends == "model" and len(performed) == 1:
                # The runtime refused it while it built: that is the technique's refusal, not the module's.
                [error.step] = performed
        if len(job.targets) > 1:
            error.message = f"on {target_job.target.name}: {error.message}"
        raise


@dataclass(frozen=True, slots=True)
class OnTarget:
    """What one target has given of a trial; `spent` is None where it was not measured."""

    measurements: tuple[Measurement, ...]
    artifact: Artifact
    notes: Mapping[str, JSON]
    spent: Spent | None = None


def _on_target(
    job: TrialJob, target_job: TargetJob, context: TrialContext, report: Report, runs: list[StepRun]
) -> OnTarget:
    """The artifact is scored through the runtime that it was built for, never through torch in its place."""
    runtime: Runtime = imports.find(target_job.runtime.calls, job.workload.study)()
    if unrunnable(runtime, target_job) is None:
        used, target = target_job.runtime, target_job.target
        context.bench.begin(Environment(used.name, used.calls, target.threads, job.workload.study, target.remote))
    stepped, made = built(job, target_job, runtime, context, report, runs)
    missing = unrunnable(runtime, target_job)
    if missing is not None:
        return replace(made, notes={**made.notes, "not run": missing})
    report({"doing": "measure", "runtime": target_job.runtime.name})
    return _measured(job, target_job, stepped, made, context)


def built(
    job: TrialJob, target_job: TargetJob, runtime: Runtime, context: TrialContext, report: Report, runs: list[StepRun]
) -> tuple[steps.Stepped, OnTarget]:
    """The steps and the build, with what is known of an artifact that has not run."""
    study, target, folder = job.workload.study, target_job.target, target_job.folder
    try:
        stepped = steps.apply(
            target_job.steps, job.workload, context.opened(target, timed=False), runtime.wants,
            clock(job, target_job, runtime, context), report, runs, watch_of(job, target_job, context),
        )
        report({"doing": "build", "runtime": target_job.runtime.name})
        state = _plain(stepped.state, context, study)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        begin = time.perf_counter()
        artifact = runtime.build(state, target, target_job.runtime.settings, folder, context.opened(target), study)
        seconds = time.perf_counter() - begin
    finally:
        steps.clear_scratch(job.workload)
    facts = {**_call_facts(context, artifact, target), "parameters": stepped.counted.shapes}
    about = open_axes.with_names({**facts, **artifact.about}, open_axes.named(context.opened(target)))
    artifact = replace(artifact, about=about)
    # One figure of one build: it has no interval.
    build_time = Measurement("build_time", seconds, "s", 1, seconds, seconds)
    known = (*size.weigh(artifact), *size.in_few_bits(artifact), build_time, *stepped.counted.measurements)
    notes = dict(state.notes)
    if stepped.counted.uncounted:
        notes["macs.uncounted"] = list(stepped.counted.uncounted)
    return stepped, OnTarget(known, artifact, notes)


def _measured(
    job: TrialJob, target_job: TargetJob, stepped: steps.Stepped, built: OnTarget, context: TrialContext
) -> OnTarget:
    """The artifact timed and scored, with what is said of its answers."""
    study, samples = job.workload.study, context.validation.inputs
    member = deployment(member_name(job.trial), target_job, built.artifact, study)
    data = context.opened(target_job.target)
    with _answer_folder(job.workload) as folder:
        timed = context.bench.measure(
            member, target_job.baseline, context.samples(target_job.target), target_job.effort,
            between=context.between(target_job.target), answer=samples, folder=folder,
        )
        answers = timed.answers
        assert answers is not None
        reference = batch_dependence.Reference(stepped.module, taken(samples, answers.part), study)
        batch_dependence.check_finite(answers, reference, target_job.runtime.name.rpartition(".")[2])
        notes = {**built.notes, **batch_dependence.notes(answers, reference)}
        steadily(
            member.target.remote, lambda: open_axes.check(member, data, stepped.module, study), context.bench.waiting
        )
        facts: dict[str, JSON] = {
            "outputs": _tensors(answers.outputs, built.artifact), "samples_a_call": answers.batch,
        }
        about = open_axes.with_names({**facts, **built.artifact.about}, open_axes.named(data, stepped.module))
        keep_examples(target_job.folder, samples, answers)
        if target_job.baseline is None:
            context.keep(member, folder)
        known = context.reference(target_job.baseline or member)
        begin = time.perf_counter()
        scored = quality.score(
            context.data.task, known.answers if target_job.baseline is None else answers.outputs,
            context.validation.targets, known.answers, job.directions, job.ratios, before=known.tally,
        )
        scoring = time.perf_counter() - begin
    processes = target_job.effort.processes
    spent = Spent(
        timed.start / processes, timed.rounds / processes, timed.answering + scoring,
        data.size("test") / data.size("validation") if data.has("test") else 0.0,
    )
    artifact = replace(built.artifact, about=about)
    return OnTarget((*scored, *built.measurements, *timed.measurements), artifact, notes, spent)


def watch_of(job: TrialJob, target_job: TargetJob, context: TrialContext) -> Watch | None:
    """What scores the trial's trainings on this target, and ends the trial; None where it is not to be scored."""
    if not job.judged:
        return None
    scorer = context.scorer(job.judged, target_job.baseline, few=job.pause is not None)
    stopping, target = job.stopping, target_job.target.name

    def ended(path: str, curve: Sequence[Epoch]) -> None:
        if stopping is not None:
            stopping.look(target, path, curve)

    return Watch(scorer, ended, job.judged)


def deployment(name: str, target_job: TargetJob, artifact: Artifact, study: Path) -> Deployment:
    """The artifact as it runs on the target, under this name among those that are measured."""
    runtime = target_job.runtime
    return Deployment(name, runtime.name, runtime.calls, artifact, target_job.target, runtime.settings, study)


def _plain(state: ModelState, context: TrialContext, study: Path) -> ModelState:
    """The state as it is deployed: with the weights that its module computes; unchanged where that is not possible."""
    try:
        return without_parametrizations(state, context.data, study)
    except Refusal as error:
        return replace(state, notes={**state.notes, "parametrized.left": error.message})


def _call_facts(context: TrialContext, artifact: Artifact, target: TargetSpec) -> dict[str, JSON]:
    """What the deployer needs to know of an artifact: its inputs, and the call that it was measured with."""
    between = context.between(target)
    facts: dict[str, JSON] = {
        "inputs": _tensors(context.validation.inputs, artifact),
        "measured": {
            "device": target.device, **({} if target.remote is None else {"place": target.place}),
            "threads": target.threads, "batch": target.batch,
            "sizes": {name: list(item.shape[1:]) for name, item in context.samples(target).items()},
            **({} if between is None else {"between": {key: list(item.shape[1:]) for key, item in between.items()}}),
        },
    }
    if context.data.preprocessing is not None:
        facts["preprocessing"] = context.data.preprocessing
    return facts


def _tensors(rows: Rows, artifact: Artifact) -> dict[str, JSON]:
    """Types and shapes by name; the first axis is the number of samples, any number or a fixed one.

    An axis whose size differs from sample to sample is "any".
    """
    samples = artifact.about.get("batch") or "samples"
    described: dict[str, JSON] = {}
    seen = [rows.rows(first, first + 1) for first, _ in rows.runs]
    for name, item in seen[0].items():
        sizes = [set(found) for found in zip(*(row[name].shape[1:] for row in seen), strict=False)]
        shape = [samples, *(found.pop() if len(found) == 1 else "any" for found in sizes)]
        described[name] = {"dtype": str(item.dtype), "shape": shape}
    return described


def merge(runs: list[StepRun], found: Sequence[StepRun], target: str) -> None:
    """Add the steps of one more target. A step has one row a trial, whose seconds are those of all targets.

    Where a step has another result on this target it has another curve too.
    """
    known = {item.path: index for index, item in enumerate(runs)}
    for item in found:
        if item.path not in known:
            runs.append(item)
            continue
        first = runs[known[item.path]]
        # One that was paused has no key: where it is the same training, its curve is that of the checkpoint.
        same = item.key == first.key if item.key is not None else item.curve == first.curve
        own = () if same else tuple(replace(epoch, target=target) for epoch in item.curve)
        runs[known[item.path]] = replace(
            first, seconds=first.seconds + item.seconds, cached=first.cached and item.cached,
            curve=(*first.curve, *own), ignored=first.ignored or item.ignored,
        )


def clock(job: TrialJob, target_job: TargetJob, runtime: Runtime, context: TrialContext) -> Clock:
    """What times an intermediate state as the finished artifact will be timed, for techniques that aim at a latency."""
    about: JSON = [
        target_job.runtime.calls, dict(target_job.runtime.settings), target_job.target.facts(),
        context.shapes_between(target_job.target),
    ]

    def seconds(state: ModelState) -> float:
        study = job.workload.study
        missing = unrunnable(runtime, target_job)
        if missing is not None:
            raise Refusal(f"nothing can be timed on {target_job.runtime.name} here: {missing}")
        target, settings = target_job.target, target_job.runtime.settings
        with tempfile.TemporaryDirectory(prefix="aim-", dir=steps.scratch(job.workload)) as name:
            plain = _plain(state, context, study)
            artifact = runtime.build(plain, target, settings, Path(name), context.opened(target), study)
            member = deployment("intermediate", target_job, artifact, study)
            timed = context.bench.measure(
                member, target_job.baseline, context.samples(target), target_job.effort, between=context.between(target)
            )
        return next(item.value for item in timed.measurements if item.metric == MEDIAN)

    return Clock(about, seconds, target_job.target.batch)


def keep_examples(folder: Path, inputs: Rows, answers: Answers) -> None:
    """Store a few samples and the artifact's answers next to it: the deployer can compare with them.

    Where an answer may depend on the other samples of its call these are whole calls of the target's batch. They have
    one shape: of samples that differ, that of the one in the middle.
    """
    import numpy

    middle = _middle(inputs)
    batch = answers.batch
    count = min(EXAMPLES, len(middle)) if answers.uniform else -(-EXAMPLES // batch) * batch
    places = middle.start + numpy.arange(count) % len(middle)
    for name, rows in (("example_inputs.npz", inputs), ("example_outputs.npz", answers.outputs)):
        few: dict[str, Any] = taken(rows, places)
        numpy.savez(folder / name, **few)


def _middle(inputs: Rows) -> range:
    """The samples of the shape that is in the middle when all are sorted by size."""
    def size(run: tuple[int, int]) -> tuple[int, list[tuple[int, ...]]]:
        shapes = [item.shape[1:] for item in inputs.rows(run[0], run[0] + 1).values()]
        return sum(map(math.prod, shapes)), shapes

    passed = 0
    runs = sorted(inputs.runs, key=size)
    for first, end in runs:
        passed += end - first
        if passed > len(inputs) // 2:
            return range(first, end)
    return range(*runs[-1])


def measure_front(job: FrontJob, context: TrialContext, report: Report) -> dict[int, tuple[Measurement, ...]]:
    """The latencies of the members and the baseline, all in one cycle, by the trials' numbers; the baseline's is 0."""
    report({"doing": f"measure {len(job.members)} side by side"})
    # It measures in processes of its own: the one that is kept warm would be one too many for the cores.
    context.bench.close()
    samples = context.samples(job.baseline.target)
    found = latency.compare(
        job.baseline, tuple(job.members.values()), samples, job.effort, machine_lock(), waiting=context.bench.waiting,
        between=context.between(job.baseline.target),
    )
    return {number: tuple(found[member.name]) for number, member in {0: job.baseline, **job.members}.items()}
