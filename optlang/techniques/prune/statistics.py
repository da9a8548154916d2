"""Estimates the statistics of batch normalizations again, from training data.

torch's `update_bn` would put the whole module into training mode, its dropout too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optlang.interfaces import Context, Refusal

if TYPE_CHECKING:
    from torch import nn

_BATCH = 64


def recalibrate(module: nn.Module, batches: int, context: Context) -> None:
    """Set the running means and variances of `module` to their means over training batches (EagleEye: Li et al., 2020).

    At most `batches` batches of 64 samples, drawn with the context's seed; everything but the batch normalizations is
    in eval mode. Raises `Refusal` where no layer has such statistics.
    """
    import torch
    from torch import nn

    from optlang.workload.data.resident import to_device
    from optlang.workload.devices import placed
    from optlang.workload.imports import user_code
    from optlang.workload.model.call import call

    norms = [
        item for item in module.modules()
        if isinstance(item, nn.modules.batchnorm._BatchNorm) and item.running_mean is not None
    ]
    if not norms:
        raise Refusal("recalibrate estimates the statistics of batch normalizations, and the model has none",
                      help="recalibrate = 0")
    data = context.data.bind(module)
    module.eval()
    momenta = [item.momentum for item in norms]
    for item in norms:
        item.reset_running_stats()
        item.momentum = None  # the plain mean over batches
        item.train()
    try:
        with torch.no_grad(), placed(module, context.device):
            drawn = data.batches("train", _BATCH, seed=context.seed, shuffle=True)
            # A last batch may be a single sample, which has no variance.
            for number, (inputs, targets) in enumerate(drawn):
                if number and (number >= batches or len(next(iter(inputs.values()))) < 2):
                    break
                inputs, _ = to_device(inputs, targets, context.device)
                with user_code("the model's forward", context.study):
                    call(module, inputs)
    finally:
        for item, momentum in zip(norms, momenta, strict=True):
            item.momentum = momentum
        module.eval()
