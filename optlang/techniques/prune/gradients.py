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
    sums: dict[str, Tensor] = {}
    batches = 0

    def add(_: int) -> None:
        nonlocal batches
        for name, item in weights.items():
            if item.grad is not None:
                _add(sums, name, (item.detach() * item.grad).abs())
        batches += 1

    after_each(module, samples, context, add)
    return {name: _sum(sums, name, item) / batches for name, item in weights.items()}


def fisher(module: nn.Module, weights: Mapping[str, Any], samples: int, context: Context) -> dict[str, Tensor]:
    """Half of weight squared times the mean over `samples` training samples of gradient squared; in eval mode.

    How much the loss would change without the weight, to second order (Optimal Brain Damage: LeCun, Denker and Solla,
    NIPS 1989), where the diagonal of the Hessian is that of the empirical Fisher information (Theis et al., 2018): the
    squares are of each sample's own gradient. Samples come in the order of `taylor`'s.
    """
    sums: dict[str, Tensor] = {}
    seen = 0

    def add(_: int) -> None:
        nonlocal seen
        for name, item in weights.items():
            if item.grad is not None:
                _add(sums, name, item.grad.square())
        seen += 1

    after_each(module, samples, context, add, one_by_one=True)
    return {
        name: item.detach().square() * _sum(sums, name, item) / (2 * seen) for name, item in weights.items()
    }


def _add(sums: dict[str, Tensor], name: str, item: Tensor) -> None:
    """Sums lie where gradients do: on the device."""
    sums[name] = sums[name] + item if name in sums else item


def _sum(sums: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    import torch

    return sums[name].detach().cpu() if name in sums else torch.zeros_like(like).detach()


def after_each(
    module: nn.Module, samples: int, context: Context, do: Callable[[int], None], *, one_by_one: bool = False
) -> None:
    """Call `do` with the number of samples after each batch of 64 whose loss was carried back through `module`.

    Without labels it is the loss of `drawn_loss`.
    `one_by_one` makes a batch of each sample. Parameters hold the batch's gradients, frozen ones too; it ends with
    the first batch at which `samples` were seen, and leaves no gradients behind.
    """
    import torch

    from optlang.workload.data.resident import to_device
    from optlang.workload.devices import placed
    from optlang.workload.imports import user_code
    from optlang.workload.model.call import call, settled

    data = context.data.bind(module)
    # Labels are drawn by the processor's generator, whose numbers are the same everywhere.
    generator = torch.Generator().manual_seed(context.seed)
    frozen = [item for item in module.parameters() if not item.requires_grad]
    seen = 0
    for item in frozen:
        item.requires_grad_(True)
    try:
        with torch.enable_grad(), warnings.catch_warnings(), placed(module, context.device):
            for inputs, targets in _batches(data.batches("train", _BATCH, context.seed, shuffle=True), one_by_one):
                inputs, targets = to_device(inputs, targets, context.device)
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
