"""A module that is trained with its weights and its layers' inputs rounded; it knows neither graphs nor files.

Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
(CVPR 2018). That ranges and norms stay in the end is the way of torchvision's reference training.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from optlang.interfaces import Context, ModelState, QuantWants, Refusal
from optlang.techniques.graph.fold import followed
from optlang.techniques.shared.labels import apart
from optlang.techniques.shared.masks import ZeroMasks, masked
from optlang.techniques.training.trainer import fit

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.techniques.quant.fake_quantize import Input
    from optlang.workload.data.dataset import Dataset
    from optlang.workload.data.tensors import Tensors

Range: TypeAlias = "tuple[float, float]"
"""The least and the greatest value of a tensor."""

# What the loop knows besides, and a training in int8 does without: averaged weights have no rounding of their own.
_WITHOUT = {"amp": "none", "warmup": 0.0, "ema": 0.0, "clip": 0.0, "patience": 0}


def attach(
    module: nn.Module, data: Dataset, layers: Mapping[str, Range | None], norms: Collection[str], wants: QuantWants,
    *, moving: bool, transposed: bool, device: str,
) -> tuple[list[tuple[str, str]], dict[str, Input]]:
    """Round the weights and inputs of `layers` from now on: (layer, attribute) of each weight, and the hooks by layer.

    `layers` are names with the range that what they take has at first (None: it is not rounded), which follows the
    batches where it is `moving`. `norms` are those that are not folded into the layer before them. `transposed` says
    that weights of transposed convolutions have a scale for each channel too.
    """
    from torch import nn
    from torch.nn.utils import parametrize

    from optlang.techniques.quant.fake_quantize import Input, Weight

    example = {name: item.to(device) for name, item in data.example(2).items()}
    norm_of = dict(followed(module.eval(), example)[0])
    known = dict(module.named_modules())
    weights: list[tuple[str, str]] = []
    inputs: dict[str, Input] = {}
    for name, seen in layers.items():
        layer = known.get(name)
        if isinstance(layer, nn.MultiheadAttention):
            found = [(name, "in_proj_weight"), (f"{name}.out_proj", "weight")]
            weights.extend(item for item in found if getattr(module.get_submodule(item[0]), item[1]) is not None)
            continue
        if not isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
            continue
        weights.append((name, "weight"))
        if seen is not None:
            inputs[name] = Input(wants, min(seen[0], 0.0), max(seen[1], 0.0), moving)
            layer.register_forward_pre_hook(inputs[name])
    for name, attribute in weights:
        layer = module.get_submodule(name)
        axis = 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
        norm_name = norm_of.get(name)
        norm = module.get_submodule(norm_name) if norm_name is not None and norm_name not in norms else None
        scheme = wants
        if axis == 1 and (layer.groups != 1 or not transposed):
            scheme = replace(wants, per_channel=False)  # as it is written
        if axis == 1 and layer.groups != 1:
            norm = None  # one place of the weight serves several channels of the norm
        rounding = Weight(scheme, axis, norm)
        parametrize.register_parametrization(layer, attribute, rounding, unsafe=True)
    return weights, inputs


def train(
    module: nn.Module, data: Dataset, inputs: Mapping[str, Input], state: ModelState, settings: Mapping[str, Any],
    context: Context,
) -> None:
    """Train `module`, whose layers round; `state` is what it was, and the teacher where there is no baseline.

    Raises `Refusal` where there are no labels and nobody to learn from, and where ranges left the finite numbers.
    """
    import torch
    from torch import nn

    from optlang.workload.model.call import call

    names = {name.replace(".parametrizations", "").removesuffix(".original"): name
             for name, _ in module.named_parameters()}
    held = ZeroMasks(module, [names[name] for name in masked(state.notes) if name in names])
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]

    def before(progress: float) -> None:
        if progress >= float(settings["freeze"]):
            for layer in norms:
                layer.eval()
            for hook in inputs.values():
                hook.moving = False

    share, teacher = float(settings["distill"]), None
    labeled = context.data.labeled("train")
    if not share and not labeled:
        raise Refusal(
            "qat with distill = 0% learns from labels, and 'train' has none",
            help="`distill = 100%` learns from the baseline's answers",
        )
    if share:
        reference = context.baseline() if context.baseline is not None else state
        teacher = copy.deepcopy(reference.model).to(context.device).eval()

    def loss(outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor], targets: Tensors) -> Tensor:
        if teacher is None:
            return data.task.loss(outputs, targets)
        with torch.no_grad():
            wanted = call(teacher, inputs)
        soft = apart(data.task, outputs, wanted, targets, float(settings["temperature"]))
        return (1 - share) * data.task.loss(outputs, targets) + share * soft if labeled else soft

    fit(
        module, data, loss, _WITHOUT | dict(settings), context, before_step=before, after_step=held.reapply,
        others=list(inputs.values()),
    )
    module.eval()
    if not all(math.isfinite(hook.low) and math.isfinite(hook.high) for hook in inputs.values()):
        raise Refusal("a layer's inputs were not finite in training", help="a smaller lr may hold them")


def plain(module: nn.Module, state: ModelState, weights: Sequence[tuple[str, str]]) -> nn.Module:
    """A module like the state's with the trained values, its weights as they are rounded."""
    import torch

    from optlang.workload.model.weights import fill

    tensors = {name: item for name, item in module.state_dict().items() if ".parametrizations." not in name}
    with torch.no_grad():
        for name, attribute in weights:
            tensors[f"{name}.{attribute}"] = getattr(module.get_submodule(name), attribute).detach()
    plain: nn.Module = copy.deepcopy(state.model)
    # Of layers that stand under several names only the first is among them.
    fill(plain, {name: item.cpu() for name, item in tensors.items()}, "the trained weights")
    return plain.eval()
