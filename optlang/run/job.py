"""What the scheduler passes to a worker and gets back: plain values that travel between processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from optlang.interfaces import JSON, Artifact, Factory, Measurement, NamedMetric, TargetSpec
from optlang.measure.latency import Repetitions
from optlang.measure.process import Deployment
from optlang.run.curves import Epoch
from optlang.run.ending import Spent
from optlang.run.scratch import FOLDER
from optlang.run.stopping import Stopping
from optlang.search.early import Verdict
from optlang.workload.devices import AUTO

J = TypeVar("J")

BASELINE = "baseline."
"""What the paths of the baseline's own steps begin with."""

WORKLOAD = "workload"
"""The note of a baseline that identifies the model, the data and the metrics that it was measured with."""


CHECKPOINT = "checkpoint.ignored"
"""The note of a trial that trains from its start though there is a checkpoint: why that is not used."""

OUTSIDE = "outside"
"""The note of a trial that failed by something outside, see `Failure.outside`."""


@dataclass(frozen=True, slots=True)
class StepJob:
    """One technique to apply: its settings, the object that does it, and what the declaration says it needs.

    `performed` says that the trial's runtime carries it out itself, when it builds; `prepares` that the technique has
    its part also then.
    """

    path: str
    technique: str
    calls: str
    settings: Mapping[str, JSON]
    needs: tuple[str, ...]
    seed: int
    performed: bool = False
    prepares: bool = False

    @property
    def left(self) -> bool:
        """Whether the runtime does all of it."""
        return self.performed and not self.prepares


@dataclass(frozen=True, slots=True)
class RuntimeJob:
    """A runtime with its settings; `study` is the folder that a runtime of the user's own is looked for in.

    `device` is the target's, where it is asked what it lacks there.
    """

    name: str
    calls: str
    settings: Mapping[str, JSON]
    study: Path
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Workload:
    """What every trial of a run shares: the model and data, the study's folder, and where optlang keeps its files.

    `session` names the run's session in this process, which has temporary files of its own. `metrics` are those that
    the study computes by objects of Python. `threads` is how many a training may use, where several go on at once.
    `device` is what models are trained on, as the study has it: the worker knows what it stands for (see
    `devices.resolved`). `trained_on` is the kind of device that another worker carried out a trial's steps on, up to
    one that aims at a latency: their results are found by it.
    """

    model: Factory
    data: Factory
    study: Path
    home: Path
    device: str
    session: str = "alone"
    metrics: tuple[NamedMetric, ...] = ()
    threads: int | None = None
    trained_on: str | None = field(default=None, compare=False)

    @property
    def scratch(self) -> Path:
        """The folder for temporary files of this process, in this session: never shared, not even with a worker."""
        return self.home / FOLDER / self.session / str(os.getpid())

    @property
    def shared(self) -> Path:
        """The folder for files of this session that its workers share, one after another: data and answers."""
        return self.home / FOLDER / self.session / "shared"


@dataclass(frozen=True, slots=True)
class TargetJob:
    """A trial on one target: apply `steps` to the model, build for `runtime` in `folder`, measure next to `baseline`
    as carefully as `effort` says.

    `baseline` is None for the baseline itself, and where the baseline cannot run here.
    """

    target: TargetSpec
    runtime: RuntimeJob
    steps: tuple[StepJob, ...]
    folder: Path
    baseline: Deployment | None
    effort: Repetitions


@dataclass(frozen=True, slots=True)
class TrialJob:
    """One trial, on each target of the study.

    `directions` say of the task's metrics which way is better, `ratios` which of them are shares. `judged` are the
    metrics that its trainings are scored by after each epoch, and `stopping` what ends it in one of them; None where it
    is carried out whole.

    `pause` pauses it once its trainings, all together, have had so many epochs and have more before them (see
    `Paused`); None runs it to the end. The baseline's own steps do not count; epochs of trainings that the cache
    answers count as done.
    """

    trial: int
    workload: Workload
    targets: tuple[TargetJob, ...]
    directions: Mapping[str, Literal["minimize", "maximize"]] = field(default_factory=dict)
    ratios: frozenset[str] = frozenset()
    judged: tuple[str, ...] = ()
    stopping: Stopping | None = None
    pause: int | None = None


@dataclass(frozen=True, slots=True)
class UntrainedJob:
    """Measure these metrics of a trial without its training: `trial` has the steps that are left."""

    trial: TrialJob
    metrics: frozenset[str]


@dataclass(frozen=True, slots=True)
class FrontJob:
    """Measure several artifacts again, side by side with the baseline; `members` by the trials' numbers."""

    workload: Workload
    baseline: Deployment
    members: Mapping[int, Deployment]
    effort: Repetitions


@dataclass(frozen=True, slots=True)
class TestJob:
    """Score artifacts on the test data: `members` by the trials' numbers (0: the baseline) and targets.

    `directions` and `ratios` as in `TrialJob`.
    """

    workload: Workload
    members: Mapping[int, Mapping[str, Deployment]]
    directions: Mapping[str, Literal["minimize", "maximize"]] = field(default_factory=dict)
    ratios: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PrepareJob:
    """Load the model and the data once, before anything is trained, so that mistakes in them show at once.

    `metrics` are those of answers that the study names, `learn_labels` the techniques in it that learn from labels,
    each with what may stand in its place. `targets` say which axes of the inputs are open: there must be such axes.
    """

    workload: Workload
    metrics: tuple[str, ...]
    targets: tuple[TargetSpec, ...] = ()
    learn_labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model and data that can be worked with: what users are to know of them, and what the worker trains on.

    `device` is `Device.facts`.
    """

    said: tuple[str, ...] = ()
    device: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepRun:
    """A step that was applied or answered from the cache, how long that took, and its learning curve where it has one.

    `key` and `cached` are None where the step was broken off or paused: the cache has no result of it. `seconds` are
    those of this attempt. One that went on from a checkpoint had `resumed` epochs before it, which took `earlier`
    seconds, and its curve has them too; `ignored` says why a checkpoint was not used. `worker` names the worker.
    """

    path: str
    technique: str
    key: str | None
    cached: bool | None
    seconds: float
    started: str
    curve: tuple[Epoch, ...] = ()
    resumed: int = 0
    earlier: float = 0.0
    ignored: str | None = None
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """What refused a trial: `depends` as in `Refusal`, the path of the step (None: the runtime), the target's name."""

    depends: Literal["model", "settings"]
    step: str | None
    target: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a trial failed: one line, the whole text, and whether the same settings would fail again.

    `refused` is None where it is no refusal but a fault. `outside` says that neither the trial nor its settings are at
    fault: the device that it is measured on was away, or is full.
    """

    reason: str
    text: str
    again: bool = True
    refused: Refused | None = None
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Paused:
    """A trial that was paused in its trainings: the same job with a later `pause`, or with none, goes on from there.

    `epochs` are those that its trainings have had, all together: those of `TrialJob.pause`, or more where a checkpoint
    in the cache has more. `step` is the path of the training in which it was paused, or after which. `scores` are the
    job's `judged` metrics there by target, as far as they can be computed during a training.
    """

    epochs: int
    step: str
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a trial. `failure` is None where all went well; the rest is what was measured up to there.

    `artifacts` are by target. `ended` says how a trial ended that was decided before it was over, and `paused` where
    one stands that can go on: nothing of it was built. `spent` is what measuring took, on all targets together; None
    where nothing was measured. `trained_on` is the kind of device that computed the steps of a trial that was only
    trained.
    """

    steps: tuple[StepRun, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    notes: Mapping[str, JSON] = field(default_factory=dict)
    failure: Failure | None = None
    ended: Verdict | None = None
    spent: Spent | None = None
    paused: Paused | None = None
    trained_on: str | None = None


def measuring(job: J) -> J:
    """The job of a worker that measures what others train: it need not have the device that they train on."""
    if isinstance(job, UntrainedJob):
        return replace(job, trial=measuring(job.trial))
    if isinstance(job, TrialJob | FrontJob | TestJob | PrepareJob):
        return replace(job, workload=replace(job.workload, device=AUTO))
    return job


def member_name(trial: int) -> str:
    """What a trial is called among those that are measured."""
    return f"trial {trial}"
