"""Sets single weights to zero: the least important ones, or two of every four. Knows no training and no channels.

The shapes stay what they were: size and speed change only where the file is compressed or the runtime is sparse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context, ModelState, Refusal
from optlang.techniques.prune.gradients import fisher, taylor
from optlang.techniques.prune.sparsity import chosen, module_copy, not_prunable, prunable, refuse_little, zeroed
from optlang.techniques.shared.baked import baked

if TYPE_CHECKING:
    from torch import Tensor, nn


def magnitude(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Zero the least important weights until `sparsity` of them are zero (Han et al., NeurIPS 2015).

    Of each weight tensor with `scope` "layer", of all of them together with "global"; `relative_to` "remaining" means a
    share of the weights that are not zero yet, so that rounds of p leave (1 - p), (1 - p)^2, … (Frankle and Carbin,
    ICLR 2019).
    `importance` is the absolute value ("l1"), chance ("random"), |weight times gradient| on training batches ("taylor":
    Molchanov et al., CVPR 2019) or the second-order "fisher" (see `gradients.fisher`). Weights of convolutions, linear,
    recurrent, attention and embedding layers are pruned, biases and norms never. Zeros that are there already count
    and stay. Weights that the model computes from other tensors (weight_norm) become plain ones first (see `baked`).

    Notes: `prune.sparsity`, the share of zeros in all weights of the model, as the metric `sparsity` counts it;
    `prune.sparsity_by_layer`; and `prune.left`, the weights that are in no such layer. Raises `Refusal` where nothing
    would become zero, where a layer would lose everything, or where less than half of what was asked is reached of
    the weights that `keep` and `only` leave open.
    """
    import torch

    state = baked(state, context.data, context.study)
    module = module_copy(state)
    layers = prunable(module)
    weights = chosen(module, layers, settings)
    scores = _scores(module, weights, settings, context)
    goal = float(settings["sparsity"])
    pools = [list(weights)] if settings["scope"] == "global" else [[name] for name in weights]
    added = asked = 0
    with torch.no_grad():
        for pool in pools:
            # What is zero already goes first, whatever the score says.
            ranked = torch.cat([scores[name].masked_fill(weights[name] == 0, -1.0).flatten() for name in pool])
            already = sum(int((weights[name] == 0).sum()) for name in pool)
            kept = already if settings["relative_to"] == "remaining" else 0
            wanted = kept + round(goal * (ranked.numel() - kept))
            asked += wanted
            if wanted <= already:
                continue
            mask = torch.zeros(ranked.numel(), dtype=torch.bool)
            mask[torch.topk(ranked, wanted, largest=False).indices] = True
            start = 0
            for name in pool:
                weight = weights[name]
                part = mask[start : start + weight.numel()].reshape(weight.shape)
                start += weight.numel()
                if bool(part.all()):
                    raise Refusal(
                        f"sparsity {goal:g} would leave {name} nothing but zeros",
                        help="scope = layer, a smaller sparsity, or the layer in keep",
                    )
                weight.masked_fill_(part, 0.0)
            added += wanted - already
    if not added:
        raise Refusal(
            f"no weight became zero: a sparsity of {goal:g} is there already, or is less than one weight of a layer",
            help="a larger sparsity",
        )
    reached = sum(int((item == 0).sum()) for item in weights.values())
    left = not_prunable(module, layers, settings)
    size = sum(item.numel() for item in weights.values())
    refuse_little(
        asked / size, reached / (size + sum(left.values())), left,
        "magnitude prunes convolutions, linear, recurrent, attention and embedding layers alone",
    )
    return zeroed(state, module, layers, weights, left)


def _scores(
    module: nn.Module, weights: Mapping[str, Any], settings: Mapping[str, Any], context: Context
) -> dict[str, Tensor]:
    import torch

    if settings["importance"] == "random":
        generator = torch.Generator().manual_seed(context.seed)
        return {name: torch.rand(item.shape, generator=generator) for name, item in weights.items()}
    if settings["importance"] in ("taylor", "fisher"):
        score = taylor if settings["importance"] == "taylor" else fisher
        return score(module, weights, int(settings["samples"]), context)
    return {name: item.detach().abs() for name, item in weights.items()}
