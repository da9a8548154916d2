"""Scores of a model's blocks: what it would lose with each of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context
from optlang.techniques.shared.labels import loss_against
from optlang.techniques.shared.skipped import skipping, watching

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.workload.data.tensors import Tensors

# Samples of a call.
_BATCH = 64


def influence(module: nn.Module, names: Sequence[str], samples: int, context: Context) -> dict[str, float]:
    """1 − the cosine between what a block takes and gives, the mean over training samples.

    Block Influence (Men et al., ShortGPT, 2024): of the numbers of each token where a block takes (N, length, width),
    of each sample's otherwise.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that everybody gives it

    from optlang.workload.devices import placed

    sums = dict.fromkeys(names, 0.0)
    counts = dict.fromkeys(names, 0)

    def see(name: str, taken: Any, given: Any) -> None:
        one, other = (item.float() if item.ndim == 3 else item.float().flatten(1) for item in (taken, given))
        alike = F.cosine_similarity(one, other, dim=-1)
        sums[name] += float((1 - alike).cpu().double().sum())
        counts[name] += alike.numel()

    scored = copy.deepcopy(module).eval()
    with torch.no_grad(), watching(scored, names, see), placed(scored, context.device):
        for _ in _passes(scored, samples, context):
            pass
    return {name: sums[name] / max(1, counts[name]) for name in names}


def loss(module: nn.Module, names: Sequence[str], samples: int, context: Context) -> dict[str, float]:
    """How much the task's loss rises on training samples when a block is skipped, one at a time.

    Without labels how far answers are from those of the whole module.
    """
    import torch

    scored = copy.deepcopy(module).eval().to(context.device)
    loss_of = loss_against(copy.deepcopy(module).eval().to(context.device), context)

    def measured() -> float:
        total, seen = 0.0, 0
        for outputs, inputs, targets, count in _passes(scored, samples, context):
            total += float(loss_of(outputs, inputs, targets)) * count
            seen += count
        return total / max(1, seen)

    with torch.no_grad():
        whole = measured()
        found = {}
        for name in names:
            with skipping(scored, [name]):
                found[name] = measured() - whole
    return found


def _passes(
    module: nn.Module, samples: int, context: Context
) -> Iterator[tuple[Mapping[str, Tensor], Mapping[str, Tensor], Tensors, int]]:
    """Outputs, inputs, targets and how many samples they are, for the first `samples` of the seed's order.

    In whole batches.
    """
    from optlang.workload.data.resident import to_device
    from optlang.workload.imports import user_code
    from optlang.workload.model.call import call

    seen = 0
    for inputs, targets in context.data.bind(module).batches("train", _BATCH, context.seed, shuffle=True):
        inputs, targets = to_device(inputs, targets, context.device)
        with user_code("the model's forward", context.study):
            outputs = call(module, inputs)
        count = len(next(iter(inputs.values())))
        yield outputs, inputs, targets, count
        seen += count
        if seen >= samples:
            return
