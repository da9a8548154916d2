"""What weights are worth by the gradients of the task's loss. Knows no pruning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optlang.forms import Context

if TYPE_CHECKING:
    from torch import Tensor, nn

# Samples of a step while gradients are collected.
_BATCH = 64


def taylor(module: nn.Module, weights: Mapping[str, Any], samples: int, context: Context) -> dict[str, Tensor]:
    """The mean over training batches of |weight times gradient| of the task's loss; the model in eval mode.

    How much the loss would change without the weight, to first order (Molchanov et al., CVPR 2019). Batches of 64 are
    drawn with the context's seed until `samples` samples were seen. `weights` are parameters of `module` by name.
    """
    import torch

    from optlang.workload.modules import call
    from optlang.workload.objects import user_code

    data = context.data.bind(module)
    frozen = [item for item in module.parameters() if not item.requires_grad]
    sums = {name: torch.zeros_like(item) for name, item in weights.items()}
    seen = batches = 0
    for item in frozen:
        item.requires_grad_(True)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            for inputs, targets in data.batches("train", _BATCH, seed=context.seed, shuffle=True):
                with user_code("the model's forward", context.study):
                    outputs = call(module, inputs)
                module.zero_grad(set_to_none=True)
                data.task.loss(outputs, targets).backward()  # type: ignore[no-untyped-call]
                for name, item in weights.items():
                    if item.grad is not None:
                        sums[name] += (item.detach() * item.grad).abs()
                seen += len(next(iter(inputs.values())))
                batches += 1
                if seen >= samples:
                    break
    finally:
        module.zero_grad(set_to_none=True)
        for item in frozen:
            item.requires_grad_(False)
    return {name: item.detach() / batches for name, item in sums.items()}
