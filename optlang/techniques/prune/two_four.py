"""Sets two of every four consecutive inputs to zero: NVIDIA's 2:4 pattern."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from optlang.interfaces import Context, ModelState, Refusal
from optlang.techniques.prune.sparsity import chosen, not_prunable, prunable, refuse_little, zeroed
from optlang.techniques.shared.parametrizations import as_module


def two_four(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Zero the two smallest of every four consecutive inputs of an output (Mishra et al., 2021, NVIDIA's 2:4).

    Inputs are the columns of a linear or recurrent layer's matrices and the input channels of a convolution at each
    place of its kernel. Layers whose inputs are no multiple of four are left as they are and listed in the note
    `prune.two_four_left`; the other notes are those of `magnitude`. Raises `Refusal` where no layer is left, or where
    these have less than half of the weights that `keep` and `only` leave open, embeddings aside.
    """
    import torch
    from torch import nn

    state = as_module(state, "have weights made zero", context)
    module: nn.Module = copy.deepcopy(state.model).eval()
    layers = {name: item for name, item in prunable(module).items() if not isinstance(item[1], nn.Embedding)}
    weights = chosen(module, layers, settings)
    left: list[str] = []
    changed = 0
    with torch.no_grad():
        for name in list(weights):
            layer, weight = layers[name][1], weights[name]
            # A transposed convolution has its inputs on the first axis, in groups as they come.
            turned = isinstance(layer, nn.modules.conv._ConvTransposeNd)
            axis = 0 if turned else 1
            inputs = weight.shape[axis] // (layer.groups if turned else 1)
            if inputs % 4:
                left.append(name)
                del weights[name]
                continue
            fours = weight.movedim(axis, -1)
            shape = fours.shape
            fours = fours.reshape(-1, 4)
            mask = torch.zeros_like(fours, dtype=torch.bool)
            mask.scatter_(1, fours.abs().topk(2, dim=1, largest=False).indices, True)
            mask = mask.reshape(shape).movedim(-1, axis)
            changed += int((mask & (weight != 0)).sum())
            weight.masked_fill_(mask, 0.0)
    if not weights:
        raise Refusal(
            f"no layer has a multiple of four inputs: {', '.join(left[:5])}",
            help="widths that are multiples of four, or fewer layers in keep",
        )
    if not changed:
        raise Refusal("no weight became zero: two of every four are zero already")
    others = not_prunable(module, prunable(module), settings)
    parameters = dict(module.named_parameters())
    size = sum(item.numel() for item in weights.values())
    sizes = others | {name: parameters[name].numel() for name in left}
    refuse_little(
        0.5, 0.5 * size / (size + sum(sizes.values())), sizes,
        "two_four prunes convolutions, linear, recurrent and attention layers with a multiple of four inputs alone",
    )
    result = zeroed(state, module, layers, weights, others)
    return ModelState(
        "module", result.model, result.factory, result.edits, {**result.notes, "prune.two_four_left": left}
    )
