"""Counts the operations of a torch module. Knows no runtime, times nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from optlang.forms import OptlangError

if TYPE_CHECKING:
    from torch import Tensor, nn


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
