"""Sets single weights to zero: the least important ones, or two of every four.

The shapes stay what they were: size and speed change only where the file is compressed or the runtime is sparse.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context, ModelState, Refusal
from optlang.techniques.prune.gradients import fisher, taylor
from optlang.techniques.prune.sparsity import chosen, not_prunable, prunable, refuse_little, zeroed
from optlang.techniques.shared.parametrizations import as_module

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
    and stay. Weights that the model computes from other tensors (weight_norm) become plain ones first.

    Notes: `prune.sparsity`, the share of zeros in all weights of the model, as the metric `sparsity` counts it;
    `prune.sparsity_by_layer`; and `prune.left`, the weights that are in no such layer. Raises `Refusal` where nothing
    would become zero, where a layer would lose everything, or where less than half of what was asked is reached of
    the weights that `keep` and `only` leave open.
    """
    import torch

    state = as_module(state, "have weights made zero", context)
    module: nn.Module = copy.deepcopy(state.model).eval()
    layers = prunable(module)
    weights = chosen(module, layers, settings)
    scores = _scores(module, weights, settings, context)
    goal = float(settings["sparsity"])
    pools = [list(weights)] if settings["scope"] == "global" else [[name] for name in weights]
    with torch.no_grad():
        counts = [
            _zero_least({name: weights[name] for name in pool}, scores, goal, settings["relative_to"]) for pool in pools
        ]
    asked = sum(wanted for wanted, _ in counts)
    if not sum(added for _, added in counts):
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


def _zero_least(pool: Mapping[str, Tensor], scores: Mapping[str, Tensor], goal: float, of: str) -> tuple[int, int]:
    """Zero the least of the weights in `pool` in place; how many zeros were asked for, and how many are new."""
    import torch

    # What is zero already goes first, whatever the score says.
    ranked = torch.cat([scores[name].masked_fill(weight == 0, -1.0).flatten() for name, weight in pool.items()])
    already = sum(int((weight == 0).sum()) for weight in pool.values())
    kept = already if of == "remaining" else 0
    wanted = kept + round(goal * (ranked.numel() - kept))
    if wanted <= already:
        return wanted, 0
    mask = torch.zeros(ranked.numel(), dtype=torch.bool)
    mask[torch.topk(ranked, wanted, largest=False).indices] = True
    parts = torch.split(mask, [weight.numel() for weight in pool.values()])
    for (name, weight), part in zip(pool.items(), parts, strict=True):
        if bool(part.all()):
            raise Refusal(
                f"sparsity {goal:g} would leave {name} nothing but zeros",
                help="scope = layer, a smaller sparsity, or the layer in keep",
            )
        weight.masked_fill_(part.reshape(weight.shape), 0.0)
    return wanted, wanted - already


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
