"""Folds BatchNorm layers into the convolution or linear layer before them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context, Edit, ModelState, Refusal
from optlang.techniques.graph.rewrite import proved_subset, runnable_copy, same_answers
from optlang.techniques.shared.parametrizations import with_edit
from optlang.techniques.shared.symmetry import answers
from optlang.workload.failures import attempt
from optlang.workload.model.layers import own_weights, replaced

if TYPE_CHECKING:
    from torch import Tensor, nn

_REPLAY = "optlang.techniques.graph.fold:replay"
# Of the largest answer: multiplying the norm into the weights rounds in another order. Norms of random numbers may make
# much of that, so it is asked in float64 first.
_TOLERANCE, _WIDE = 1e-4, 1e-6


def fold(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Multiply each BatchNorm into the convolution or linear layer before it (Jacob et al., CVPR 2018, section 3.2).

    Only where the norm takes that layer's answer as it is, and nothing else does; an activation that is part of the
    norm stays. That is proved: with norms of random numbers the folded model must still give the same answers, since
    norms that are not trained yet would hide a mistake. Notes: `graph.folded`, how many. Raises `Refusal` where there
    is no such norm, with what stands in the way.
    """
    state, module, example = runnable_copy(state, context, "folded")
    pairs, why = followed(module, example)
    pairs = proved_subset(pairs, lambda chosen: _same_when_folded(module, example, chosen))
    if not pairs:
        raise Refusal(
            f"there is no BatchNorm to fold: {why}", help="a norm folds into the convolution or linear layer before it"
        )
    _fold(module, pairs)
    edit = Edit(_REPLAY, {"pairs": [list(pair) for pair in pairs]})
    return with_edit(state, module, edit, {"graph.folded": len(pairs)})


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Fold the same norms of `module`, a fresh model."""
    _fold(module, [(layer, norm) for layer, norm in arguments["pairs"]])
    return module


def followed(module: nn.Module, example: Mapping[str, Tensor]) -> tuple[list[tuple[str, str]], str]:
    """Layers and the norms that are given just what they answer, unchanged; and what else there is, for messages."""
    from torch import nn

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    names = {layer: name for name, layer in module.named_modules()}
    own = own_weights(module)
    answered: dict[int, tuple[nn.Module, Any, int]] = {}
    calls: dict[nn.Module, int] = {}
    follows: dict[nn.Module, nn.Module] = {}

    def before(layer: nn.Module, given: tuple[Any, ...]) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        known = answered.get(id(given[0])) if given else None
        # An activation in place gives the same tensor, a version later.
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and known is not None and known[2] == known[1]._version:
            follows[layer] = known[0]

    def after(layer: nn.Module, _: Any, answer: Any) -> None:
        answered[id(answer)] = (layer, answer, answer._version)

    hooks = [layer.register_forward_pre_hook(before) for layer in names]
    hooks += [layer.register_forward_hook(after) for layer in names if isinstance(layer, kinds)]
    try:
        answers(module, example)
    finally:
        for hook in hooks:
            hook.remove()
    norms = [layer for layer in names if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    pairs, why = [], "the model has none"
    for norm in norms:
        source = follows.get(norm)
        if source is None:
            why = f"{names[norm]} does not follow a convolution or linear layer at once"
        elif norm.running_mean is None:
            why = f"{names[norm]} has no running statistics"
        elif calls[norm] > 1 or calls[source] > 1:
            why = f"{names[norm]} or {names[source]} is called more than once"
        elif not own(source):
            why = f"the weights of {names[source]} are not its own"
        else:
            pairs.append((names[source], names[norm]))
            why = f"something else takes what {names[source]} gives"
    return pairs, why


def _fold(module: nn.Module, pairs: Sequence[tuple[str, str]]) -> None:
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

    for name, after in pairs:
        layer: Any = module.get_submodule(name)
        norm: Any = module.get_submodule(after)
        scale = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight
        shift = torch.zeros_like(norm.running_var) if norm.bias is None else norm.bias
        moments = (norm.running_mean, norm.running_var, norm.eps, scale, shift)
        grows = layer.weight.requires_grad
        if isinstance(layer, nn.Linear):
            weight, bias = fuse_linear_bn_weights(layer.weight, layer.bias, *moments)
        else:
            weight, bias = fuse_conv_bn_weights(
                layer.weight, layer.bias, *moments, transpose=isinstance(layer, nn.modules.conv._ConvTransposeNd)
            )
        layer.weight, layer.bias = weight.requires_grad_(grows), bias.requires_grad_(grows)
        replaced(module, after, _rest(norm))


def _rest(norm: nn.Module) -> nn.Module:
    """What a norm does after it: timm's have an activation within. Whether that is all, the proof says."""
    from torch import nn

    within = {name: layer for name, layer in norm.named_children() if not isinstance(layer, nn.Identity)}
    return nn.Sequential(OrderedDict(within)).train(norm.training) if within else nn.Identity()


def _same_when_folded(module: nn.Module, example: Mapping[str, Tensor], pairs: Sequence[tuple[str, str]]) -> bool:
    import torch

    generator = torch.Generator().manual_seed(0)
    trial = copy.deepcopy(module)
    for _, name in pairs:
        norm: Any = trial.get_submodule(name)
        with torch.no_grad():
            for item in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                if item is not None:
                    item.copy_(torch.rand(item.shape, generator=generator) + 0.5)
    wide = _doubled(example)
    return all(
        _same(copy.deepcopy(given).double(), wide, pairs, _WIDE) or _same(given, example, pairs, _TOLERANCE)
        for given in (module, trial)
    )


def _same(module: nn.Module, example: Mapping[str, Tensor], pairs: Sequence[tuple[str, str]], tolerance: float) -> bool:
    wanted = attempt(lambda: answers(module, example))
    if isinstance(wanted, Exception):  # its own code may make constants in float32
        return False
    folded = copy.deepcopy(module)
    _fold(folded, pairs)
    return same_answers(folded, wanted, example, tolerance)


def _doubled(example: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: item.double() if item.is_floating_point() else item for name, item in example.items()}
