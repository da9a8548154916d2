"""Scores a module on 'validation' while it trains, by the metrics that the study judges trials by.

It leaves everything as it was: the module's modes, its weights and the process's random numbers. So a training gives
the same weights whether it is scored or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Array, OptlangError
from optlang.measure.agreement import Agreement
from optlang.measure.chunks import BYTES, Rows, taken
from optlang.measure.samples import Samples
from optlang.plan.metrics import AGREEMENT
from optlang.workload.data.dataset import Dataset

if TYPE_CHECKING:
    import torch

    from optlang.workload.data.tasks import Sums
    from optlang.workload.data.tensors import Tensors

SHARE = 0.3
"""Samples that are scored after an epoch, at most, as a share of those that are trained on in it: a step of a training
costs about three forward passes (forward, and twice as much backward), so scoring takes a tenth of the epoch."""

LEAST = 50
"""Where fewer samples may be scored, none are: of so few a share is known to 14 points at best. A trial that pauses is
scored on so many, or on all that there are."""

BATCH = 64
"""Samples in one call."""


@dataclass(slots=True)
class Scorer:
    """Computes `metrics` of a module; `answers` gives the baseline's answers to `samples`, None where it has none."""

    data: Dataset
    samples: Samples
    metrics: tuple[str, ...]
    study: Path
    answers: Callable[[], Rows] | None = None
    few: bool = False
    """Whether it is scored however few samples there are, since something has to be known of it."""
    seconds: float = 0.0
    """What scoring has taken so far."""
    _kept: list[tuple[Array, dict[str, Array]]] = field(default_factory=list)
    """The batches, where they are small enough to be kept."""

    def __call__(self, module: torch.nn.Module) -> dict[str, float]:
        """The metrics that can be computed, by name; none where too few samples may be scored.

        A metric that these samples have no value of is left out.
        """
        begin = time.monotonic()
        found = self._scored(module) if len(self.places) else {}
        self.seconds += time.monotonic() - begin
        return {name: found[name] for name in self.metrics if name in found}

    @property
    def places(self) -> Array:
        """Which samples are scored, spread evenly."""
        import numpy

        count = min(len(self.samples), int(SHARE * self.data.size("train")))
        if count < LEAST:
            count = min(len(self.samples), LEAST) if self.few else 0
        return numpy.linspace(0, len(self.samples) - 1, count).round().astype(int)

    def _scored(self, module: torch.nn.Module) -> dict[str, float]:
        import torch

        from optlang.workload.imports import user_code
        from optlang.workload.model.call import call, in_mode
        from optlang.workload.seeds import seeded

        answers = self.answers() if self.answers is not None and self._named(AGREEMENT) else None
        tally = _Tally(self.data, self.samples, labeled=bool(self._named(set(self.metrics).difference(AGREEMENT))))
        names = self.data.bind(module).input_names
        device = next((item.device for item in module.parameters()), torch.device("cpu"))
        with seeded(0), in_mode(module, False), torch.no_grad():
            for places, arrays in self._batches():
                inputs = {
                    name: torch.tensor(item, device=device) for name, item in zip(names, arrays.values(), strict=True)
                }
                with user_code("the model's forward", self.study):
                    outputs = {name: _plain(item) for name, item in call(module, inputs).items()}
                tally.add(outputs, places, None if answers is None else taken(answers, places))
        return tally.values()

    def _named(self, names: Any) -> list[str]:
        return [name for name in self.metrics if name in names]

    def _batches(self) -> Iterator[tuple[Array, dict[str, Array]]]:
        """The inputs with their places, a batch of equal shapes after another."""
        if self._kept:
            yield from self._kept
            return
        every = self.places
        bytes_kept = 0
        kept: list[tuple[Array, dict[str, Array]]] | None = []
        for first, end in self.samples.inputs.runs:
            places = every[(every >= first) & (every < end)]
            for start in range(0, len(places), BATCH):
                batch = places[start : start + BATCH], taken(self.samples.inputs, places[start : start + BATCH])
                bytes_kept += sum(item.nbytes for item in batch[1].values())
                kept = [*kept, batch] if kept is not None and bytes_kept <= BYTES else None
                yield batch
        self._kept = kept or []


def _plain(item: torch.Tensor) -> torch.Tensor:
    """An answer as arrays have it: they know no bfloat16."""
    return (item.float() if item.is_floating_point() else item).detach().cpu()


class _Tally:
    """Metrics of answers that come in parts."""

    def __init__(self, data: Dataset, samples: Samples, *, labeled: bool) -> None:
        self._task, self._targets = data.task, samples.targets
        self._labeled = labeled and samples.targets is not None
        self._center = self._task.center(samples.targets.parts()) if self._labeled and samples.targets else None
        self._sums: list[Sums] | None = []
        self._answers: list[tuple[Mapping[str, torch.Tensor], Tensors]] = []
        self._agreement: Agreement | None = None

    def add(self, outputs: Mapping[str, torch.Tensor], places: Array, baseline: Mapping[str, Array] | None) -> None:
        """Count the answers to the samples at these places."""
        targets = None if self._targets is None else self._targets.at(places)
        arrays = {name: item.numpy() for name, item in outputs.items()}
        if baseline is not None:
            self._agreement = self._agreement or Agreement(self._task)
            self._agreement.add(arrays, baseline, targets)
        if not self._labeled or targets is None:
            return
        sums = None if self._sums is None else self._task.sums(arrays, targets, self._center)
        if sums is None or self._sums is None:
            self._sums = None
        else:
            self._sums.append(sums)
        if self._sums is None or self._task.computed:
            self._answers.append((outputs, targets))

    def values(self) -> dict[str, float]:
        """What there is of them all; a metric that has no value on these samples is left out."""
        found = {} if self._agreement is None else self._agreement.values()
        if self._sums:
            found |= self._summed(self._sums)
        if self._answers:
            found |= self._at_once()
        return found

    def _summed(self, parts: Sequence[Sums]) -> dict[str, float]:
        found = {}
        for name in parts[0]:
            above, below = (sum(float(part[name][side].sum()) for part in parts) for side in (0, 1))
            value = self._task.value(name, above, below)
            if value is not None:
                found[name] = value
        return found

    def _at_once(self) -> dict[str, float]:
        from optlang.workload.data.tensors import joined

        outputs: Any = joined([dict(item) for item, _ in self._answers])
        targets = joined([item for _, item in self._answers], self._task.padding)
        found: dict[str, float] = {}
        for only in [metric.name for metric in self._task.computed] if self._sums else [None]:
            with suppress(OptlangError):
                found |= self._task.metrics(outputs, targets, only)
        return found
