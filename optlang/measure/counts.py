"""What can be counted on a torch module: parameters, multiply-accumulates, zeros. Knows no runtime, times nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from optlang.forms import Measurement, OptlangError

if TYPE_CHECKING:
    from torch import Tensor, nn


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


def macs(module: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """Multiply-accumulate operations for one sample of `inputs`; the module is run once, in eval mode."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from optlang.workload import modules

    samples = len(next(iter(inputs.values())))
    if not samples:
        raise OptlangError("no example inputs to count operations with")
    training = module.training
    try:
        # Not inference_mode: the counter sees what operators are made of only through autograd's dispatch.
        with torch.no_grad(), _transparent(module), FlopCounterMode(display=False) as counter:
            modules.call(module.eval(), inputs)
    finally:
        module.train(training)
    return float(counter.get_total_flops()) / 2 / samples


@contextlib.contextmanager
def _transparent(module: nn.Module) -> Iterator[None]:
    """Without the kernels that do a whole layer at once: the counter does not know them and would count nothing."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    onednn = torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    if any(isinstance(item, torch.nn.RNNBase) for item in module.modules()):
        # Not by its context manager, which warns of settings that only other devices have.
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.enabled = onednn


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
