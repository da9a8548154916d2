"""Corrects what rounded weights do to the mean of each layer's output.

Source: Nagel et al., Data-Free Quantization through Weight Equalization and Bias Correction, ICCV 2019 (section 4.2),
with the means of the inputs taken from calibration data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Refusal
from optlang.techniques.quant.onnx_graph import WITH_WEIGHTS, eligible, load
from optlang.techniques.quant.ort_quantizer import Reader, session_of
from optlang.workload.export.onnx_weights import census

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

_SHIFT = "optlang_shift_"


def correct(model: Path, quantized: Path, kept: Sequence[str], samples: Mapping[str, Any], result: Path) -> int:
    """Write the float graph `model` to `result` with each bias corrected by its layer's expected shift.

    `quantized` is what the quantizer made of it: its weights say what rounding changed. With the change W' − W as
    weights, each layer runs on its own float input; the mean by output channel over `samples` is the shift. Gives the
    number of layers corrected; raises `Refusal` where none can be.
    """
    import numpy
    import onnx
    from onnx import numpy_helper

    graph_model = load(model)
    graph = graph_model.graph
    stored = {item.name: item for item in graph.initializer}
    rounded = {item.name: numpy_helper.to_array(item) for item in load(quantized).graph.initializer}
    names = set(eligible(graph, WITH_WEIGHTS, kept))
    nodes = [node for node in graph.node if node.name in names and node.input[1] in stored]
    bias_inputs = {node.name: found for node in nodes if (found := _bias_input(graph, node, stored)) is not None}
    probed = load(model)
    axes: dict[str, int] = {}
    for node in nodes:
        changed = _change(node, numpy_helper.to_array(stored[node.input[1]]), rounded)
        if node.name not in bias_inputs or changed is None:
            continue
        name = f"{_SHIFT}{len(axes)}"
        probed.graph.initializer.append(numpy_helper.from_array(changed, f"{name}_weight"))
        probe = onnx.NodeProto()
        probe.CopyFrom(node)
        probe.name, probe.output[0] = name, name
        probe.input[:] = [node.input[0], f"{name}_weight"]
        probed.graph.node.append(probe)
        probed.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        axes[node.name] = 1 if node.op_type == "Conv" else -1
    if not axes:
        raise Refusal(
            f"no layer's bias can be corrected: the model has {census(graph)}",
            help="bias_correction takes convolutions and linear layers that become int8",
        )
    shifts = _means(probed, list(axes.values()), samples)
    for (name, _), shift in zip(axes.items(), shifts, strict=True):
        user, index = bias_inputs[name]
        if index < len(user.input) and user.input[index]:
            bias = numpy_helper.to_array(stored[user.input[index]])
        else:
            bias = numpy.zeros_like(shift)
        corrected = f"{name}_corrected_bias"
        graph.initializer.append(numpy_helper.from_array((bias - shift).astype("float32"), corrected))
        while len(user.input) <= index:
            user.input.append("")
        user.input[index] = corrected
    used = {name for node in graph.node for name in node.input}
    left = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)
    onnx.save(graph_model, result)
    return len(axes)


def _bias_input(graph: Any, node: Any, stored: Mapping[str, Any]) -> tuple[Any, int] | None:
    """The node and the input that hold the layer's bias, or may; None where a product has no sum after it."""
    if node.op_type in ("Conv", "Gemm"):
        held = len(node.input) < 3 or not node.input[2] or node.input[2] in stored
        plain = node.op_type == "Conv" or all(item.f == 1 for item in node.attribute if item.name in ("alpha", "beta"))
        return (node, 2) if held and plain else None
    users = [item for item in graph.node if node.output[0] in item.input]
    if len(users) == 1 and users[0].op_type == "Add":
        index = 1 - list(users[0].input).index(node.output[0])
        width = stored[node.input[1]].dims[-1]
        if users[0].input[index] in stored and list(stored[users[0].input[index]].dims) == [width]:
            return users[0], index
    return None


def _change(node: Any, weight: Array, rounded: Mapping[str, Array]) -> Array | None:
    """The layer's weights as int8 holds them, less what they are in float; None where they stayed float."""
    name = node.input[1]
    held = rounded.get(f"{name}_quantized")
    if held is None:
        return None
    scale, zero = rounded[f"{name}_scale"], rounded[f"{name}_zero_point"]
    axis = 0 if node.op_type == "Conv" else weight.ndim - 1
    if node.op_type == "Gemm" and any(item.name == "transB" and item.i for item in node.attribute):
        axis = 0
    shape = [1] * weight.ndim
    if scale.size > 1:
        shape[axis] = scale.size
    real = (held.astype("float32") - zero.astype("float32").reshape(shape)) * scale.reshape(shape)
    changed: Array = (real - weight).astype("float32")
    return changed


def _means(model: Any, axes: Sequence[int], samples: Mapping[str, Any]) -> list[Array]:
    """The mean of each probe by channel, over all samples and positions."""
    import numpy

    session = session_of(model.SerializeToString())
    names = [f"{_SHIFT}{index}" for index in range(len(axes))]
    sums: list[Any] = [0.0] * len(axes)
    counts = [0] * len(axes)
    reader = Reader(samples)
    while (batch := reader.get_next()) is not None:
        for index, value in enumerate(session.run(names, batch)):
            flat = numpy.moveaxis(value, axes[index], -1).reshape(-1, value.shape[axes[index]])
            sums[index] = sums[index] + flat.sum(axis=0, dtype=numpy.float64)
            counts[index] += len(flat)
    return [total / count for total, count in zip(sums, counts, strict=True)]
