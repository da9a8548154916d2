"""What the answers of a model are compared with: losses and metrics by task."""

from __future__ import annotations

import abc
import copy
import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy
import torch.nn.functional as F  # noqa: N812 - the name that everybody gives it
from torch import Tensor

from optlang.interfaces import Array, OptlangError
from optlang.workload.data.computed_metrics import ComputedMetric
from optlang.workload.data.tensors import Tensors, leaves, mapped, structured, tensor
from optlang.workload.imports import user_code

Outputs: TypeAlias = "Mapping[str, Any] | Tensor | tuple[Any, ...] | Array"
"""A model's answer: by output name, or as the model gave it; tensors or arrays."""
Vector: TypeAlias = "numpy.ndarray[Any, numpy.dtype[numpy.float64]]"

IGNORED = -100
"""The label of positions that do not count, as in torch's own cross-entropy."""


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

    def per_sample(self, outputs: Outputs, targets: Any) -> dict[str, Vector] | None:
        """For metrics that are means: the values they are means of (for intervals); None where there are none."""
        found = self._per_sample(outputs, targets)
        replaced = {metric.name for metric in self.computed}
        return found and {name: values for name, values in found.items() if name not in replaced}

    def _per_sample(self, outputs: Outputs, targets: Any) -> dict[str, Vector] | None:
        return None

    def agreement(self, outputs: Outputs, others: Outputs, targets: Any) -> Vector | None:
        """On which samples two models answer the same (1) or not (0); None where answers are not classes."""
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


def _one(targets: Any) -> Tensor:
    if isinstance(targets, Mapping | tuple | list):
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
        return _finite({name: float(values.mean()) for name, values in self._per_sample(outputs, targets).items()})

    def compared(self, outputs: Outputs, targets: Any) -> tuple[Tensor, Tensor]:
        """Scores (N, C, …) and labels (N, …); with ignored labels those of the others alone, (M, C) and (M,)."""
        scores, labels = (_plain(item) for item in self.pair(outputs, targets))
        counted = labels != IGNORED
        if bool(counted.all()):
            return scores, labels
        return scores.movedim(1, -1)[counted], labels[counted]

    def _per_sample(self, outputs: Outputs, targets: Any) -> dict[str, Vector]:
        """accuracy: 1 where the answer is right, else 0; loss: cross-entropy. One number for each label that counts."""
        scores, labels = self.pair(outputs, targets)
        scores, labels = _plain(scores), _plain(labels)
        counted = (labels != IGNORED).flatten()
        right = (scores.argmax(dim=1) == labels).flatten()[counted]
        losses = F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="none").flatten()[counted]
        if not counted.any():
            raise OptlangError("no label counts: all of them are ignored")
        return {"accuracy": right.double().numpy(), "loss": losses.double().numpy()}

    def agreement(self, outputs: Outputs, others: Outputs, targets: Any) -> Vector | None:
        """1 where both say the same class, else 0: one number for each label that counts."""
        scores, labels = self.pair(outputs, targets)
        counted = (_plain(labels) != IGNORED).flatten()
        first, second = (_plain(item).argmax(dim=1).flatten() for item in (scores, self.pair(others, targets)[0]))
        return (first == second)[counted].double().numpy()


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
        answers, wanted = (_plain(item).double() for item in self.pair(outputs, targets))
        counted = ~wanted.isnan()
        errors = (answers - wanted)[counted]
        spread = float(((wanted - wanted.nanmean(dim=0)) ** 2)[counted].sum())
        squares = float((errors**2).sum())
        mse = squares / errors.numel()
        # Targets that do not vary leave nothing to explain: 1 for a perfect answer, else 0 (as scikit-learn has it).
        r2 = 1 - squares / spread if spread > 0 else float(squares == 0)
        return _finite({"mse": mse, "mae": float(errors.abs().mean()), "r2": r2, "loss": mse})

    def _per_sample(self, outputs: Outputs, targets: Any) -> dict[str, Vector] | None:
        """mse, mae and loss, one number a sample; None where samples have targets of different sizes.

        The mean of all positions is then not the mean of the samples' means.
        """
        answers, wanted = (_plain(item).double() for item in self.pair(outputs, targets))
        if bool(wanted.isnan().any()):
            return None
        errors = (answers - wanted).reshape(len(wanted), -1)
        squares = (errors**2).mean(dim=1).numpy()
        return {"mse": squares, "mae": errors.abs().mean(dim=1).numpy(), "loss": squares}


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

