"""What can be counted on a torch module: parameters, multiply-accumulates, zeros. Knows no runtime, times nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from optlang.forms import Measurement
from optlang.workload.operations import macs

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["count", "macs", "sparsity", "sparsity_by_layer"]


def count(module: nn.Module, inputs: Mapping[str, Tensor]) -> list[Measurement]:
    """`parameters` (shared ones once), `macs` for one sample, and `sparsity`.

    `inputs` are example inputs by name, first axis the batch; macs are half of what torch's own counter calls
    floating-point operations: convolutions and products of matrices, attention and recurrent layers included.
    """
    parameters = sum(item.numel() for item in module.parameters())
    return [
        _exact("parameters", parameters, "count"), _exact("macs", macs(module, inputs), "count"),
        _exact("sparsity", sparsity(module), "ratio"),
    ]


def _exact(metric: str, value: float, unit: str) -> Measurement:
    return Measurement(metric, float(value), unit, 1, float(value), float(value))


def sparsity(module: nn.Module) -> float:
    """The share of exact zeros among the weights: parameters of two and more dimensions. 0 where there are none."""
    found = list(_weights(module).values())
    total = sum(item.numel() for item in found)
    return sum(_zeros(item) for item in found) / total if total else 0.0


def sparsity_by_layer(module: nn.Module) -> dict[str, float]:
    """The same for each weight, by its name in the module."""
    return {name: _zeros(item) / item.numel() for name, item in _weights(module).items()}


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: item for name, item in module.named_parameters() if item.ndim > 1 and item.numel()}


def _zeros(weight: Tensor) -> int:
    return int((weight == 0).sum())
