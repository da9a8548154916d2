"""Sets single weights to zero: the least important ones, or two of every four. Knows no training and no channels.

The shapes stay what they were: size and speed change only where the file is compressed or the runtime is sparse.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, ModelState, Refusal
from optlang.techniques.prune.gradients import fisher, taylor
from optlang.techniques.shared.baked import baked
from optlang.techniques.shared.masks import noted
from optlang.workload.model.layers import left_alone
from optlang.workload.model.layers import weights as weights_of

if TYPE_CHECKING:
    from torch import Tensor, nn

# A step that reaches less than this share of what it was asked for has failed.
_FAR = 0.5


def magnitude(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Zero the least important weights until `sparsity` of them are zero (Han et al., NeurIPS 2015).

    Of each weight tensor with `scope` "layer", of all of them together with "global"; `of` "left" means a share of the
    weights that are not zero yet, so that rounds of p leave (1 - p), (1 - p)^2, … (Frankle and Carbin, ICLR 2019).
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
    module = _copy(state)
    layers = _weights(module)
    weights = _open(module, layers, settings)
    scores = _scores(module, weights, settings, context)
    goal = float(settings["sparsity"])
    pools = [list(weights)] if settings["scope"] == "global" else [[name] for name in weights]
    added = asked = 0
    with torch.no_grad():
        for pool in pools:
            # What is zero already goes first, whatever the score says.
            ranked = torch.cat([scores[name].masked_fill(weights[name] == 0, -1.0).flatten() for name in pool])
            already = sum(int((weights[name] == 0).sum()) for name in pool)
            kept = already if settings["of"] == "left" else 0
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
    left = _others(module, layers, settings)
    size = sum(item.numel() for item in weights.values())
    _far(
        asked / size, reached / (size + sum(left.values())), left,
        "magnitude prunes convolutions, linear, recurrent, attention and embedding layers alone",
    )
    return _result(state, module, layers, weights, left)


def two_four(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Zero the two smallest of every four consecutive inputs of an output (Mishra et al., 2021, NVIDIA's 2:4).

    Inputs are the columns of a linear or recurrent layer's matrices and the input channels of a convolution at each
    place of its kernel. Layers whose inputs are no multiple of four are left as they are and listed in the note
    `prune.two_four_left`; the other notes are those of `magnitude`. Raises `Refusal` where no layer is left, or where
    these have less than half of the weights that `keep` and `only` leave open, embeddings aside.
    """
    import torch
    from torch import nn

    state = baked(state, context.data, context.study)
    module = _copy(state)
    layers = {name: item for name, item in _weights(module).items() if not isinstance(item[1], nn.Embedding)}
    weights = _open(module, layers, settings)
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
    others = _others(module, _weights(module), settings)
    parameters = dict(module.named_parameters())
    size = sum(item.numel() for item in weights.values())
    sizes = others | {name: parameters[name].numel() for name in left}
    _far(
        0.5, 0.5 * size / (size + sum(sizes.values())), sizes,
        "two_four prunes convolutions, linear, recurrent and attention layers with a multiple of four inputs alone",
    )
    result = _result(state, module, layers, weights, others)
    return ModelState(
        "module", result.model, result.factory, result.edits, {**result.notes, "prune.two_four_left": left}
    )


def _copy(state: ModelState) -> nn.Module:
    if state.form != "module":
        raise Refusal(f"only a module's weights can be made zero, and the model is in the form {state.form}")
    module: nn.Module = copy.deepcopy(state.model).eval()
    return module


def _weights(module: nn.Module) -> dict[str, tuple[list[str], Any]]:
    """The prunable weights by their names as parameters: the layers that hold each (a tied one has several)."""
    from torch import nn

    kinds = (
        nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase,
        nn.MultiheadAttention,
    )
    names = {id(item): name for name, item in module.named_parameters()}
    found: dict[str, tuple[list[str], Any]] = {}
    for layer_name, layer in module.named_modules():
        if not isinstance(layer, kinds):
            continue
        for own, item in layer.named_parameters(recurse=False):
            if item.ndim > 1 and not own.startswith("bias"):
                found.setdefault(names[id(item)], ([], layer))[0].append(layer_name)
    return found


def _open(
    module: nn.Module, layers: Mapping[str, tuple[list[str], Any]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The weights that `keep` and `only` leave open."""
    alone = left_alone(settings["keep"], settings["only"], [name for name, _ in module.named_modules()])
    parameters = dict(module.named_parameters())
    weights = {name: parameters[name] for name, (holders, _) in layers.items() if not alone.intersection(holders)}
    if not weights:
        raise Refusal(
            "no layer is left to prune",
            help="convolutions, linear, recurrent, attention and embedding layers can be; shorten keep, or widen only",
        )
    return weights


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


def _others(
    module: nn.Module, layers: Mapping[str, tuple[list[str], Any]], settings: Mapping[str, Any]
) -> dict[str, int]:
    """The weights in layers of other kinds, norms aside, that `keep` and `only` leave open: their sizes by name."""
    from torch import nn

    norms = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
    alone = left_alone(settings["keep"], settings["only"], [name for name, _ in module.named_modules()])
    found = {}
    for name, item in weights_of(module).items():
        holder = name.rpartition(".")[0]
        apart = holder in alone or (not holder and bool(settings["only"]))
        if name not in layers and not apart and not isinstance(module.get_submodule(holder), norms):
            found[name] = item.numel()
    return found


def _far(asked: float, reached: float, left: Mapping[str, int], why: str) -> None:
    """Refuse where zeros are less than half of what was asked: because of `left`, weights by name with their sizes."""
    if reached >= _FAR * asked:
        return
    largest = sorted(left, key=lambda name: -left[name])
    names = ", ".join(f"{name} ({left[name]} weights)" for name in largest[:4]) + (", …" if len(left) > 4 else "")
    raise Refusal(
        f"a sparsity of {asked:.3g} was asked for and {reached:.3g} reached: {names} are not pruned, since {why}",
        help="only = [\"LAYER\", …] with the layers that can be pruned asks it of these alone",
    )


def _result(
    state: ModelState, module: nn.Module, layers: Mapping[str, tuple[list[str], Any]], changed: Mapping[str, Any],
    left: Mapping[str, int],
) -> ModelState:
    notes = {**noted(state, list(changed)), **_zeros(module, layers)}
    if left:
        notes["prune.left"] = sorted(left)
    return ModelState("module", module, state.factory, state.edits, notes)


def _zeros(module: nn.Module, layers: Mapping[str, tuple[list[str], Any]]) -> dict[str, JSON]:
    parameters = dict(module.named_parameters())
    all_weights = weights_of(module).values()
    share = sum(int((item == 0).sum()) for item in all_weights) / sum(item.numel() for item in all_weights)
    zeros: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for name, (holders, _) in layers.items():
        weight = parameters[name]
        zeros[holders[0]] = zeros.get(holders[0], 0) + int((weight == 0).sum())
        sizes[holders[0]] = sizes.get(holders[0], 0) + weight.numel()
    by_layer: dict[str, JSON] = {name: zeros[name] / sizes[name] for name in zeros}
    return {"prune.sparsity": share, "prune.sparsity_by_layer": by_layer}


def recounted(notes: Mapping[str, JSON], module: nn.Module) -> dict[str, JSON]:
    """The notes of zeros as they are in `module`, which a later step has cut; none where no step has noted any."""
    return _zeros(module, _weights(module)) if "prune.sparsity" in notes else {}
