"""Quantization-aware training: a module learns with its weights and its layers' inputs rounded, then becomes int8.

The file is written by the same quantizer as `static`'s, from the trained weights and the learned ranges, so it has the
same operators and runs as fast. It knows no runtime by name; what int8 must look like comes as `QuantWants`.

Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
(CVPR 2018), whose scheme it trains in.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, ModelState, Refusal
from optlang.techniques.graph.fold import followed
from optlang.techniques.quant.divisions import noted
from optlang.techniques.quant.onnx_graph import (
    RECURRENT,
    WITH_WEIGHTS,
    covered,
    eligible,
    layer_of,
    left_float,
    load,
    operators_of,
)
from optlang.techniques.quant.ort_quantizer import finished, ranges_of, wants_of, workshop, write
from optlang.techniques.shared.labels import apart
from optlang.techniques.shared.masks import ZeroMasks, masked
from optlang.techniques.shared.parametrizations import without_parametrizations
from optlang.techniques.training.trainer import fit
from optlang.workload.export.onnx_weights import census

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.techniques.quant.fake_quantize import Input
    from optlang.workload.data.dataset import Dataset
    from optlang.workload.data.tensors import Tensors

_KERNELS = (*WITH_WEIGHTS, "ConvTranspose")
# What the loop knows besides, and a training in int8 does without: averaged weights have no rounding of their own.
_WITHOUT = {"amp": "none", "warmup": 0.0, "ema": 0.0, "clip": 0.0, "patience": 0}
# They hand values on: ONNX Runtime gives what they take and what they give one scale.
_PASSING = ("MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True, slots=True)
class Prepared:
    """The float graph's part in it: the tensors that layers take, by layer, and the names of norms not folded."""

    inputs: Mapping[str, Sequence[str]]
    norms: frozenset[str]
    ranges: Any
    notes: Mapping[str, JSON]


def qat(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """The module trained in int8's rounding, as an int8 ONNX file: the same seed gives the same file.

    Ranges of the layers' inputs start from `samples` of the calibration (else training) data and, with `ranges`
    running, follow the batches; after the share `freeze` of the training they and the statistics of batch norms stay.
    `distill` is the weight of the float model's answers in the loss; without labels they are all of it.

    Notes: `quantize.weights`, the share of weights in int8, `qat.layers`, how many layers were trained in it, and
    `quantize.float` and `quantize.divided` as static's. That ranges and norms stay in the end is the way of
    torchvision's reference training. Raises `Refusal` where static does for want of layers, and where training changed
    nothing or left the finite numbers.
    """
    if state.form != "module":
        raise Refusal(f"only a module can be trained, and the model is in the form {state.form}")
    wants = wants_of(context)
    state = without_parametrizations(state, context.data, context.study)
    with workshop(state, context) as (_, path):
        prepared = _prepared(path, state, settings, context)
    module = copy.deepcopy(state.model).to(context.device)
    data = context.data.bind(module)
    weights, inputs = _attach(module, data, prepared, settings, context)
    if not weights:
        raise Refusal(
            "no layer is left to train in int8: convolutions, linear layers and attention can be",
            help="shorten `keep`, or name more in `only`",
        )
    _train(module, data, inputs, state, settings, context)
    trained = ModelState("module", _plain(module, state, weights), state.factory, state.edits, state.notes)
    with workshop(trained, context) as (source, path):
        graph = load(path).graph
        again = _prepared(path, trained, settings, context)
        for layer, hook in inputs.items():
            for name in again.inputs.get(layer, ()):
                _learned(again.ranges, name, hook)
        result = path.with_name("quantized.onnx")
        kept = left_float(graph, trained, settings)
        write(path, result, operators_of(graph, wants), kept, again.ranges, wants)
        done = finished(result, source, trained, context, None if settings["only"] else (graph, kept))
    return replace(done, notes={**done.notes, **prepared.notes, "qat.layers": len(weights)})


def _prepared(path: Path, state: ModelState, settings: Mapping[str, Any], context: Context) -> Prepared:
    graph = load(path).graph
    kept = left_float(graph, state, settings)
    operators = operators_of(graph, wants_of(context))
    chosen = set(eligible(graph, [item for item in operators if item in _KERNELS], kept))
    if not chosen:
        layers = sorted({layer_of(node.name) for node in graph.node if node.name} - {""})
        where = f" in {', '.join(layers[:4])}" if layers else ""
        raise Refusal(
            f"no layer is left to quantize: the model has {census(graph)}{where}",
            depends="settings" if kept else "model",
            help="int8 takes convolutions and linear layers; shorten `keep`, or name more in `only`",
        )
    notes = {**covered(graph, chosen, kept, settings, RECURRENT), **noted(graph, operators)}
    producer = {name: node for node in graph.node for name in node.output}
    inputs: dict[str, list[str]] = {}
    for node in graph.node:
        if node.name in chosen:
            names = inputs.setdefault(layer_of(node.name), [])
            name = node.input[0]
            names.append(name)
            while name in producer and producer[name].op_type in _PASSING:
                name = producer[name].input[0]
                names.append(name)
    norms = frozenset(layer_of(node.name) for node in graph.node if node.op_type == "BatchNormalization")
    samples = context.data.bind([item.name for item in graph.input]).calibration(int(settings["samples"]), context.seed)
    return Prepared(inputs, norms, ranges_of(path, samples, operators, settings, wants_of(context)), notes)


def _learned(ranges: Any, name: str, hook: Input) -> None:
    import numpy
    from onnxruntime.quantization.calibrate import TensorData

    if name in ranges:
        low, high = (numpy.array(end, dtype=numpy.float32) for end in (hook.low, hook.high))
        ranges[name] = TensorData(lowest=low, highest=high)


def _attach(
    module: nn.Module, data: Dataset, prepared: Prepared, settings: Mapping[str, Any], context: Context
) -> tuple[list[tuple[str, str]], dict[str, Input]]:
    """Round the module's weights and inputs from now on: (layer, attribute) of each weight, and the hooks by layer."""
    from torch import nn
    from torch.nn.utils import parametrize

    from optlang.techniques.quant.fake_quantize import Input, Weight

    wants = wants_of(context)
    convolutions = (nn.modules.conv._ConvNd,)
    example = {name: item.to(context.device) for name, item in data.example(2).items()}
    norm_of = dict(followed(module.eval(), example)[0])
    weights: list[tuple[str, str]] = []
    inputs: dict[str, Input] = {}
    for name, names in prepared.inputs.items():
        layer = module.get_submodule(name) if name in dict(module.named_modules()) else None
        if isinstance(layer, nn.MultiheadAttention):
            found = [(name, "in_proj_weight"), (f"{name}.out_proj", "weight")]
            weights.extend(item for item in found if getattr(module.get_submodule(item[0]), item[1]) is not None)
            continue
        if not isinstance(layer, (*convolutions, nn.Linear)):
            continue
        weights.append((name, "weight"))
        if names[0] in prepared.ranges:
            low, high = (end.item() for end in prepared.ranges[names[0]].range_value)
            inputs[name] = Input(wants, min(low, 0.0), max(high, 0.0), settings["ranges"] == "running")
            layer.register_forward_pre_hook(inputs[name])
    for name, attribute in weights:
        layer = module.get_submodule(name)
        axis = 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
        norm_name = norm_of.get(name)
        norm = module.get_submodule(norm_name) if norm_name is not None and norm_name not in prepared.norms else None
        scheme = wants
        if axis == 1 and layer.groups != 1:
            norm = None  # one place of the weight serves several channels of the norm
            scheme = replace(wants, per_channel=False)  # as it is written
        rounding = Weight(scheme, axis, norm)
        parametrize.register_parametrization(layer, attribute, rounding, unsafe=True)
    return weights, inputs


def _train(
    module: nn.Module, data: Dataset, inputs: Mapping[str, Input], state: ModelState, settings: Mapping[str, Any],
    context: Context,
) -> None:
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

    fit(module, data, loss, _WITHOUT | dict(settings), context, before_step=before, after_step=held.reapply)
    module.eval()
    if not all(math.isfinite(hook.low) and math.isfinite(hook.high) for hook in inputs.values()):
        raise Refusal("a layer's inputs were not finite in training", help="a smaller lr may hold them")


def _plain(module: nn.Module, state: ModelState, weights: Sequence[tuple[str, str]]) -> nn.Module:
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
