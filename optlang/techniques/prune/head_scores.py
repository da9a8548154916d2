"""Scores of attention heads."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context
from optlang.techniques.prune.gradients import after_each
from optlang.techniques.prune.head_layers import Found, torch_layers, without_nested_batches
from optlang.workload.model.layers import replaced

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.techniques.prune.attention import Attention, NarrowAttention
    from optlang.techniques.prune.head_sites import Site


def scores(module: nn.Module, found: Found, settings: Mapping[str, Any], context: Context) -> dict[str, Tensor]:
    """The importance of each head, or group of heads, by layer."""
    import torch

    if settings["importance"] == "random":
        generator = torch.Generator().manual_seed(context.seed)
        return {
            name: torch.rand(found.groups(name), generator=generator) for name in [*found.own, *found.sites]
        }
    if settings["importance"] == "taylor":
        samples = int(settings["samples"])
        return (_taylor(module, list(found.own), samples, context) if found.own else {}) | (
            _gates(module, found.sites, samples, context) if found.sites else {}
        )
    weights = dict(module.named_parameters())
    return {name: _norms(layer) for name, layer in found.own.items()} | {
        name: site.scores(weights) / math.sqrt(len(site.layers)) for name, site in found.sites.items()
    }


def _gates(module: nn.Module, sites: Mapping[str, Site], samples: int, context: Context) -> dict[str, Tensor]:
    """As `_taylor`, for attention of any kind: sample by sample.

    A gate on a head's answer is one on its columns in the projection behind: the derivative at 1 is the sum over them
    of weight times gradient.
    """
    import torch

    scored = copy.deepcopy(module).eval()
    weights = dict(scored.named_parameters())
    sums = {name: torch.zeros(len(site.groups)) for name, site in sites.items()}
    seen = 0

    def add(count: int) -> None:
        nonlocal seen
        seen += count
        for name, site in sites.items():
            gate = torch.zeros(len(site.groups))
            for weight in site.answers & set(site.parts):
                part, item = site.parts[weight], weights[weight]
                if item.grad is None:
                    continue
                along = (item.detach() * item.grad).cpu().movedim(part.axis, 0).flatten(1).sum(1)
                gate += torch.stack([along[site.indices(part, [index])].sum() for index in range(len(gate))])
            sums[name] += gate.abs() * count

    after_each(scored, samples, context, add, one_by_one=True)
    return {name: total / seen / len(sites[name].layers) for name, total in sums.items()}


def _norms(layer: Attention) -> Tensor:
    """The norm of a head's weights: its rows of the three projections, its columns of the one behind."""
    import torch

    from optlang.techniques.prune.attention import projections

    parts = [weight.detach() for weight, _ in projections(layer)] + [layer.out_proj.weight.detach().T]
    return torch.stack([part.float().square().reshape(layer.num_heads, -1).sum(1) for part in parts]).sum(0).sqrt()


def _taylor(module: nn.Module, names: Sequence[str], samples: int, context: Context) -> dict[str, Tensor]:
    """|derivative of the loss by a gate on each head's answer|, the mean over training samples.

    The derivative of a gate at 1 is the sum over places and width of answer times gradient: all of it lies at the input
    of the output projection, (N, L, heads * width).
    """
    import torch

    from optlang.techniques.prune.attention import NarrowAttention, narrowed

    whole = {name: list(range(layer.num_heads)) for name, layer in torch_layers(module).items() if name in names}
    scored: nn.Module = copy.deepcopy(module).eval()
    for name, chosen in whole.items():
        scored = replaced(scored, name, narrowed(torch_layers(scored)[name], chosen))
    without_nested_batches(scored)
    answers: dict[str, list[Tensor]] = {name: [] for name in names}

    def watch(name: str, layer: NarrowAttention) -> None:
        def see(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            if given[0].requires_grad:
                given[0].retain_grad()
                answers[name].append(given[0])

        layer.out_proj.register_forward_pre_hook(see)

    for name in names:
        layer = scored.get_submodule(name)
        assert isinstance(layer, NarrowAttention)
        watch(name, layer)
    sums = {name: torch.zeros(len(chosen)) for name, chosen in whole.items()}
    seen = 0

    def add(count: int) -> None:
        nonlocal seen
        for name, found in answers.items():
            gates = [
                (item.detach() * item.grad).reshape(*item.shape[:2], len(whole[name]), -1).sum((1, 3))
                for item in found if item.grad is not None
            ]
            # The loss is a mean: of one sample's it holds a share.
            if gates:
                sums[name] += (sum(gates[1:], gates[0]).abs().sum(0) * count).cpu()
            found.clear()
        seen += count

    after_each(scored, samples, context, add)
    return {name: total / seen for name, total in sums.items()}
