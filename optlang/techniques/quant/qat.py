"""Quantization-aware training: a module learns with its weights and its layers' inputs rounded, then becomes int8.

The file is written by the same quantizer as `static`'s, from the trained weights and the learned ranges, so it has the
same operators and runs as fast. A runtime that makes int8 of a module itself is left both. It knows no runtime by name;
what int8 must look like comes as `QuantWants`.

Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
(CVPR 2018), whose scheme it trains in.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, ModelState, Refusal, Request
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
from optlang.techniques.quant.rounded_training import Range, attach, plain, train
from optlang.techniques.shared.parametrizations import without_parametrizations
from optlang.workload.export.onnx_weights import census
from optlang.workload.model import quantized_share
from optlang.workload.model.dtypes import module_types, refuse_others
from optlang.workload.model.layers import left_alone

if TYPE_CHECKING:
    from torch import nn

    from optlang.techniques.quant.fake_quantize import Input

_KERNELS = (*WITH_WEIGHTS, "ConvTranspose")
# They hand values on: ONNX Runtime gives what they take and what they give one scale.
_PASSING = ("MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True, slots=True)
class Prepared:
    """The float graph's part in it: the tensors that layers take, by layer, and the names of norms not folded."""

    inputs: Mapping[str, Sequence[str]]
    norms: frozenset[str]
    ranges: Any
    notes: Mapping[str, JSON]

    def layers(self) -> dict[str, Range | None]:
        """The layers, with the ranges of what they take, where these are known."""
        return {layer: self._range(names[0]) for layer, names in self.inputs.items()}

    def _range(self, name: str) -> Range | None:
        if name not in self.ranges:
            return None
        low, high = (end.item() for end in self.ranges[name].range_value)
        return low, high


def qat(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """The module trained in int8's rounding, as an int8 ONNX file: the same seed gives the same file.

    Ranges of the layers' inputs start from `samples` of the calibration (else training) data and, with `ranges`
    running, follow the batches; after the share `freeze` of the training they and the statistics of batch norms stay.
    `distill` is the weight of the float model's answers in the loss; without labels they are all of it.

    Where the runtime makes int8 of the module itself (`context.performed`), the trained module is left for it, with the
    weights as they are rounded and the learned ranges by layer, as the setting `learned` of its request.

    Notes: `quantize.weights`, the share of weights in int8, `qat.layers`, how many layers were trained in it, and
    `quantize.float` as static's.
    Raises `Refusal` where static does for want of layers, and where training changed nothing or left the finite
    numbers.
    """
    if state.form != "module":
        raise Refusal(f"only a module can be trained, and the model is in the form {state.form}")
    wants = wants_of(context)
    state = without_parametrizations(state, context.data, context.study)
    if context.performed:
        return _left_to_the_runtime(state, settings, context)
    with workshop(state, context) as (_, path):
        prepared = _prepared(path, state, settings, context)
    trained, count, inputs = _trained(state, prepared.layers(), settings, context, norms=prepared.norms)
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
    return replace(done, notes={**done.notes, **prepared.notes, "qat.layers": count})


def _trained(
    state: ModelState, layers: Mapping[str, Range | None], settings: Mapping[str, Any], context: Context,
    *, norms: frozenset[str] = frozenset(), transposed: bool = True,
) -> tuple[ModelState, int, dict[str, Input]]:
    """The state with trained weights as they are rounded, how many of them, and the learned ranges by layer."""
    module = copy.deepcopy(state.model).to(context.device)
    data = context.data.bind(module)
    weights, inputs = attach(
        module, data, layers, norms, wants_of(context), moving=settings["ranges"] == "running",
        transposed=transposed, device=context.device,
    )
    if not weights:
        raise Refusal(
            "no layer is left to train in int8: convolutions, linear layers and attention can be",
            help="shorten `keep`, or name more in `only`",
        )
    train(module, data, inputs, state, settings, context)
    trained = ModelState("module", plain(module, state, weights), state.factory, state.edits, state.notes)
    return trained, len(weights), inputs


# ---- for a file


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
    notes = covered(graph, chosen, kept, settings, RECURRENT)
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


# ---- for a runtime that makes int8 of the module itself


def _left_to_the_runtime(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    from optlang.techniques.quant.layer_ranges import layer_ranges

    refuse_others(module_types(state.model))
    names = [name for name, _ in state.model.named_modules()]
    keep, only = tuple(settings["keep"]), tuple(settings["only"])
    alone = left_alone(keep, only, names) if keep or only else set()
    asked = [item for item in _weights(state.model) if item.layer not in alone]
    # Before the training and not after it, when the runtime counts what became of them.
    if asked:
        quantized_share.mostly(
            asked, "int8", RECURRENT, named=bool(only), without=() if keep or only else ("recurrent",)
        )
    data = context.data.bind(state.model)
    layers = layer_ranges(state.model, [name for name in names if name not in alone], data, settings, context)
    # A runtime may write one scale for a weight that another gives a scale for each channel.
    trained, count, inputs = _trained(state, layers, settings, context, transposed=False)
    learned: JSON = {name: [hook.low, hook.high] for name, hook in inputs.items()}
    request = Request("qat", {**settings, "learned": learned})
    return replace(
        trained, form="graph", notes={**trained.notes, "qat.layers": count}, requests=(*state.requests, request)
    )


def _weights(module: nn.Module) -> Iterator[quantized_share.Weight]:
    """The module's weights, each tensor once: all but those of recurrent layers may become int8 with ranges."""
    from torch import nn

    known: set[int] = set()
    for name, layer in module.named_modules():
        recurrent = isinstance(layer, nn.RNNBase | nn.RNNCellBase)
        for own, item in layer.named_parameters(recurse=False):
            if item.ndim > 1 and id(item) not in known:
                known.add(id(item))
                kind = "recurrent" if recurrent else type(layer).__name__
                yield quantized_share.Weight(name or own, kind, item.numel(), not recurrent)
