"""How good answers are: the task's metrics with their intervals, and how far answers agree with the baseline's.

Answers and targets are read a part at a time. A metric that is computed from sums over samples (see `Task.sums`) is
reduced to what each sample adds to them; only a task of the user's own, whose metrics need all answers, gets all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from optlang.interfaces import Array, Arrays, Measurement, OptlangError
from optlang.measure import intervals
from optlang.measure.agreement import Agreement
from optlang.measure.chunks import Rows, all_of, pieces, rows_of
from optlang.measure.samples import Targets, targets_of

if TYPE_CHECKING:
    from torch import Tensor

    from optlang.workload.data.tasks import Sums, Task

# Metrics of which it is known what a better one is; of a user's own only the study knows.
_KNOWN: dict[str, Literal["minimize", "maximize"]] = {
    "accuracy": "maximize", "r2": "maximize", "loss": "minimize", "mse": "minimize", "mae": "minimize",
}
_RATIOS = frozenset({"accuracy"})


@dataclass(frozen=True, slots=True)
class Tally:
    """The metrics of a task for some answers; `sums` has those that do not need all answers at once."""

    values: Mapping[str, float]
    sums: Sums


def score(
    task: Task, outputs: Rows | Arrays, targets: Targets | Any, baseline: Rows | Arrays | None = None,
    directions: Mapping[str, Literal["minimize", "maximize"]] | None = None, ratios: Collection[str] = (),
    seed: int = 0, before: Tally | None = None,
) -> list[Measurement]:
    """All metrics that `task` gives for `outputs` (by name, first axis the sample), with 95 % intervals.

    A proportion (every sample 0 or 1) has Wilson's interval, other means and whatever else the task gives the bootstrap
    over samples. With the baseline's outputs on the same samples there are its own values and ratios to them (how many
    times better; `directions` says which way, where the metric is not a built-in one), the ratios' intervals from the
    same resamples, so paired; draws on which a ratio has no value are left out; and the metrics of agreement (see
    agreement.py). Without targets these are all. `before` is the baseline's tally, where it is known.
    `ratios` are the metrics that are shares, besides the built-in ones. `n` is the number of samples. Raises
    OptlangError for outputs or metrics that are not finite, naming them. Where a metric needs all answers at once,
    those that differ in size are filled up with zeros to the largest; what stands there does not count, by the targets'
    own padding.
    """
    mine, wanted = rows_of(outputs), targets_of(targets)
    others = None if baseline is None else rows_of(baseline)
    check_finite(mine)
    found: list[Measurement] = []
    if wanted is not None:
        here = tally(task, mine, wanted)
        if before is None and others is not None:
            before = here if others is mine else tally(task, others, wanted)
        scorer = _Scorer(task, mine, wanted, here, before, {**_KNOWN, **(directions or {})}, seed)
        found = [scorer.measurement(name, _RATIOS.union(ratios)) for name in here.values]
    if others is not None:
        given = {item.metric for item in found}
        found += (item for item in _agreement(task, mine, others, wanted, seed) if item.metric not in given)
    return found


def tally(task: Task, outputs: Rows, targets: Targets) -> Tally:
    """The task's metrics for all outputs. Raises OptlangError for one that is not finite."""
    parts: list[Sums] = []
    center = task.center(targets.parts())
    for start, stop in pieces([outputs, targets.rows]):
        sums = task.sums(outputs.rows(start, stop), targets.part(start, stop), center)
        if sums is None:
            return Tally(_checked(task.metrics(all_of(outputs), targets.all(task.padding))), {})
        parts.append(sums)
    whole = _joined(parts)
    found = {name: _value(task, name, whole) for name in whole}
    if task.computed:
        answers, wanted = all_of(outputs), targets.all(task.padding)
        for metric in task.computed:
            found |= task.metrics(answers, wanted, metric.name)
    return Tally(_checked({name: value for name, value in found.items() if value is not None}), whole)


def _joined(parts: list[Sums]) -> Sums:
    import numpy

    def whole(name: str, index: int) -> Array:
        return numpy.concatenate([part[name][index] for part in parts])

    return {name: (whole(name, 0), whole(name, 1)) for name in parts[0]}


def _value(task: Task, name: str, sums: Sums, chosen: Array | slice = slice(None)) -> float | None:
    above, below = sums[name]
    return task.value(name, float(above[chosen].sum()), float(below[chosen].sum()))


def _checked(values: Mapping[str, float]) -> Mapping[str, float]:
    for name, value in values.items():
        if value - value != 0:
            raise OptlangError(f"the metric {name} is {value}", help="the task's metrics must be finite numbers")
    return values


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Measurements of the task's metrics, of answers and the baseline's."""

    task: Task
    outputs: Rows
    targets: Targets
    here: Tally
    before: Tally | None
    better: Mapping[str, Literal["minimize", "maximize"]]
    seed: int

    def measurement(self, name: str, shares: Collection[str]) -> Measurement:
        value, n = self.here.values[name], len(self.outputs)
        low, high = self._interval(name)
        reference = None if self.before is None else self.before.values.get(name)
        ratio: tuple[float | None, float | None, float | None] = (None, None, None)
        if reference is not None and name in self.better:
            ratio = self._ratio(name, value, reference)
        unit = "ratio" if name in shares else ""
        return Measurement(name, value, unit, n, min(low, value), max(high, value), "", *ratio, reference)

    def _interval(self, name: str) -> tuple[float, float]:
        n = len(self.outputs)
        if name in self.here.sums:
            above, below = self.here.sums[name]
            if (below == 1).all() and self.task.value(name, 1.0, 2.0) == 0.5:
                return of_vector(above, self.seed)
            statistic: Callable[[Array], float | None] = functools.partial(self._drawn, self.here.sums, name)
        else:
            targets = self.targets.all(self.task.padding)
            statistic = functools.partial(_again, self.task, all_of(self.outputs), targets, name)
        try:
            return intervals.resampled(statistic, n, self.seed)
        except OptlangError as error:
            raise OptlangError(f"the metric {name}: {error.message}", help=error.help) from error

    def _drawn(self, sums: Sums, name: str, chosen: Array) -> float | None:
        try:
            return _value(self.task, name, sums, chosen)
        except OptlangError:
            return None

    def _ratio(self, name: str, value: float, reference: float) -> tuple[float | None, float | None, float | None]:
        def divided(mine: float | None, other: float | None) -> float | None:
            if mine is None or other is None:
                return None
            above, below = (other, mine) if self.better[name] == "minimize" else (mine, other)
            # Of figures that may be zero or less (r2) it has no meaning to say "times".
            return above / below if above >= 0 and below > 0 else None

        ratio = divided(value, reference)
        assert self.before is not None
        mine, others = self.here.sums, self.before.sums
        if ratio is None or name not in mine or name not in others:
            return ratio, None, None

        def paired(chosen: Array) -> float | None:
            return divided(self._drawn(mine, name, chosen), self._drawn(others, name, chosen))

        try:
            low, high = intervals.resampled(paired, len(self.outputs), self.seed)
        except OptlangError:
            # Of so few draws with a value nothing can be said of how sure it is.
            return ratio, None, None
        return ratio, min(low, ratio), max(high, ratio)


def _agreement(
    task: Task, outputs: Rows, baseline: Rows, targets: Targets | None, seed: int
) -> Iterator[Measurement]:
    found = Agreement(task)
    several = [outputs, baseline, *([] if targets is None else [targets.rows])]
    for start, stop in pieces(several):
        wanted = None if targets is None else targets.part(start, stop)
        found.add(outputs.rows(start, stop), baseline.rows(start, stop), wanted)
    return found.measurements(seed)


def check_finite(outputs: Rows | Arrays) -> None:
    """Raise OptlangError naming the output that holds NaN or infinity, and how much of it."""
    import numpy

    rows = rows_of(outputs)
    bad, sizes, kinds = dict[str, int](), dict[str, int](), dict[str, str]()
    for start, stop in pieces([rows]):
        for name, item in rows.rows(start, stop).items():
            if item.dtype.kind not in "fc":
                continue
            sizes[name] = sizes.get(name, 0) + item.size
            bad[name] = bad.get(name, 0) + int((~numpy.isfinite(item)).sum())
            if bad[name] and numpy.isnan(item).any():
                kinds[name] = "NaN"
    for name, count in bad.items():
        if count:
            raise OptlangError(
                f"the model's answer {name} holds {kinds.get(name, 'infinity')} ({count} of {sizes[name]} values)",
                help="its weights or ranges have overflowed: a smaller learning rate, or a gentler setting, may help",
            )


def of_vector(vector: Array, seed: int) -> tuple[float, float]:
    """The 95 % interval of the mean of independent values, one a sample."""
    if ((vector == 0) | (vector == 1)).all():
        return intervals.wilson(int(vector.sum()), len(vector))
    return intervals.mean(vector, seed)


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
