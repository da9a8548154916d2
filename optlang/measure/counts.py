"""What can be counted on a torch module: parameters, multiply-accumulates, zeros. Knows no runtime, times nothing.

Weights that a module computes from other tensors (weight_norm, a mask) count as what it computes: that is what an
artifact holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from optlang.interfaces import Measurement
from optlang.workload.model.layers import weights
from optlang.workload.model.operations import macs, operations
from optlang.workload.model.parametrized import plain_copy

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Counted", "count", "macs", "sparsity", "sparsity_by_layer"]


@dataclass(frozen=True, slots=True)
class Counted:
    """Measurements, and what `macs` leaves out: operators without a formula, or why there is no such measurement.

    `shapes` are those of the parameters by name, each tensor once: their sizes add up to `parameters`, whatever an
    artifact folds together.
    """

    measurements: tuple[Measurement, ...]
    uncounted: tuple[str, ...] = ()
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)


def count(module: nn.Module, inputs: Mapping[str, Tensor]) -> Counted:
    """`parameters` (shared ones once), `macs` for one sample, and `sparsity`.

    `inputs` are example inputs by name, first axis the batch; for macs see `operations.operations`. They are absent
    where counting failed.
    """
    module = plain_copy(module)
    shapes = _shapes(module)
    found = [_exact("parameters", sum(map(math.prod, shapes.values())), "count")]
    done = operations(module, inputs)
    if done.macs is not None:
        found.append(_exact("macs", done.macs, "count"))
    found.append(_exact("sparsity", sparsity(module), "ratio"))
    return Counted(tuple(found), done.uncounted or ((f"all of it: {done.why}",) if done.why else ()), shapes)


def _exact(metric: str, value: float, unit: str) -> Measurement:
    return Measurement(metric, float(value), unit, 1, float(value), float(value))


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The parameters' shapes; those that are one tensor in memory stand once, as a file of them has them."""
    names = {
        (item.data_ptr(), tuple(item.shape), item.stride(), item.dtype): name
        for name, item in module.named_parameters()
    }
    return {name: shape for (_, shape, _, _), name in names.items()}


def sparsity(module: nn.Module) -> float:
    """The share of exact zeros among the weights (see `layers.weights`). 0 where there are none."""
    found = list(weights(plain_copy(module)).values())
    total = sum(item.numel() for item in found)
    return sum(_zeros(item) for item in found) / total if total else 0.0


def sparsity_by_layer(module: nn.Module) -> dict[str, float]:
    """The same for each weight, by its name in the module."""
    return {name: _zeros(item) / item.numel() for name, item in weights(plain_copy(module)).items()}


def _zeros(weight: Tensor) -> int:
    return int((weight == 0).sum())
