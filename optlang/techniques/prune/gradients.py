"""Importance of weights, from the gradients of the task's loss. Prunes nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context
from optlang.techniques.shared.labels import drawn_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.workload.data.tensors import Tensors

# Samples of a step while gradients are collected.
_BATCH = 64


def taylor(module: nn.Module, weights: Mapping[str, Any], samples: int, context: Context) -> dict[str, Tensor]:
    """The mean over training batches of |weight times gradient| of the task's loss; the model in eval mode.

    How much the loss would change without the weight, to first order (Molchanov et al., CVPR 2019). Batches of 64 are
    drawn with the context's seed until `samples` samples were seen. `weights` are parameters of `module` by name.
    """
    import torch

    sums = {name: torch.zeros_like(item) for name, item in weights.items()}
    batches = 0

    def add(_: int) -> None:
        nonlocal batches
        for name, item in weights.items():
            if item.grad is not None:
                sums[name] += (item.detach() * item.grad).abs()
        batches += 1

    after_each(module, samples, context, add)
    return {name: item.detach() / batches for name, item in sums.items()}


def fisher(module: nn.Module, weights: Mapping[str, Any], samples: int, context: Context) -> dict[str, Tensor]:
    """Half of weight squared times the mean over `samples` training samples of gradient squared; in eval mode.

    How much the loss would change without the weight, to second order (Optimal Brain Damage: LeCun, Denker and Solla,
    NIPS 1989), where the diagonal of the Hessian is that of the empirical Fisher information (Theis et al., 2018): the
    squares are of each sample's own gradient. Samples come in the order of `taylor`'s.
    """
    import torch

    sums = {name: torch.zeros_like(item) for name, item in weights.items()}
    seen = 0

    def add(_: int) -> None:
        nonlocal seen
        for name, item in weights.items():
            if item.grad is not None:
                sums[name] += item.grad.square()
        seen += 1

    after_each(module, samples, context, add, one_by_one=True)
    return {name: weights[name].detach().square() * item.detach() / (2 * seen) for name, item in sums.items()}


def after_each(
    module: nn.Module, samples: int, context: Context, do: Callable[[int], None], *, one_by_one: bool = False
) -> None:
    """Call `do` with the number of samples after each batch of 64 whose loss was carried back through `module`.

    Without labels it is the loss of `drawn_loss`.
    `one_by_one` makes a batch of each sample. Parameters hold the batch's gradients, frozen ones too; it ends with
    the first batch at which `samples` were seen, and leaves no gradients behind.
    """
    import torch

    from optlang.workload.imports import user_code
    from optlang.workload.model.call import call, settled

    data = context.data.bind(module)
    generator = torch.Generator().manual_seed(context.seed)
    frozen = [item for item in module.parameters() if not item.requires_grad]
    seen = 0
    for item in frozen:
        item.requires_grad_(True)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            for inputs, targets in _batches(data.batches("train", _BATCH, context.seed, shuffle=True), one_by_one):
                with user_code("the model's forward", context.study):
                    outputs = call(module, inputs)
                module.zero_grad(set_to_none=True)
                drawn_loss(data.task, outputs, targets, generator).backward()  # type: ignore[no-untyped-call]
                count = len(next(iter(inputs.values())))
                do(count)
                seen += count
                if seen >= samples:
                    break
    finally:
        settled(module).zero_grad(set_to_none=True)
        for item in frozen:
            item.requires_grad_(False)


def _batches(
    batches: Iterator[tuple[dict[str, Tensor], Tensors]], one_by_one: bool
) -> Iterator[tuple[dict[str, Tensor], Tensors]]:
    from optlang.workload.data.tensors import mapped

    for inputs, targets in batches:
        if not one_by_one:
            yield inputs, targets
            continue
        for index in range(len(next(iter(inputs.values())))):
            own = slice(index, index + 1)
            yield (
                {name: item[own] for name, item in inputs.items()},
                mapped(targets, lambda item, own=own: item[own]),  # type: ignore[misc]
            )
