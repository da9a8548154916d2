"""Rewrites what a module computes into less, with the same answers. Knows no training, no runtime and no export."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, Edit, ModelState, Refusal
from optlang.techniques.shared.baked import baked
from optlang.techniques.shared.failures import attempt

if TYPE_CHECKING:
    from torch import Tensor, nn

_FOLDED, _CLEANED, _LAID_OUT = (
    f"optlang.techniques.graph.fold:{name}" for name in ("replay_fold", "replay_clean", "replay_channels_last")
)
# Of the largest answer: multiplying the norm into the weights rounds in another order.
_TOLERANCE = 1e-4


def fold(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Multiply each BatchNorm into the convolution or linear layer before it (Jacob et al., CVPR 2018, section 3.2).

    Only where the norm takes that layer's answer as it is, and nothing else does. That is proved: with norms of random
    numbers the folded model must still give the same answers, since norms that are not trained yet would hide a
    mistake. Notes: `graph.folded`, how many. Raises `Refusal` where there is no such norm, with what stands in the way.
    """
    state = baked(state, context.data, context.study)
    module, example = start(state, context, "folded")
    pairs, why = _followed(module, example)
    pairs = proved(pairs, lambda chosen: _same_when_folded(module, example, chosen))
    if not pairs:
        raise Refusal(
            f"there is no BatchNorm to fold: {why}", help="a norm folds into the convolution or linear layer before it"
        )
    _fold(module, pairs)
    return _edited(state, module, _FOLDED, {"pairs": [list(pair) for pair in pairs]}, {"graph.folded": len(pairs)})


def replay_fold(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Fold the same norms of `module`, a fresh model."""
    _fold(module, [(layer, norm) for layer, norm in arguments["pairs"]])
    return module


def clean(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Take out the Dropout and Identity layers of the model's Sequentials: they do nothing when a model answers.

    The other layers keep their names. Notes: `graph.removed`, how many. Raises `Refusal` where there are none.
    """
    state = baked(state, context.data, context.study)
    module, example = start(state, context, "cleaned")
    found = _idle(module)
    names = proved(found, lambda chosen: _same_when_cleaned(module, example, chosen))
    if not names:
        raise Refusal(
            "there is no Dropout and no Identity to take out"
            + (f": the model's own code counts on {found[0]}" if found else " of a Sequential"),
            depends="settings" if found else "model",
        )
    _clean(module, names)
    return _edited(state, module, _CLEANED, {"names": list(names)}, {"graph.removed": len(names)})


def replay_clean(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Take the same layers out of `module`, a fresh model."""
    _clean(module, arguments["names"])
    return module


def channels_last(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Images and the weights of convolutions in memory by pixel, not by channel (torch.channels_last).

    The numbers are the same; which order is faster is the processor's to say, and only eager has an order. Raises
    `Refusal` where no layer is a two-dimensional convolution, or it is done already.
    """
    from torch import nn

    state = baked(state, context.data, context.study)
    module, _ = start(state, context, "laid out")
    if not any(isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) for layer in module.modules()):
        raise Refusal(
            "no layer is a two-dimensional convolution: the others have no order of channels and pixels",
            depends="model",
        )
    if any(edit.calls == _LAID_OUT for edit in state.edits):
        raise Refusal("the model is in channels_last already")
    replay_channels_last(module, {}, {})
    return _edited(state, module, _LAID_OUT, {}, {})


def replay_channels_last(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Lay the weights of `module` out in the same way, and each image that it is given."""
    import torch
    from torch import nn

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module.register_forward_pre_hook(_by_pixel, with_kwargs=True)
    return module


def _by_pixel(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
    import torch

    def laid(value: Any) -> Any:
        image = isinstance(value, torch.Tensor) and value.ndim == 4 and value.is_floating_point()
        return value.contiguous(memory_format=torch.channels_last) if image else value

    return tuple(laid(item) for item in given), {name: laid(item) for name, item in named.items()}


# ---- what they share


def start(state: ModelState, context: Context, done: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy of the module in eval mode that is known to run, and an example."""
    from optlang.techniques.cast.half import is_half
    from optlang.workload import imports

    if state.form != "module":
        raise Refusal(f"only a module can be {done}, and the model is in the form {state.form}")
    if is_half(state.model):
        raise Refusal(f"a model in 16 bits is not {done}", help="do it before the cast")
    module = copy.deepcopy(state.model).eval()
    example = context.data.bind(module).example(4)
    with imports.user_code("the model's forward", context.study):
        answers(module, example)
    return module, example


def _edited(
    state: ModelState, module: nn.Module, replay: str, arguments: Mapping[str, JSON], found: Mapping[str, JSON]
) -> ModelState:
    edits = (*state.edits, Edit(replay, arguments))
    return ModelState("module", module, state.factory, edits, {**state.notes, **found})


def answers(module: nn.Module, example: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch

    from optlang.workload.model.modules import call

    with torch.no_grad():
        return {name: item.clone() for name, item in call(module, example).items()}


def _same(module: nn.Module, wanted: Mapping[str, Tensor], example: Mapping[str, Tensor], tolerance: float) -> bool:
    """Whether a changed module still answers as is wanted; its own code may count on what was changed."""
    found = attempt(lambda: answers(module, example))
    return not isinstance(found, Exception) and close(found, wanted, tolerance)


def proved(found: Sequence[Any], same: Callable[[Sequence[Any]], bool]) -> list[Any]:
    """All of `found` where that gives the same answers, else those that do by themselves and together."""
    if not found or same(found):
        return list(found)
    kept: list[Any] = []
    for item in found:
        if same([*kept, item]):
            kept.append(item)
    return kept


def close(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float) -> bool:
    import torch

    return list(found) == list(wanted) and all(
        found[name].shape == item.shape
        and (
            torch.equal(found[name], item) if not tolerance or not item.is_floating_point()
            else bool((found[name] - item).abs().max() <= tolerance * item.abs().max().clamp(min=1e-6))
        )
        for name, item in wanted.items()
    )


def _replaced(module: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` in the place of the layer `name`, under every name that it has."""
    old = module.get_submodule(name)
    for parent in list(module.modules()):
        for key, child in parent._modules.items():
            if child is old:
                parent._modules[key] = new


# ---- norms


def _followed(module: nn.Module, example: Mapping[str, Tensor]) -> tuple[list[tuple[str, str]], str]:
    """Layers and the norms that are given just what they answer, unchanged; and what else there is, for messages."""
    from torch import nn
    from torch.nn.utils import parametrize

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    names = {layer: name for name, layer in module.named_modules()}
    owners: dict[int, int] = {}
    for layer in names:
        for parameter in layer.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
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
        elif parametrize.is_parametrized(source) or any(owners[id(item)] > 1 for item in source.parameters()):
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
        _replaced(module, after, nn.Identity())


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
    for given in (module, trial):
        folded = copy.deepcopy(given)
        _fold(folded, pairs)
        if not _same(folded, answers(given, example), example, _TOLERANCE):
            return False
    return True


# ---- layers that do nothing


def _idle(module: nn.Module) -> list[str]:
    from torch import nn

    idle = (nn.modules.dropout._DropoutNd, nn.Identity)
    found = []
    for name, parent in module.named_modules():
        if type(parent).forward is nn.Sequential.forward:
            for key, child in parent._modules.items():
                if isinstance(child, idle) and not child._forward_hooks and not child._forward_pre_hooks:
                    found.append(f"{name}.{key}" if name else key)
    return found


def _clean(module: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        parent, _, key = name.rpartition(".")
        del module.get_submodule(parent)._modules[key]


def _same_when_cleaned(module: nn.Module, example: Mapping[str, Tensor], names: Sequence[str]) -> bool:
    cleaned = copy.deepcopy(module)
    _clean(cleaned, names)
    return _same(cleaned, answers(module, example), example, 0.0)
