"""Metrics that an object of Python computes, which the study names: one of TorchMetrics, or the user's own."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optlang.interfaces import NamedMetric, OptlangError
from optlang.workload import imports

_NO_VALUE = "No (positive|negative) samples"
"""How TorchMetrics begins its warning where it then returns 0 for a metric that has no value."""


@dataclass(frozen=True, slots=True)
class ComputedMetric:
    """A metric whose object is made. `instance` has update(predictions, targets), compute() and reset(), or is called.

    `axis_last`: the scores of positions are passed as (N, T, classes), as TorchMetrics' perplexity has them.
    """

    name: str
    instance: Any
    study: Path
    axis_last: bool

    def value(self, predictions: Any, targets: Any) -> float:
        """The metric of all predictions together.

        Raises `UserCodeError` where the object raises, OptlangError where the metric has no value on these samples, or
        is not one number.
        """
        if self.axis_last:
            predictions = predictions.movedim(1, -1)
            if predictions.ndim == 2:
                # Positions whose labels are ignored were left out: what remains is one row.
                predictions, targets = predictions[None], targets[None]
        with _user_code(self.name, self.study):
            warnings.filterwarnings("error", message=_NO_VALUE)
            try:
                found = self._found(predictions, targets)
            except UserWarning as warning:
                raise OptlangError(
                    f"the metric {self.name} has no value: {warning}", help="validation needs samples of each class"
                ) from warning
        return self._number(found)

    def _found(self, predictions: Any, targets: Any) -> Any:
        if not hasattr(self.instance, "update"):
            return self.instance(predictions, targets)
        self.instance.reset()
        self.instance.update(predictions, targets)
        return self.instance.compute()

    def _number(self, found: Any) -> float:
        if isinstance(found, Mapping):
            raise OptlangError(
                f"the metric {self.name} is {len(found)} values: {', '.join(map(str, found))}",
                help="return one of them: a class of your own around it, with update, compute and reset",
            )
        try:
            return float(found)
        except (TypeError, ValueError, RuntimeError) as error:
            shape = getattr(found, "shape", None)
            given = f"a tensor of the shape {tuple(shape)}" if shape is not None else f"a {type(found).__name__}"
            raise OptlangError(
                f"the metric {self.name} is {given}, not one number", help='a mean of them, say: `average = "macro"`'
            ) from error


def computed(metrics: Sequence[NamedMetric], study: Path) -> tuple[ComputedMetric, ...]:
    """The objects of a study's metrics, made once.

    Raises `UserCodeError` where making one fails, OptlangError where it computes nothing, or is better in the other
    direction.
    """
    return tuple(_made(metric, study) for metric in metrics)


def _made(metric: NamedMetric, study: Path) -> ComputedMetric:
    create: Callable[..., Any] = imports.find(metric.factory.calls, study)
    with _user_code(metric.name, study):
        instance = create(**metric.factory.arguments)
    stateful = all(callable(getattr(instance, name, None)) for name in ("update", "compute", "reset"))
    if not stateful and not callable(instance):
        raise OptlangError(
            f"{metric.factory.calls} made an object of the type {type(instance).__name__}, which computes no metric",
            help="return an object with update(predictions, targets), compute() and reset(), or a function",
        )
    higher = getattr(instance, "higher_is_better", None)
    better = "maximize" if higher else "minimize"
    if higher is not None and better != metric.direction:
        raise OptlangError(
            f"the metric {metric.name} is declared `{metric.direction}`, and {type(instance).__name__} is better when "
            f"it is {'more' if higher else 'less'}",
            help=f"write `{better}` in its declaration",
        )
    return ComputedMetric(metric.name, instance, study, _is_perplexity(instance))


@contextlib.contextmanager
def _user_code(name: str, study: Path) -> Iterator[None]:
    """Run the object's own code. TorchMetrics warns of the memory that a metric takes: of no use once per trial."""
    with imports.user_code(f"the metric {name}", study), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _is_perplexity(instance: Any) -> bool:
    """By its class's name, because TorchMetrics need not be installed."""
    return any(
        item.__name__ == "Perplexity" and item.__module__.startswith("torchmetrics.") for item in type(instance).__mro__
    )
