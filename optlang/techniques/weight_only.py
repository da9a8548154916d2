"""Weights in 8-bit integers, everything else in the file in float: a smaller file for layers of any kind.

Weights are rounded by output channel and stand before DequantizeLinear in the graph. A runtime may fold that when it
loads the file, or multiply by the levels themselves: ONNX Runtime does so for linear layers, and rounds their inputs to
8 bits as they come. Source of the scheme: Krishnamoorthi, Quantizing deep convolutional networks for efficient
inference: A whitepaper, 2018 (section 3.1.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optlang.forms import Context, Refusal, Subject
from optlang.techniques.nodes import WITH_WEIGHTS, census, left_float, load
from optlang.techniques.qdq import finished, workshop

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

# Which inputs hold weights: a recurrent layer has those of its inputs and those of its state.
_INPUTS = {**dict.fromkeys(WITH_WEIGHTS, (1,)), "ConvTranspose": (1,), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}


def weight_only(subject: Subject, settings: Mapping[str, Any], context: Context) -> Subject:
    """Round the weights of linear, convolutional and recurrent layers to int8 (uint8 where not `symmetric`).

    Notes: `quantize.weights`, the share of the weights in 8 bits. Raises `Refusal` where no layer of these kinds is
    left, or the file does not become smaller.
    """
    import onnx
    from onnx import numpy_helper

    with workshop(subject, context) as (source, prepared):
        model = load(prepared)
        graph = model.graph
        left = set(left_float(graph, subject, settings))
        stored = {item.name: item for item in graph.initializer if len(item.dims) > 1}
        chosen = {
            node.input[index]: _axis(node, stored[node.input[index]].dims)
            for node in reversed(graph.node) if node.name not in left
            for index in _INPUTS.get(node.op_type, ()) if node.input[index] in stored
        }
        if not chosen:
            raise Refusal(
                f"no layer is left to quantize: the model has {census(graph)}",
                help="weight_only takes linear, convolutional and recurrent layers; "
                "shorten `keep`, or name more in `only`",
            )
        ahead = []
        for name, axis in chosen.items():
            levels, scale, zero = rounded(numpy_helper.to_array(stored[name]), axis, bool(settings["symmetric"]))
            graph.initializer.remove(stored[name])
            for array, end in ((levels, "quantized"), (scale, "scale"), (zero, "zero_point")):
                graph.initializer.append(numpy_helper.from_array(array, f"{name}_{end}"))
            parts = [f"{name}_{end}" for end in ("quantized", "scale", "zero_point")]
            ahead.append(onnx.helper.make_node("DequantizeLinear", parts, [name], f"{name}_dequantize", axis=axis))
        nodes = [*ahead, *graph.node]
        kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)
        result = prepared.with_name("quantized.onnx")
        onnx.save(model, result)
        return finished(result, source, subject, context)


def _axis(node: Any, dims: Any) -> int:
    """The axis of a weight's output channels."""
    attributes = {item.name: item for item in node.attribute}
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return 1
    if node.op_type == "ConvTranspose":
        return 0 if "group" in attributes and attributes["group"].i > 1 else 1
    if node.op_type == "Conv" or (node.op_type == "Gemm" and "transB" in attributes and attributes["transB"].i):
        return 0
    return len(dims) - 1


def rounded(weight: Array, axis: int, symmetric: bool) -> tuple[Array, Array, Array]:
    """8-bit levels of `weight` with a scale and zero point for each index of `axis` (float32 and the levels' type).

    Symmetric: int8 from −127 to 127, zero point 0. Else uint8 over the range of the values and zero.
    """
    import numpy

    others = tuple(index for index in range(weight.ndim) if index != axis)
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    if symmetric:
        span, steps = numpy.abs(weight).max(axis=others), 127
    else:
        low = numpy.minimum(weight.min(axis=others), 0)
        span, steps = numpy.maximum(weight.max(axis=others), 0) - low, 255
    scale = numpy.where(span > 0, span / steps, 1).astype(numpy.float32)
    zero = numpy.zeros(scale.shape) if symmetric else numpy.rint(-low / scale)
    kind, ends = ("int8", (-127, 127)) if symmetric else ("uint8", (0, 255))
    levels = numpy.rint(weight / scale.reshape(shape)) + zero.reshape(shape)
    return numpy.clip(levels, *ends).astype(kind), scale, zero.astype(kind)
