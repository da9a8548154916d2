"""How good answers are: the task's metrics with their intervals."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal

from optlang.interfaces import Array, Arrays, Measurement, OptlangError
from optlang.measure import intervals

if TYPE_CHECKING:
    from torch import Tensor

    from optlang.workload.data.tasks import Task

# Metrics of which it is known what a better one is; of a user's own only the study knows.
_KNOWN: dict[str, Literal["minimize", "maximize"]] = {
    "accuracy": "maximize", "r2": "maximize", "loss": "minimize", "mse": "minimize", "mae": "minimize",
}
_RATIOS = frozenset({"accuracy"})


def score(
    task: Task, outputs: Arrays, targets: Any, baseline: Arrays | None = None,
    directions: Mapping[str, Literal["minimize", "maximize"]] | None = None, ratios: Collection[str] = (),
    seed: int = 0,
) -> list[Measurement]:
    """All metrics that `task` gives for `outputs` (by name, first axis the sample), with 95 % intervals.

    A proportion (every sample 0 or 1) has Wilson's interval, other means and whatever else the task gives the bootstrap
    over samples. With the baseline's outputs on the same samples there are its own values and ratios to them (how many
    times better; `directions` says which way, where the metric is not a built-in one), the ratios' intervals from the
    same resamples, so paired; draws on which a ratio has no value are left out.
    `ratios` are the metrics that are shares, besides the built-in ones. `n` is the number of samples. Raises
    OptlangError for outputs or metrics that are not finite, naming them. Outputs that differ in size from sample to
    sample are filled up with zeros to the largest; what stands there does not count, by the targets' own padding.
    """
    outputs, baseline = padded(outputs, baseline)
    check_finite(outputs)
    metrics = task.metrics(dict(outputs), targets)
    n = len(next(iter(outputs.values())))
    vectors = _vectors(task, outputs, targets, n)
    before = None if baseline is None else task.metrics(dict(baseline), targets)
    others = None if baseline is None else _vectors(task, baseline, targets, n)
    better = {**_KNOWN, **(directions or {})}
    shares = _RATIOS.union(ratios)
    found = []
    for name, value in metrics.items():
        if not _finite(value):
            raise OptlangError(f"the metric {name} is {value}", help="the task's metrics must be finite numbers")
        vector = vectors.get(name)
        if vector is not None:
            low, high = _of_vector(vector, seed)
        else:
            again = functools.partial(_again, task, outputs, targets, name)
            try:
                low, high = intervals.resampled(again, n, seed)
            except OptlangError as error:
                raise OptlangError(f"the metric {name}: {error.message}", help=error.help) from error
        ratio: tuple[float | None, float | None, float | None] = (None, None, None)
        if before is not None and name in better:
            other = None if others is None else others.get(name)
            ratio = _ratio(value, before[name], vector, other, better[name], seed)
        unit = "ratio" if name in shares else ""
        reference = None if before is None else before.get(name)
        found.append(Measurement(name, value, unit, n, min(low, value), max(high, value), "", *ratio, reference))
    if baseline is not None and "agreement" not in metrics:
        found += _agreement(task, outputs, baseline, targets, n, seed)
    return found


def _agreement(
    task: Task, outputs: Arrays, baseline: Arrays, targets: Any, n: int, seed: int
) -> list[Measurement]:
    """On which share of the samples the answer is the baseline's, right or wrong; nothing of tasks without classes."""
    same = task.agreement(dict(outputs), dict(baseline), targets)
    if same is None:
        return []
    value = float(same.mean())
    # Several answers of one sample are not independent of each other: of those there is no interval.
    low, high = _of_vector(same, seed) if len(same) == n else (value, value)
    return [Measurement("agreement", value, "ratio", n, min(low, value), max(high, value))]


def padded(outputs: Arrays, baseline: Arrays | None) -> tuple[dict[str, Array], dict[str, Array] | None]:
    """Answers as dense arrays, the baseline's with the same sizes where it has an output of that name."""
    from optlang.workload.data import ragged

    if baseline is None:
        return {name: ragged.padded(item) for name, item in outputs.items()}, None
    mine, others = dict(outputs), dict(baseline)
    for name, item in mine.items():
        if name in others:
            mine[name], others[name] = ragged.one_size(item, others[name])
    return {name: ragged.padded(item) for name, item in mine.items()}, {
        name: ragged.padded(item) for name, item in others.items()
    }


def check_finite(outputs: Arrays) -> None:
    """Raise OptlangError naming the output that holds NaN or infinity, and how much of it."""
    import numpy

    from optlang.workload.data import ragged

    for name, given in outputs.items():
        item = ragged.padded(given)
        if item.dtype.kind not in "fc":
            continue
        bad = int((~numpy.isfinite(item)).sum())
        if bad:
            kind = "NaN" if numpy.isnan(item).any() else "infinity"
            raise OptlangError(
                f"the model's answer {name} holds {kind} ({bad} of {item.size} values)",
                help="its weights or ranges have overflowed: a smaller learning rate, or a gentler setting, may help",
            )


def _finite(value: float) -> bool:
    return value - value == 0


def _vectors(task: Task, outputs: Arrays, targets: Any, n: int) -> dict[str, Array]:
    """The values that metrics are means of, one a sample; none where a sample has several, not independent ones."""
    found = task.per_sample(dict(outputs), targets)
    return {} if found is None else {name: item for name, item in found.items() if len(item) == n}


def _of_vector(vector: Array, seed: int) -> tuple[float, float]:
    if ((vector == 0) | (vector == 1)).all():
        return intervals.wilson(int(vector.sum()), len(vector))
    return intervals.mean(vector, seed)


def _ratio(
    value: float, before: float, vector: Array | None, other: Array | None,
    direction: Literal["minimize", "maximize"], seed: int,
) -> tuple[float | None, float | None, float | None]:
    def divided(mine: float, reference: float) -> float | None:
        above, below = (reference, mine) if direction == "minimize" else (mine, reference)
        # Of figures that may be zero or less (r2) it has no meaning to say "times".
        return above / below if above >= 0 and below > 0 else None

    ratio = divided(value, before)
    if ratio is None or vector is None or other is None:
        return ratio, None, None

    def paired(chosen: Array) -> float | None:
        return divided(float(vector[chosen].mean()), float(other[chosen].mean()))

    try:
        low, high = intervals.resampled(paired, len(vector), seed)
    except OptlangError:
        # Of so few draws with a value nothing can be said of how sure it is.
        return ratio, None, None
    return ratio, min(low, ratio), max(high, ratio)


def _again(task: Task, outputs: Arrays, targets: Any, metric: str, chosen: Array) -> float | None:
    """The metric of the chosen samples; None where they leave it without a value, as a draw without a positive does."""
    try:
        found = task.metrics({name: item[chosen] for name, item in outputs.items()}, _chosen(targets, chosen), metric)
    except OptlangError:
        return None
    return found.get(metric)


def _chosen(targets: Any, chosen: Array) -> Any:
    import torch

    if isinstance(targets, Mapping):
        return {name: _chosen(item, chosen) for name, item in targets.items()}
    if isinstance(targets, tuple | list):
        return tuple(_chosen(item, chosen) for item in targets)
    if isinstance(targets, torch.Tensor):
        kept: Tensor = targets[torch.from_numpy(chosen)]
        return kept
    return targets[chosen]
