"""Brings the weight ranges of consecutive layers nearer to each other, channel by channel, with the same answers.

It knows layers of a module and what lies between them, and no quantizer.

Source: Nagel et al., Data-Free Quantization through Weight Equalization and Bias Correction, ICCV 2019 (sections 4.1
and A).
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, ModelState, Refusal
from optlang.techniques.graph.fold import fold
from optlang.techniques.graph.rewrite import close, proved_subset, runnable_copy
from optlang.techniques.quant.autograd_trace import origin, trace
from optlang.techniques.shared.parametrizations import with_edit
from optlang.techniques.shared.symmetry import answers
from optlang.workload.failures import attempt
from optlang.workload.model.layers import own_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

# Nodes of autograd's graph for what maps each channel by itself and gives s f(x) for s x, s > 0. Permutations of
# channels are among them; the proof finds those out.
_HOMOGENEOUS = re.compile(
    r"(Relu|LeakyRelu|(Adaptive)?(Max|Avg)Pool\dD(WithIndices)?|MaxPool\dDWithIndices|Mean|View|UnsafeView|ReshapeAlias"
    r"|Squeeze|Unsqueeze|Permute|Transpose|T|Clone|Expand|UpsampleNearest\dD|Upsample(Bilinear|Linear)\dD)Backward\d+"
)
# Rounds over all pairs; a channel counts as equalized when a round changes it by less than this (of its logarithm).
_ROUNDS, _SETTLED = 100, 1e-3
_TOLERANCE = 1e-4


def equalize(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Scale each channel between two layers so that its weights have one range in both: cross-layer equalization.

    A pair is a convolution or linear layer (grouped, depthwise and transposed too) whose answers reach the next one
    through nothing but ReLU or LeakyReLU, pooling and reshaping. Batch normalizations that fold are folded first. With
    r1 and r2 the largest absolute weight of a channel in the first and in the second layer, the first one's weights and
    bias are divided by s = sqrt(r1 / r2) and the second one's are multiplied by it, over all pairs in turn until
    nothing changes. Quantizers with one scale a weight gain by that.

    Notes: `equalize.pairs`, how many; `equalize.spread`, the largest range of a channel over the median one, the mean
    over the pairs' layers, before and after. Raises `Refusal` where there is no such pair, with what stands in the
    way, or the ranges are equal already.
    """
    # A norm that stays ends the pairs that it stands in; a form that cannot be folded is refused below.
    with contextlib.suppress(Refusal):
        state = fold(state, {}, context)
    state, module, example = runnable_copy(state, context, "equalized")
    found, why = _pairs(module, example)
    pairs = proved_subset(found, lambda chosen: _same(module, example, chosen))
    if not pairs:
        why += [f"something else takes what {first} gives" for first, _ in found]
        raise Refusal(
            "no two layers can be equalized: " + ("; ".join(why[-4:]) or "the model has none in a row"),
            help="equalize takes pairs of convolutions or linear layers with a ReLU or nothing between them",
        )
    wanted = answers(module, example)
    before = _spread(module, pairs)
    if not _equalize(module, pairs):
        raise Refusal(f"the channels of {pairs[0][0]} and of all other layers in pairs have equal ranges already")
    if not close(answers(module, example), wanted, _TOLERANCE):
        raise Refusal(f"the equalized model gives other answers: the ranges of {pairs[0][0]} are too far apart")
    notes: dict[str, JSON] = {
        "equalize.pairs": len(pairs),
        "equalize.spread": [round(before, 3), round(_spread(module, pairs), 3)],
    }
    return with_edit(state, module, None, notes)


# ---- pairs


def _pairs(module: nn.Module, example: Mapping[str, Tensor]) -> tuple[list[tuple[str, str]], list[str]]:
    """Layers that a homogeneous path joins, in the order of the forward; and why there are not more, for messages."""
    from torch import nn

    names = {layer: name for name, layer in module.named_modules()}
    found, own = trace(module, example, (nn.modules.conv._ConvNd, nn.Linear)), own_weights(module)
    pairs: list[tuple[str, str]] = []
    why: list[str] = []
    for layer, nodes in found.taken:
        source, barrier = origin(nodes[0] if nodes else None, found, _HOMOGENEOUS)
        if source is None:
            why.append(f"{barrier} is before {names[layer]}")
        elif found.calls(layer) > 1 or found.calls(source) > 1:
            why.append(f"{names[layer]} or {names[source]} is called more than once")
        elif not own(layer) or not own(source):
            why.append(f"the weights of {names[layer]} or {names[source]} are not its own")
        elif _inputs(layer) % _outputs(source) or (_inputs(layer) != _outputs(source) and not _flat(layer)):
            why.append(f"{names[layer]} mixes the channels of {names[source]}")
        else:
            pairs.append((names[source], names[layer]))
    return pairs, why


def _same(module: nn.Module, example: Mapping[str, Tensor], pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether channels of `pairs` that are scaled at random leave the answers as they are."""
    import torch

    generator = torch.Generator().manual_seed(0)
    trial = copy.deepcopy(module)
    with torch.no_grad():
        for name, _ in pairs:  # a channel that a ReLU shuts would hide a mistake
            bias: Any = trial.get_submodule(name).bias
            if bias is not None:
                bias.add_(torch.rand(bias.shape, generator=generator) + 0.5)
    wanted = answers(trial, example)
    for first, second in pairs:
        one, other = trial.get_submodule(first), trial.get_submodule(second)
        _scale(one, other, torch.rand(_outputs(one), generator=generator) * 3 + 0.5)
    found = attempt(lambda: answers(trial, example))  # the model's own code may count on the weights
    return not isinstance(found, Exception) and close(found, wanted, _TOLERANCE)


# ---- ranges


def _equalize(module: nn.Module, pairs: Sequence[tuple[str, str]]) -> bool:
    """Equalize the pairs in turn until nothing changes; False where nothing did."""
    import torch

    changed = False
    for _ in range(_ROUNDS):
        most = 0.0
        for first, second in pairs:
            one, other = module.get_submodule(first), module.get_submodule(second)
            r1 = _ranges(one, outputs=True)
            r2 = _ranges(other, outputs=False).reshape(len(r1), -1).amax(1)
            # A channel without weights on one side has no range to share.
            s = torch.where((r1 > 0) & (r2 > 0), torch.sqrt(r1.double() / r2.double()), 1.0)
            s = torch.where(torch.isfinite(s) & (s > 0), s, 1.0)
            most = max(most, float(s.log().abs().max()))
            _scale(one, other, s.to(r1.dtype))
        if most < _SETTLED:
            break
        changed = True
    return changed


def _scale(first: nn.Module, second: nn.Module, s: Tensor) -> None:
    """Divide the output channels of `first` by `s`, and multiply the input channels of `second` by it."""
    import torch

    with torch.no_grad():
        for layer, factor in ((first, 1 / s), (second, s.repeat_interleave(_inputs(second) // len(s)))):
            weight: Any = layer.weight
            weight.mul_(_along(layer, factor, outputs=layer is first))
        bias: Any = first.bias
        if bias is not None:
            bias.div_(s)


def _spread(module: nn.Module, pairs: Sequence[tuple[str, str]]) -> float:
    ranges = [
        _ranges(module.get_submodule(name), outputs=outputs) for pair in pairs
        for name, outputs in zip(pair, (True, False), strict=True)
    ]
    return sum(float(item.max() / item.median().clamp(min=1e-12)) for item in ranges) / len(ranges)


def _flat(layer: nn.Module) -> bool:
    """Whether the layer takes flattened images: several inputs a channel."""
    from torch import nn

    return isinstance(layer, nn.Linear)


def _outputs(layer: Any) -> int:
    return int(layer.out_features if _flat(layer) else layer.out_channels)


def _inputs(layer: Any) -> int:
    return int(layer.in_features if _flat(layer) else layer.in_channels)


def _on_first_axis(layer: nn.Module, outputs: bool) -> bool:
    """Whether the weight's first axis is that of the channels; the second one is theirs within a group."""
    from torch import nn

    return outputs != isinstance(layer, nn.modules.conv._ConvTransposeNd)


def _ranges(layer: Any, *, outputs: bool) -> Tensor:
    """The largest absolute weight of each output or input channel."""
    weight: Tensor = layer.weight.detach().abs().reshape(*layer.weight.shape[:2], -1)
    if _on_first_axis(layer, outputs):
        return weight.flatten(1).amax(1)
    groups, channels = getattr(layer, "groups", 1), weight.shape[1]
    return weight.reshape(groups, -1, channels, weight.shape[2]).amax((1, 3)).flatten()


def _along(layer: Any, factor: Tensor, *, outputs: bool) -> Tensor:
    """A factor of each output or input channel, in a shape that multiplies the weight."""
    if _on_first_axis(layer, outputs):
        laid = factor[:, None]
    else:
        groups = getattr(layer, "groups", 1)
        laid = factor.reshape(groups, 1, -1).expand(-1, len(layer.weight) // groups, -1).flatten(0, 1)
    return laid.reshape(*laid.shape, *[1] * (layer.weight.ndim - 2))
