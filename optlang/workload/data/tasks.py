"""What the answers of a model are compared with: losses and metrics by task."""

from __future__ import annotations

import abc
import copy
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy
import torch.nn.functional as F  # noqa: N812 - the name that everybody gives it
from torch import Tensor

from optlang.interfaces import Array, OptlangError
from optlang.workload.data.computed_metrics import ComputedMetric
from optlang.workload.data.tensors import Tensors, leaves, mapped, stacked, structured, tensor
from optlang.workload.imports import user_code

Outputs: TypeAlias = "Mapping[str, Any] | Tensor | tuple[Any, ...] | Array"
"""A model's answer: by output name, or as the model gave it; tensors or arrays."""
Vector: TypeAlias = "numpy.ndarray[Any, numpy.dtype[numpy.float64]]"
Sums: TypeAlias = "dict[str, tuple[Vector, Vector]]"
"""By metric, what each sample adds to the two sums that the metric is computed from: those of a mean are the sum and
the number of the sample's values."""

IGNORED = -100
"""The label of positions that do not count, as in torch's own cross-entropy."""

NO_LABELS = "the data have no labels"
WITHOUT_LABELS = (
    "without labels there are `agreement`, `agreement.cosine` and `agreement.error`, which compare with the baseline's "
    "answers, and `distill` learns from these"
)


class Task(abc.ABC):
    """Compares answers with targets. `name` is what the data said; `identity` is part of the data's fingerprint."""

    name: str
    padding: float = IGNORED
    """What targets that differ in size are filled up with, at their ends: positions that do not count."""
    computed: tuple[ComputedMetric, ...] = ()
    """Metrics that the study names, besides those of the task."""

    @property
    def identity(self) -> str:
        """What the task is, as text."""
        return self.name

    def with_metrics(self, computed: tuple[ComputedMetric, ...]) -> Task:
        """The same task with more metrics; where one has the name of the task's own, it replaces that."""
        task = copy.copy(self)
        task.computed = computed
        return task

    @abc.abstractmethod
    def loss(self, outputs: Outputs, targets: Any) -> Tensor:
        """The mean loss of a batch, differentiable. Raises OptlangError where the shapes do not fit."""

    def metrics(self, outputs: Outputs, targets: Any, only: str | None = None) -> dict[str, float]:
        """Metrics of all outputs together, or `only` that one. Raises OptlangError for one that is not finite."""
        wanted = [metric for metric in self.computed if only in (None, metric.name)]
        own = {} if wanted and only is not None else self._metrics(outputs, targets)
        if not wanted:
            return own
        predictions, references = self.compared(outputs, targets)
        return {**own, **_finite({metric.name: metric.value(predictions, references) for metric in wanted})}

    @abc.abstractmethod
    def _metrics(self, outputs: Outputs, targets: Any) -> dict[str, float]:
        """The task's own metrics. Raises OptlangError for one that is not finite."""

    @abc.abstractmethod
    def compared(self, outputs: Outputs, targets: Any) -> tuple[Any, Any]:
        """Predictions and targets as an object that computes a metric takes them, on the CPU, floats in float32."""

    def sums(self, outputs: Outputs, targets: Any, center: Tensor | None = None) -> Sums | None:
        """What these samples add to the sums of the task's metrics, but for those that an object computes.

        None of a task whose metrics need all answers at once. `center` is what `center` returned for the targets of all
        samples.
        """
        found = self._sums(outputs, targets, center)
        replaced = {metric.name for metric in self.computed}
        return None if found is None else {name: both for name, both in found.items() if name not in replaced}

    def _sums(self, outputs: Outputs, targets: Any, center: Tensor | None) -> Sums | None:
        return None

    def center(self, targets: Iterable[Tensors]) -> Tensor | None:
        """What `sums` needs to know of all targets, which come in parts; None where that is nothing."""
        return None

    def value(self, metric: str, above: float, below: float) -> float | None:
        """A metric from its two sums over samples; None where it has no value."""
        return above / below if below else None

    def axis(self, outputs: Outputs) -> int | None:
        """The axis of the answer that counts along which the scores of classes are; None where it is not known to be
        scores: of a task that says nothing, those of an answer named "logits" alone are."""
        named = isinstance(outputs, Mapping) and "logits" in outputs
        return _usual_axis(_first(outputs)) if named else None

    def scores(self, outputs: Outputs) -> Tensor | None:
        """The scores of classes, (N, C, …), where the answer that counts is known to be such."""
        axis = self.axis(outputs)
        return None if axis is None else _first(outputs).movedim(axis, 1)

    def choices(self, outputs: Outputs) -> Tensor | None:
        """The class that each answer names, (N, …): the best score's, or the answer itself where it is whole numbers.

        None where answers are not known to be classes.
        """
        scores = self.scores(outputs)
        if scores is not None:
            return scores.argmax(dim=1).cpu()
        answer = _first(outputs)
        return None if answer.is_floating_point() or answer.is_complex() else answer.cpu()

    def counted(self, targets: Any) -> Tensor | None:
        """Which of the `choices` count, as booleans; None for all."""
        return None

    def check_targets(self, targets: Tensors, what: str) -> Tensors:
        """`targets` in the type the task wants; OptlangError where they cannot be its targets."""
        return targets


def task_of(value: Any, study: Path) -> Task:
    """The task that a data factory's `task` names, or wraps the user's own object."""
    if value is None:
        return Classification()
    if isinstance(value, Task):
        return value
    if isinstance(value, str):
        if value in _BUILT_IN:
            return _BUILT_IN[value]()
        raise OptlangError(
            f"there is no task '{value}'",
            help='it is "classification", "regression" or "sequence", or an object with loss() and metrics()',
        )
    absent = [name for name in ("loss", "metrics") if not callable(getattr(value, name, None))]
    if absent:
        raise OptlangError(
            f"the task is a {type(value).__name__} without {' and '.join(absent)}",
            help="a task has loss(outputs, targets) and metrics(outputs, targets)",
        )
    return Own(value, study)


def _first(outputs: Outputs) -> Tensor:
    """The answer that counts: the only one, the one called "logits", else the first."""
    if isinstance(outputs, Mapping):
        return tensor_of(outputs["logits"] if "logits" in outputs else next(iter(outputs.values())))
    return tensor_of(outputs[0] if isinstance(outputs, tuple | list) else outputs)


def tensor_of(value: Any) -> Tensor:
    """An array or tensor as a tensor; the graph of gradients is kept."""
    return value if isinstance(value, Tensor) else tensor(value, "an output")


def _usual_axis(answer: Tensor) -> int | None:
    """Where models have the classes of their logits: last of (N, T, C), else second."""
    if not answer.is_floating_point() or answer.ndim < 2:
        return None
    axis = 2 if answer.ndim == 3 else 1
    return axis if answer.shape[axis] > 1 else None


def _one(targets: Any) -> Tensor:
    if isinstance(targets, Mapping | tuple | list):
        if not targets:
            raise OptlangError(NO_LABELS, help=WITHOUT_LABELS)
        if len(targets) != 1:
            raise OptlangError(
                f"the targets are {len(targets)} tensors, and a built-in task compares with one",
                help="return a task of your own from the data factory: an object with loss() and metrics()",
            )
        targets = next(iter(targets.values())) if isinstance(targets, Mapping) else targets[0]
    return tensor_of(targets)


def _plain(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value


def _by_sample(values: Tensor) -> Vector:
    """The sum of each sample's values, first axis the sample."""
    return values.double().reshape(len(values), -1).sum(dim=1).numpy()


def _values(task: Task, sums: Sums) -> dict[str, float]:
    found = {name: task.value(name, float(above.sum()), float(below.sum())) for name, (above, below) in sums.items()}
    return {name: value for name, value in found.items() if value is not None}


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise OptlangError(
                f"the metric {name} is {value}", help="the model's outputs or the targets hold NaN or infinity"
            )
    return dict(metrics)


class Classification(Task):
    """Cross-entropy over classes on axis 1: outputs (N, C, …), targets (N, …) of int64; `IGNORED` ones do not count.

    Metrics: accuracy (share of right answers) and loss (mean cross-entropy, nats).
    """

    name = "classification"

    def check_targets(self, targets: Tensors, what: str) -> Tensors:
        """Labels as int64."""
        return mapped(targets, lambda item: self._labels(item, what))

    def _labels(self, item: Tensor, what: str) -> Tensor:
        if item.is_floating_point() or item.is_complex():
            raise OptlangError(
                f"{what} are {str(item.dtype).removeprefix('torch.')}, and {self.name} compares with whole numbers",
                help='give labels 0, 1, 2, … as integers, or return "task": "regression"',
            )
        labels = item.long()
        if bool(((labels < 0) & (labels != IGNORED)).any()):
            raise OptlangError(
                f"{what} hold negative labels", help=f"labels count from 0; {IGNORED} marks what to skip"
            )
        return labels

    def pair(self, outputs: Outputs, targets: Any) -> tuple[Tensor, Tensor]:
        """Scores (N, C, …) and labels (N, …) that fit each other."""
        scores, labels = _first(outputs), _one(targets)
        if scores.ndim < 2 or scores.shape[1] < 2:
            raise OptlangError(
                f"{self.name} needs a score for each class, and the model's answer has the shape {tuple(scores.shape)}",
                help="return two logits for two classes, or a task of your own from the data factory",
            )
        if scores.shape[:1] + scores.shape[2:] != labels.shape:
            raise OptlangError(
                f"labels of the shape {tuple(labels.shape)} do not fit an answer of the shape {tuple(scores.shape)}",
                help="labels are class numbers, without an axis for the classes",
            )
        labels = labels.to(scores.device).long()
        if labels.numel() and int(labels.max()) >= scores.shape[1]:
            raise OptlangError(
                f"there is a label {int(labels.max())}, and the model answers with {scores.shape[1]} classes",
                help="labels count from 0: give the model's last layer more outputs, or check the labels",
            )
        return scores, labels

    def loss(self, outputs: Outputs, targets: Any, smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy, with the share `smoothing` of each label spread over all classes."""
        scores, labels = self.pair(outputs, targets)
        return F.cross_entropy(scores.float(), labels, ignore_index=IGNORED, label_smoothing=smoothing)

    def _metrics(self, outputs: Outputs, targets: Any) -> dict[str, float]:
        """accuracy and loss."""
        return _finite(_values(self, self._sums(outputs, targets)))

    def compared(self, outputs: Outputs, targets: Any) -> tuple[Tensor, Tensor]:
        """Scores (N, C, …) and labels (N, …); with ignored labels those of the others alone, (M, C) and (M,)."""
        scores, labels = (_plain(item) for item in self.pair(outputs, targets))
        counted = labels != IGNORED
        if bool(counted.all()):
            return scores, labels
        return scores.movedim(1, -1)[counted], labels[counted]

    def _sums(self, outputs: Outputs, targets: Any, center: Tensor | None = None) -> Sums:
        """accuracy: the right answers; loss: cross-entropies; each with the number of labels that count."""
        scores, labels = (_plain(item) for item in self.pair(outputs, targets))
        counts = labels != IGNORED
        right = (scores.argmax(dim=1) == labels) & counts
        losses = F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="none")
        number = _by_sample(counts)
        return {"accuracy": (_by_sample(right), number), "loss": (_by_sample(losses), number)}

    def value(self, metric: str, above: float, below: float) -> float:
        """See `Task.value`; OptlangError where no label counts."""
        if not below:
            raise OptlangError("no label counts: all of them are ignored")
        return above / below

    def axis(self, outputs: Outputs) -> int | None:
        """1, where there are scores of two classes and more."""
        answer = _first(outputs)
        return 1 if answer.ndim > 1 and answer.shape[1] > 1 else None

    def counted(self, targets: Any) -> Tensor:
        """Those with a label."""
        return _plain(_one(targets)) != IGNORED


class Sequence(Classification):
    """Classification of every position: outputs (B, T, C), targets (B, T); labels `IGNORED` do not count."""

    name = "sequence"

    def pair(self, outputs: Outputs, targets: Any) -> tuple[Tensor, Tensor]:
        """Scores (B, C, T) and labels (B, T) that fit each other."""
        scores = _first(outputs)
        if scores.ndim != 3:
            raise OptlangError(
                f"a sequence task needs answers (batch, positions, classes), and the model's have the shape "
                f"{tuple(scores.shape)}",
                help='return "task": "classification" for one label a sample',
            )
        return super().pair(scores.transpose(1, 2), targets)

    def axis(self, outputs: Outputs) -> int | None:
        """The last of three."""
        return 2 if _first(outputs).ndim == 3 else None


class Regression(Task):
    """Mean squared error. Metrics: mse, mae, r2 (share of the variance explained, over all targets) and loss (mse)."""

    name = "regression"
    padding = math.nan

    def check_targets(self, targets: Tensors, what: str) -> Tensors:
        """Targets as float32."""
        if any(bool(item.isnan().any()) for item in leaves(targets) if item.is_floating_point()):
            raise OptlangError(f"{what} hold NaN", help="leave those samples out of the data")
        return mapped(targets, lambda item: item.float())

    def pair(self, outputs: Outputs, targets: Any) -> tuple[Tensor, Tensor]:
        """Answers and targets of one shape."""
        answers, wanted = _first(outputs), _one(targets)
        if answers.shape != wanted.shape:
            # (N, 1) against (N,) would be compared all with all by broadcasting.
            if answers.numel() != wanted.numel() or answers.shape[0] != wanted.shape[0]:
                raise OptlangError(
                    f"targets of the shape {tuple(wanted.shape)} do not fit an answer of the shape "
                    f"{tuple(answers.shape)}",
                    help="give targets the shape of the model's output",
                )
            answers = answers.reshape(wanted.shape)
        return answers, wanted.to(answers.device).float()

    def loss(self, outputs: Outputs, targets: Any) -> Tensor:
        """Mean squared error."""
        answers, wanted = self.pair(outputs, targets)
        absent = wanted.isnan()
        if bool(absent.any()):
            answers, wanted = answers[~absent], wanted[~absent]
        return F.mse_loss(answers.float(), wanted)

    def compared(self, outputs: Outputs, targets: Any) -> tuple[Tensor, Tensor]:
        """Answers and targets of one shape; those that count, in a row, where targets differ in size."""
        answers, wanted = map(_plain, self.pair(outputs, targets))
        absent = wanted.isnan()
        return (answers[~absent], wanted[~absent]) if bool(absent.any()) else (answers, wanted)

    def _metrics(self, outputs: Outputs, targets: Any) -> dict[str, float]:
        """mse, mae, r2 and loss."""
        return _finite(_values(self, self._sums(outputs, targets)))

    def _sums(self, outputs: Outputs, targets: Any, center: Tensor | None = None) -> Sums:
        """Squared and absolute errors with their number; for r2 the squared errors and the squares that it explains."""
        answers, wanted = (_plain(item).double() for item in self.pair(outputs, targets))
        counted = ~wanted.isnan()
        middle = wanted.nanmean(dim=0) if center is None else center[tuple(map(slice, wanted.shape[1:]))]
        errors, distances = ((wanted - item).where(counted, 0.0) for item in (answers, middle))
        number, squares, spread = _by_sample(counted), _by_sample(errors**2), _by_sample(distances**2)
        return {
            "mse": (squares, number), "mae": (_by_sample(errors.abs()), number), "r2": (squares, spread),
            "loss": (squares, number),
        }

    def center(self, targets: Iterable[Tensors]) -> Tensor | None:
        """The mean target, position by position, of the shape of the largest sample."""
        sums, seen = list[Tensor](), list[Tensor]()
        for part in targets:
            wanted = _plain(_one(part)).double()
            counted = ~wanted.isnan()
            sums.append(wanted.where(counted, 0.0).sum(dim=0, keepdim=True))
            seen.append(counted.sum(dim=0, keepdim=True))
            sums, seen = ([stacked(item, 0).sum(dim=0, keepdim=True)] for item in (sums, seen))
        return (sums[0] / seen[0])[0] if sums else None

    def value(self, metric: str, above: float, below: float) -> float | None:
        """See `Task.value`."""
        if metric != "r2":
            return super().value(metric, above, below)
        # Targets that do not vary leave nothing to explain: 1 for a perfect answer, else 0 (as scikit-learn has it).
        return 1 - above / below if below > 0 else float(above == 0)

    def axis(self, outputs: Outputs) -> None:
        """None: answers are numbers."""


class Unlabeled(Task):
    """The task of data without labels that say no other: there is no metric but how far answers agree.

    Answers (N, C) are taken for scores of classes, and so is an answer named "logits": (N, T, C) and (N, C, …).
    """

    name = "unlabeled"

    def loss(self, outputs: Outputs, targets: Any) -> Tensor:
        """OptlangError: there is nothing to compare with."""
        raise OptlangError(NO_LABELS, help=WITHOUT_LABELS)

    def _metrics(self, outputs: Outputs, targets: Any) -> dict[str, float]:
        return {}

    def compared(self, outputs: Outputs, targets: Any) -> tuple[Any, Any]:
        """See `loss`."""
        raise OptlangError(NO_LABELS, help=WITHOUT_LABELS)

    def axis(self, outputs: Outputs) -> int | None:
        """See the class."""
        answer = _first(outputs)
        if answer.ndim == 2 and answer.is_floating_point():
            return 1 if answer.shape[1] > 1 else None
        return super().axis(outputs)


class Own(Task):
    """The user's own task: an object with loss(outputs, targets) and metrics(outputs, targets)."""

    name = "own"

    def __init__(self, task: Any, study: Path) -> None:
        self._task = task
        self._study = study

    @property
    def identity(self) -> str:
        """The object's class and its plain attributes; its code is the data factory's code."""
        attributes = vars(self._task) if hasattr(self._task, "__dict__") else {}
        plain = {
            name: value for name, value in attributes.items() if isinstance(value, bool | int | float | str | None)
        }
        return f"{type(self._task).__qualname__} {json.dumps(plain, sort_keys=True)}"

    def loss(self, outputs: Outputs, targets: Any) -> Tensor:
        """What the object's own loss says; it must be one number.

        Answers (N, 1) against targets (N,) would be compared all with all: torch's warning of it is an error here.
        """
        with user_code("the task's loss", self._study), warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")
            value = self._task.loss(_as_given(outputs, lambda item: item), _as_given(targets, lambda item: item))
        if not isinstance(value, Tensor) or value.numel() != 1:
            given = f"a tensor of the shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise OptlangError(
                f"the task's loss returned {given}, not one number",
                help="return the mean over the batch",
            )
        return value.reshape(())

    def compared(self, outputs: Outputs, targets: Any) -> tuple[Tensors, Tensors]:
        """Outputs and targets in the structure that model and data gave."""
        return _as_given(outputs, _plain), _as_given(targets, _plain)

    def _metrics(self, outputs: Outputs, targets: Any) -> dict[str, float]:
        """What the object's own metrics say, on CPU float32 tensors."""
        predictions, references = self.compared(outputs, targets)
        with user_code("the task's metrics", self._study):
            found = self._task.metrics(predictions, references)
        if not isinstance(found, Mapping) or not found:
            raise OptlangError(
                f"the task's metrics returned {'nothing' if not found else 'a ' + type(found).__name__}",
                help="return a dictionary {name: value}",
            )
        values: dict[str, float] = {}
        for name, value in found.items():
            try:
                values[str(name)] = float(value)
            except (TypeError, ValueError, RuntimeError) as error:
                raise OptlangError(f"the task's metric {name} is not a number: {error}") from error
        return _finite(values)


def _as_given(value: Any, change: Callable[[Tensor], Tensor]) -> Tensors:
    """Outputs by name go back into the structure that the model gave; arrays become tensors."""
    if isinstance(value, Mapping):
        return mapped(structured({name: tensor_of(item) for name, item in value.items()}), change)
    if isinstance(value, tuple | list):
        return mapped(tuple(tensor_of(item) for item in value), change)
    return change(tensor_of(value))


_BUILT_IN: dict[str, type[Task]] = {
    "classification": Classification, "regression": Regression, "sequence": Sequence,
}

