"""Moves part of the range of activations into weights, where a norm's scale can take it, with the same answers.

It knows normalizations, the linear layers and attention that take what they give, and no quantizer.

Source: Xiao et al., SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models, ICML 2023
(equation 4 and section 4.2); the default of alpha is theirs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, ModelState, Refusal
from optlang.techniques.graph.rewrite import close, proved_subset, runnable_copy
from optlang.techniques.quant.autograd_trace import origin, trace
from optlang.techniques.shared.parametrizations import with_edit
from optlang.techniques.shared.symmetry import answers
from optlang.workload.model.layers import own_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

# A norm's scale and the weights behind it, by the names of parameters.
_Group = tuple[str, tuple[str, ...]]

# What lies between may move numbers, and calculate with none of them.
_MOVING = re.compile(
    r"(View|UnsafeView|ReshapeAlias|Squeeze|Unsqueeze|Permute|Transpose|T|Clone|Select|Slice|Expand)Backward\d+"
)
_BATCH = 32
_TOLERANCE = 1e-4


def smooth(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Divide each channel of a norm's answers by s and multiply the weights behind by it.

    s = max|X|^alpha / max|W|^(1 - alpha) by input channel: X what the layer takes in `samples` of the calibration (else
    training) data, W the weights of all that take it (queries, keys and values together). The norm is a LayerNorm or
    RMSNorm with a scale of its own, and the layers linear ones or nn.MultiheadAttention; nothing else may take the
    norm's answers. In a Transformer with its norms last the residual takes them too: such a norm is left as it is.

    Notes: `smooth.norms`, how many; `smooth.left`, the names of the others; `smooth.spread`, the largest range of an
    input channel over the median one, the mean over the norms, before and after. Raises `Refusal` where no norm can
    take a scale, with what stands in the way.
    """
    state, module, example = runnable_copy(state, context, "smoothed")
    found, why, norms = _groups(module, example)
    groups = proved_subset(found, lambda chosen: _same(module, example, chosen))
    if not groups:
        why = [f"something else takes what {norm} gives: a residual or another layer" for norm, _ in found] + why
        raise Refusal(
            "no activations can be smoothed: " + ("; ".join(why[:4]) or "the model has no LayerNorm and no RMSNorm"),
            help="smooth takes Transformers with their norms first (norm_first = True)",
            depends="settings" if why else "model",
        )
    wanted = answers(module, example)
    peaks = _peaks(module, groups, int(settings["samples"]), context)
    scales = [_scale(module, group, peaks[group[0]], float(settings["alpha"])) for group in groups]
    for group, s in zip(groups, scales, strict=True):
        _move(module, group, s)
    if not close(answers(module, example), wanted, _TOLERANCE):
        raise Refusal(f"the smoothed model gives other answers: the ranges behind {groups[0][0]} are too far apart")
    smoothed = {norm for norm, _ in groups}
    notes: dict[str, JSON] = {
        "smooth.norms": len(groups), "smooth.left": [name for name in norms if name not in smoothed],
        "smooth.spread": [
            round(sum(_spread(peaks[norm] / s) for (norm, _), s in zip(groups, by, strict=True)) / len(groups), 3)
            for by in ([1.0] * len(groups), scales)
        ],
    }
    return with_edit(state, module, None, notes)


def _groups(module: nn.Module, example: Mapping[str, Tensor]) -> tuple[list[_Group], list[str], list[str]]:
    """The norms with the weights behind them; why there are not more; and all norms, by name."""
    from torch import nn

    kinds = (nn.LayerNorm, nn.RMSNorm)
    names = {layer: name for name, layer in module.named_modules()}
    found, own = trace(module, example, (*kinds, nn.Linear, nn.MultiheadAttention)), own_weights(module)
    behind: dict[nn.Module, list[str]] = {layer: [] for layer in names if isinstance(layer, kinds)}
    why: list[str] = []
    for layer, nodes in found.taken:
        if isinstance(layer, kinds) or not nodes:
            continue
        sources = {origin(node, found, _MOVING)[0] for node in nodes[: 3 if _attends(layer) else 1]}
        source = sources.pop()
        if source not in behind:
            continue
        if sources or (_attends(layer) and layer.in_proj_weight is None):
            why.append(f"{names[layer]} takes queries, keys and values that are not one")
        elif found.calls(layer) > 1 or not own(layer):
            why.append(f"the weights of {names[layer]} are used more than once")
        else:
            behind[source].append(f"{names[layer]}.{'in_proj_weight' if _attends(layer) else 'weight'}")
    groups: list[_Group] = []
    for norm, weights in behind.items():
        one: Any = norm
        if one.weight is None or len(one.normalized_shape) > 1:
            why.append(f"{names[norm]} has no scale for each channel")
        elif found.calls(norm) > 1 or not own(norm):
            why.append(f"{names[norm]} is used more than once")
        elif not weights:
            why.append(f"no linear layer and no attention takes what {names[norm]} gives, and nothing else")
        else:
            across = [name for name in weights if module.get_parameter(name).shape[1] != one.normalized_shape[0]]
            if across:
                taker = across[0].rpartition(".")[0]
                why.append(f"{taker} takes what {names[norm]} gives along another axis than its channels")
            else:
                groups.append((names[norm], tuple(weights)))
    return groups, why, [names[norm] for norm in behind]


def _attends(layer: nn.Module) -> Any:
    from torch import nn

    return isinstance(layer, nn.MultiheadAttention)


def _peaks(module: nn.Module, groups: Sequence[_Group], samples: int, context: Context) -> dict[str, Tensor]:
    """The largest absolute value of each channel of each norm's answers, over the calibration samples."""
    import torch

    from optlang.workload.data import ragged
    from optlang.workload.devices import placed
    from optlang.workload.export.tracing import plain_attention
    from optlang.workload.imports import user_code
    from optlang.workload.model.call import call

    data = context.data.bind(module)
    given = data.calibration(samples, context.seed)
    peaks: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def after(_: nn.Module, __: Any, answer: Tensor) -> None:
            most = answer.detach().abs().flatten(0, -2).amax(0)
            peaks[name] = torch.maximum(peaks[name], most) if name in peaks else most

        return module.get_submodule(name).register_forward_hook(after)

    hooks = [watch(norm) for norm, _ in groups]
    try:
        # The kernels of whole encoder layers pass their norms by.
        with torch.no_grad(), plain_attention(), user_code("the model's forward", context.study), placed(
            module, context.device
        ):
            for batch in ragged.batches(given, _BATCH):
                call(module, {name: torch.from_numpy(item).to(context.device) for name, item in batch.items()})
    finally:
        for hook in hooks:
            hook.remove()
    return {name: item.cpu() for name, item in peaks.items()}


def _scale(module: nn.Module, group: _Group, peaks: Tensor, alpha: float) -> Tensor:
    import torch

    held = [module.get_parameter(name).detach().abs().amax(0) for name in group[1]]
    weights = torch.stack(held).amax(0)
    # A channel that is 0 in the data or in the weights has no range to share.
    used = (peaks > 0) & (weights > 0)
    s = torch.where(used, peaks.double(), 1.0) ** alpha / torch.where(used, weights.double(), 1.0) ** (1 - alpha)
    return s.to(peaks.dtype)


def _move(module: nn.Module, group: _Group, s: Tensor) -> None:
    import torch

    norm: Any = module.get_submodule(group[0])
    with torch.no_grad():
        norm.weight.div_(s)
        if getattr(norm, "bias", None) is not None:
            norm.bias.div_(s)
        for name in group[1]:
            module.get_parameter(name).mul_(s)


def _same(module: nn.Module, example: Mapping[str, Tensor], groups: Sequence[_Group]) -> bool:
    """Whether channels of `groups` that are scaled at random leave the answers as they are."""
    import torch

    generator = torch.Generator().manual_seed(0)
    trial = copy.deepcopy(module)
    for group in groups:
        norm: Any = trial.get_submodule(group[0])
        _move(trial, group, torch.rand(norm.weight.shape, generator=generator) * 3 + 0.5)
    return close(answers(trial, example), answers(module, example), _TOLERANCE)


def _spread(ranges: Tensor) -> float:
    return float(ranges.max() / ranges.median().clamp(min=1e-12))
