"""Weights in 8-bit or 4-bit integers, everything else in the file in float: a smaller file for layers of any kind.

Weights are integers in the graph with their scales: 8 bits by output channel, 4 bits by groups of a linear layer's
inputs (ONNX opset 21). A runtime may fold that when it loads the file, or multiply by the levels themselves: ONNX
Runtime does so for linear layers (as MatMulNBits), OpenVINO where the processor has VNNI, and both then round their
inputs to 8 bits as they come.

Sources: Krishnamoorthi, Quantizing deep convolutional networks for efficient inference: A whitepaper, 2018 (section
3.1.1) for 8 bits; groups as in Dettmers and Zettlemoyer, The case for 4-bit precision, ICML 2023, with the scales and
zero points of ONNX Runtime's own quantizer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, ModelState, QuantWants, Refusal
from optlang.techniques.quant.embedding_tables import cover, prepend, reads, set_nodes, tables_of
from optlang.techniques.quant.levels import grouped, rounded
from optlang.techniques.quant.onnx_graph import WEIGHTS, left_float, load, mostly, steady
from optlang.techniques.quant.ort_quantizer import finished, scheme, workshop
from optlang.techniques.shared.parametrizations import without_parametrizations
from optlang.workload.export.onnx_weights import census

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

# The least group that ONNX Runtime multiplies by as it is.
_LEAST = 16
# The first opset with integers of 4 bits and with groups, and the format of files that came with it.
_OPSET, _FORMAT = 21, 10
_TAKES = (
    "weight_only takes linear, convolutional and recurrent layers and embedding tables; shorten `keep`, or name in "
    "`only` what is all that you want"
)


@dataclass(frozen=True, slots=True)
class _Storage:
    """How one weight is held: the axis of its output channels, its bits, how many inputs share a scale (0: all), and
    whether it is a convolution's, whose inputs have several axes."""

    axis: int
    bits: int = 8
    group: int = 0
    convolution: bool = False


def weight_only(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Round the weights of layers and embedding tables to int8 (uint8 where not `symmetric`).

    With `bits` = 4 linear layers and convolutions are in 4 bits, with a scale for each `group` inputs; where it does
    not divide a layer's inputs, the largest power of two from 16 on that does, or one scale for all where they are no
    more than a group. The other layers are in 8 bits, and so are a table that is a layer's weight too and depthwise
    convolutions.

    Notes: `quantize.weights`, the share of the weights in 8 bits or fewer; `quantize.float`, what stays in float though
    nobody asked for it; with 4 bits, `quantize.four_bits`, the share in 4, and `quantize.eight_bits`, the layers that
    are not. Raises `Refusal` where no layer of these kinds is left, more than half of the weights would stay in float,
    the file does not become smaller, or half of what 4 bits were asked for would be in 8; layers named in `only` are
    taken as they are.
    """
    import onnx
    from onnx import version_converter

    state = without_parametrizations(state, context.data, context.study)
    with workshop(state, context) as (source, prepared):
        model = load(prepared)
        left = set(left_float(model.graph, state, settings))
        bits = int(settings["bits"])
        if bits == 4:
            model = version_converter.convert_version(model, _OPSET)
            model.ir_version = max(model.ir_version, _FORMAT)
            _as_products(model.graph, left)
        graph = model.graph
        storages, alone = storages_of(graph, left, context.wants, bits, int(settings.get("group") or 0))
        if not storages and not alone:
            raise Refusal(
                f"no layer is left to quantize: the model has {census(graph)}", help=_TAKES,
                depends="settings" if any(len(item.dims) > 1 for item in graph.initializer) else "model",
            )
        _, others = mostly(graph, {*storages, *alone}, left, settings, "in 8 bits", _TAKES)
        if others:
            state = replace(state, notes={**state.notes, "quantize.float": others})
        if bits == 4:
            state = _noted(state, graph, storages, left, settings, others)
        round_weights(model, storages, left, bool(settings["symmetric"]), context.wants)
        result = prepared.with_name("quantized.onnx")
        onnx.save(model, result)
        return finished(result, source, state, context, None if settings["only"] else (load(prepared).graph, left))


def storages_of(
    graph: Any, left: Collection[str], wants: QuantWants | None, bits: int = 8, group: int = 0
) -> tuple[dict[str, _Storage], set[str]]:
    """How the weights of layers are to be held, and the embedding tables that no layer has for a weight; not those of
    nodes in `left`."""
    stored = {item.name: item for item in graph.initializer if len(item.dims) > 1}
    alone = {name for name, nodes in tables_of(graph, left).items() if reads(graph).count(name) == len(nodes)}
    storages = _storages(graph, stored, left, bits, group, _folds(wants))
    # OpenVINO computes what is the same in each call when it loads a file, and cannot with such weights.
    fixed = set(steady(graph))
    computed = {
        node.input[index] for node in graph.node if node.name in fixed and node.op_type != "Gather"
        for index in WEIGHTS.get(node.op_type, ())
    }
    return {name: storage for name, storage in storages.items() if name not in {*alone, *computed}}, alone


def round_weights(
    model: Any, storages: Mapping[str, _Storage], left: Collection[str], symmetric: bool, wants: QuantWants | None
) -> None:
    """Store weights as integers that are dequantized ahead of their layers, and the embedding tables too, in place.

    A linear layer's stand before DequantizeLinear, by which runtimes multiply as they are. There others would be
    dequantized in each call (a MobileNet ran at a sixth of its speed): they are written in operators that ONNX Runtime
    folds when it loads the file, unless the runtime reads integers before DequantizeLinear alone.
    """
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    stored = {item.name: item for item in graph.initializer if item.name in storages}
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    # A zero point of 0 is what a graph means by none.
    ends = ("quantized", "scale") if symmetric else ("quantized", "scale", "zero_point")
    ahead: list[Any] = []
    for name, storage in storages.items():
        array = numpy_helper.to_array(stored[name])
        levels, *numbers = _levels(array, storage, symmetric)[: len(ends)]
        graph.initializer.remove(stored[name])
        parts = [f"{name}_{end}" for end in ends]
        linear = readers[name] in (["MatMul"], ["Gemm"]) or "Gather" in readers[name]
        if storage.bits == 4 and storage.convolution:
            numbers = [item.astype("float32").reshape(*levels.shape[:2], 1) for item in numbers]
            ahead += _folded(f"{name}_groups", parts)
            shape = f"{name}_shape"
            ahead.append(onnx.helper.make_node("Reshape", [f"{name}_groups", shape], [name], f"{name}_reshape"))
            graph.initializer.append(onnx.helper.make_tensor(shape, onnx.TensorProto.INT64, [array.ndim], array.shape))
        elif not linear and storage.bits == 8 and _folds(wants):
            axes = [-1 if index == storage.axis else 1 for index in range(levels.ndim)]
            numbers = [item.astype("float32").reshape(axes) for item in numbers]
            ahead += _folded(name, parts)
        else:
            about = {"axis": 1 - storage.axis, "block_size": storage.group} if storage.group else {"axis": storage.axis}
            ahead.append(onnx.helper.make_node("DequantizeLinear", parts, [name], f"{name}_dequantize", **about))
        graph.initializer.extend(map(numpy_helper.from_array, (levels, *numbers), parts))
    prepend(graph, ahead)
    cover(model, left, symmetric=symmetric, **scheme(wants))


def _folds(wants: QuantWants | None) -> bool:
    """Whether a runtime takes integers in other places than before DequantizeLinear."""
    return wants is None or wants.tables == "behind"


def _folded(name: str, parts: Sequence[str]) -> Iterator[Any]:
    """The nodes that make floats of integers: (levels - zero point) * scale."""
    from onnx import TensorProto, helper

    levels, scale, *point = parts
    value = f"{name}_floats"
    yield helper.make_node("Cast", [levels], [value], f"{name}_cast", to=TensorProto.FLOAT)
    if point:
        yield helper.make_node("Sub", [value, *point], [f"{name}_shifted"], f"{name}_shift")
        value = f"{name}_shifted"
    yield helper.make_node("Mul", [value, scale], [name], f"{name}_dequantize")


def _as_products(graph: Any, left: set[str]) -> None:
    """Write each plain Gemm as a product less its bias times -1.

    ONNX Runtime multiplies by 4-bit levels in products alone, and would make a Gemm of a product and a sum.
    """
    import numpy
    import onnx
    from onnx import numpy_helper

    stored = {item.name: item for item in graph.initializer if len(item.dims) == 2}
    biases = {item.name: item for item in graph.initializer if len(item.dims) == 1}
    given = list(graph.node)
    turned = {
        index: _turned(node) for index, node in enumerate(given)
        if node.name not in left and _plain(node, stored) and node.input[2] in biases
    }
    users: dict[str, list[int]] = {}
    for index, node in enumerate(given):
        for name in node.input:
            users.setdefault(name, []).append(index)
    # A weight that something else takes too stays as it lies.
    whole = {name for name in stored if all(turned.get(index) for index in users.get(name, ()))}
    for name in whole:
        array = numpy.ascontiguousarray(numpy_helper.to_array(stored[name]).T)
        stored[name].CopyFrom(numpy_helper.from_array(array, name))
    nodes: list[Any] = []
    for index, node in enumerate(given):
        if index not in turned or (turned[index] and node.input[1] not in whole):
            nodes.append(node)
            continue
        product = f"{node.output[0]}_product"
        nodes.append(onnx.helper.make_node("MatMul", node.input[:2], [product], node.name))
        less = f"{node.output[0]}_less"
        graph.initializer.append(numpy_helper.from_array(-numpy_helper.to_array(biases[node.input[2]]), less))
        nodes.append(onnx.helper.make_node("Sub", [product, less], node.output, f"{node.name}_bias"))
    set_nodes(graph, nodes)
    used = {name for node in graph.node for name in node.input}
    for name in set(biases) - used:
        graph.initializer.remove(biases[name])


def _plain(node: Any, stored: Mapping[str, Any]) -> bool:
    """Whether the node is x W + b with a weight of its own, W as it lies or transposed."""
    about = {item.name: item for item in node.attribute}
    return (
        node.op_type == "Gemm" and len(node.input) > 2 and node.input[1] in stored and node.input[0] not in stored
        and all(about[name].f == 1 for name in ("alpha", "beta") if name in about)
        and not ("transA" in about and about["transA"].i)
    )


def _turned(node: Any) -> bool:
    return any(item.name == "transB" and item.i for item in node.attribute)


def _storages(
    graph: Any, stored: Mapping[str, Any], left: Collection[str], bits: int, group: int, folds: bool
) -> dict[str, _Storage]:
    found: dict[str, _Storage] = {}
    gathered = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    for node in graph.node:
        for index in WEIGHTS.get(node.op_type, ()) if node.name not in left else ():
            name = node.input[index]
            if name not in stored or node.op_type == "Gather":
                continue
            storage = _Storage(_axis(node, stored[name].dims))
            # Rows of groups cannot be gathered as integers.
            products = node.op_type in ("MatMul", "Gemm") and len(stored[name].dims) == 2 and name not in gathered
            if bits == 4 and products:
                storage = _four_bits(storage, stored[name].dims[1 - storage.axis], group)
            elif bits == 4 and node.op_type == "Conv" and folds:
                inputs = math.prod(stored[name].dims[1:])
                # The few weights of a channel of a depthwise convolution lose too much.
                storage = _four_bits(replace(storage, convolution=True), inputs, group) if inputs >= _LEAST else storage
            found.setdefault(name, storage)
    return found


def _four_bits(storage: _Storage, inputs: int, group: int) -> _Storage:
    """In 4 bits by groups of at most `group` inputs that divide them, or in 8 where there are none."""
    common = math.gcd(inputs, group)
    if common >= _LEAST:
        return replace(storage, bits=4, group=common)
    return replace(storage, bits=4) if inputs <= group else storage


def _noted(
    state: ModelState, graph: Any, storages: Mapping[str, _Storage], left: set[str], settings: Mapping[str, Any],
    floats: Sequence[str],
) -> ModelState:
    """The state with what is in 4 bits and what is in 8, which `floats` are not; `Refusal` where 4 bits are few."""
    fours = {name for name, storage in storages.items() if storage.bits == 4}
    share, others = mostly(graph, fours, left, settings, "in 4 bits", "bits = 8")
    eights: list[JSON] = [layer for layer in others if layer not in floats]
    return replace(state, notes={**state.notes, "quantize.four_bits": share, "quantize.eight_bits": eights})


def _axis(node: Any, dims: Any) -> int:
    """The axis of a weight's output channels."""
    attributes = {item.name: item for item in node.attribute}
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return 1
    if node.op_type == "ConvTranspose":
        return 0 if "group" in attributes and attributes["group"].i > 1 else 1
    if node.op_type == "Conv" or (node.op_type == "Gemm" and _turned(node)):
        return 0
    return len(dims) - 1


def _levels(weight: Array, storage: _Storage, symmetric: bool) -> tuple[Array, Array, Array]:
    if storage.bits == 8:
        return rounded(weight, storage.axis, symmetric)
    if storage.convolution:
        channels = len(weight)
        levels, scale, zero = grouped(weight.reshape(channels, -1), 0, storage.group, symmetric)
        # (channels, groups, inputs of a group)
        return levels.reshape(channels, scale.size // channels, -1), scale, zero
    return grouped(weight, storage.axis, storage.group, symmetric)
