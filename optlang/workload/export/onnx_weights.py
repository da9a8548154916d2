"""Counts on an ONNX graph: its weights, in how many bits they are stored, and their zeros. Runs nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from optlang.interfaces import Array

# Inputs that may have two axes and are no weights: scales and zero points, and biases by direction.
_BESIDE: Mapping[str, tuple[int, ...]] = {
    "DequantizeLinear": (1, 2), **dict.fromkeys(("LSTM", "GRU", "RNN"), (3,)),
    "DynamicQuantizeLSTM": (3, 8, 9, 10, 11),
}

QUANTIZED = (
    "QuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "QLinearConv",
    "QLinearMatMul", "QGemm", "MatMulNBits", "DynamicQuantizeLSTM",
)
"""Operators by which a graph shows that it is quantized already."""


def is_quantized(graph: Any) -> bool:
    """Whether something in the graph computes with integers in 8 bits or fewer that stand for floats."""
    return any(node.op_type in QUANTIZED for node in nodes_of(graph)) or bool(scales_of(graph))


def nodes_of(graph: Any) -> Iterator[Any]:
    """All nodes, those in branches and the bodies of loops among them."""
    for node in graph.node:
        yield node
        for item in node.attribute:
            for inner in (item.g, *item.graphs):
                yield from nodes_of(inner)


def census(graph: Any) -> str:
    """The kinds of operators in the graph, for messages."""
    kinds = sorted({node.op_type for node in graph.node})
    return ", ".join(kinds[:8]) + (", …" if len(kinds) > 8 else "") if kinds else "no operators"


def bits_of(graph: Any) -> dict[str, tuple[int, int]]:
    """Elements and bits of each weight by name: constants of numbers with two axes or more, scales and biases aside.

    Integers of more than 8 bits are indices and shapes, no weights, and so are all of a graph that is not quantized.
    """
    bits = {kind: size for kind, size in _bits().items() if size > 8 or is_quantized(graph)}
    auxiliary = scales_of(graph)
    for node in graph.node:
        for index in _BESIDE.get(node.op_type, ()):
            auxiliary.update(node.input[index : index + 1])
    return {
        item.name: (math.prod(item.dims), bits[item.data_type]) for item in graph.initializer
        if len(item.dims) > 1 and item.data_type in bits and item.name not in auxiliary
    }


def shares(graph: Any) -> tuple[float, float]:
    """The shares of the graph's weights, by their number, in 8 bits or fewer and in 16 bits."""
    found = bits_of(graph).values()
    total = sum(elements for elements, _ in found)
    if not total:
        return 0.0, 0.0
    small = sum(elements for elements, bits in found if bits <= 8)
    return small / total, sum(elements for elements, bits in found if bits == 16) / total


def _bits() -> dict[int, int]:
    from onnx import TensorProto

    return {
        TensorProto.DOUBLE: 64, TensorProto.FLOAT: 32, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16,
        TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.INT4: 4, TensorProto.UINT4: 4,
    }


def scales_of(graph: Any) -> set[str]:
    """The scales and zero points of integers that plain operators make floats of: of a layer's weight, or of the rows
    of an embedding table, whose own numbers are gathered as the integers are."""
    stored = {item.name: item for item in graph.initializer}
    nodes = list(nodes_of(graph))
    integers = {name for name, item in stored.items() if item.data_type in _integers()}
    columns = {name for name, item in stored.items() if list(item.dims[1:]) == [1]}
    gathered = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Gather"}
    weights = {node.output[0] for node in nodes if node.op_type == "Cast" and node.input[0] in integers}
    levels = {
        node.output[0] for node in nodes if node.op_type == "Cast" and gathered.get(node.input[0]) in integers
    }
    found: set[str] = set()
    for node in nodes:
        rows = {gathered[name] for name in node.input if gathered.get(name) in columns}
        if node.op_type in ("Mul", "Add") and rows and levels.intersection(node.input):
            found |= rows
            levels.update(node.output)
        if node.op_type in ("Mul", "Sub") and node.input[0] in weights and node.input[1] in stored:
            found.add(node.input[1])
            if node.op_type == "Sub":
                weights.update(node.output)
    return found


# ---- zeros

# The inputs of an operator that are a layer's weights.
_WEIGHTS = {
    "Conv": (1,), "ConvTranspose": (1,), "MatMul": (0, 1), "Gemm": (0, 1), "Gather": (0,), "LSTM": (1, 2),
    "GRU": (1, 2), "RNN": (1, 2),
}
# Weights in integers, and where their zero point stands: by operator, from the one input to the other.
_ZERO_POINTS = {
    "DequantizeLinear": {0: 2}, "MatMulInteger": {0: 2, 1: 3}, "ConvInteger": {1: 3}, "QLinearConv": {3: 5},
    "QLinearMatMul": {0: 2, 3: 5}, "QGemm": {3: 5}, "MatMulIntegerToFloat": {1: 5}, "DynamicQuantizeMatMul": {1: 3},
    "DynamicQuantizeLSTM": {1: 9, 2: 11},
}
# What only lays a weight out in another way on its way to the layer.
_PASSING = ("DequantizeLinear", "Transpose", "Cast", "Identity")


def sparsity(path: Path) -> float:
    """The share of zeros among the weights of the file: in integers those that are at their zero point.

    Weights are what layers multiply by, and any other floats with two or more axes that are longer than 1, such as
    tables of places; one that several layers share counts once. Of the graph itself, not of branches inside it, and not
    those that an operator packs in a way of its own (MatMulNBits). 0 where there are none.
    """
    import onnx

    graph = onnx.load(path).graph
    stored = {item.name: item for item in graph.initializer}
    zeros = total = 0
    for levels, zero in _weights(graph, stored):
        zeros += int((levels == zero).sum())
        total += levels.size
    return zeros / total if total else 0.0


def _weights(graph: Any, stored: Mapping[str, Any]) -> Iterator[tuple[Array, Any]]:
    """The numbers of each weight, and what stands for zero in a shape that spreads to theirs."""
    users: dict[str, list[tuple[Any, int]]] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            users.setdefault(name, []).append((node, index))
    whole = _floats()
    rows = scales_of(graph)
    for name, item in stored.items():
        found = users.get(name, [])
        if len(item.dims) < 2 or not found or name in rows:
            continue
        quantized = [(node, index) for node, index in found if index in _ZERO_POINTS.get(node.op_type, {})]
        table = sum(size > 1 for size in item.dims) > 1
        if item.data_type in whole:
            scale = any(node.op_type in _ZERO_POINTS or node.op_type == "QuantizeLinear" for node, _ in found)
            if not scale and (table or _multiplied(found, users)):
                yield _array(item), 0
        elif quantized and (table or _multiplied(found, users)):
            node, index = quantized[0]
            place = _ZERO_POINTS[node.op_type][index]
            point = stored.get(node.input[place]) if place < len(node.input) else None
            levels = _array(item)
            yield levels, 0 if point is None else _spread(_array(point), levels, node, index)
        elif item.data_type in _integers() and all(node.op_type == "Cast" for node, _ in found):
            if (shifted := _shifted(found[0][0].output[0], users)) is not None:
                yield _array(item), 0 if not shifted else _array(stored[shifted])
        elif table and item.data_type in _bytes() and all(node.op_type in ("Gather", "Transpose") for node, _ in found):
            # Integers of an embedding table, of which the rows that a call gathers become floats.
            yield _array(item), _zero_of_rows(item.name, stored, users)


def _shifted(value: str, users: Mapping[str, list[tuple[Any, int]]]) -> str | None:
    """The zero points that are subtracted from the levels `value`, "" where none are; None where they are no levels,
    which are multiplied by their scales."""
    for node, index in users.get(value, []):
        if node.op_type == "Mul" and not index:
            return ""
        if node.op_type == "Sub" and not index and _shifted(node.output[0], users) == "":
            return str(node.input[1])
    return None


def _zero_of_rows(name: str, stored: Mapping[str, Any], users: Mapping[str, list[tuple[Any, int]]]) -> Any:
    """The level that stands for zero in a table's rows: that of DequantizeLinear behind the Gather, or what the scale
    and offset of each row say (level * scale + offset)."""
    import numpy

    def behind(value: str, operator: str) -> Any:
        return next((node for node, _ in users.get(value, []) if node.op_type == operator), None)

    def rows(value: str) -> Array | None:
        """What is gathered by row into `value`."""
        gather = next((node for found in users.values() for node, _ in found if value in node.output), None)
        source = stored.get(gather.input[0]) if gather is not None else None
        return None if source is None else _array(source)

    gather = behind(name, "Gather")
    dequantize = behind(gather.output[0], "DequantizeLinear") if gather is not None else None
    if dequantize is not None:
        point = stored.get(dequantize.input[2]) if len(dequantize.input) > 2 else None
        return 0 if point is None else _array(point).reshape(())
    cast = behind(gather.output[0], "Cast") if gather is not None else None
    product = behind(cast.output[0], "Mul") if cast is not None else None
    total = behind(product.output[0], "Add") if product is not None else None
    if product is None or total is None:
        return 0
    scale, offset = rows(product.input[1]), rows(total.input[1])
    # An Add of the model's own has no gathered offsets.
    return 0 if scale is None or offset is None or offset.shape != scale.shape else numpy.rint(-offset / scale)


def _multiplied(found: list[tuple[Any, int]], users: Mapping[str, list[tuple[Any, int]]]) -> bool:
    """Whether some layer takes it for its weights, or will when it is laid out."""
    for node, index in found:
        if index in _WEIGHTS.get(node.op_type, ()):
            return True
        if node.op_type in _ZERO_POINTS and node.op_type not in _PASSING:
            return True
        if index == 0 and node.op_type in _PASSING and _multiplied(users.get(node.output[0], []), users):
            return True
    return False


def _floats() -> tuple[int, ...]:
    from onnx import TensorProto

    return TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE


def _bytes() -> tuple[int, ...]:
    from onnx import TensorProto

    return TensorProto.INT8, TensorProto.UINT8


def _integers() -> tuple[int, ...]:
    from onnx import TensorProto

    return *_bytes(), TensorProto.INT4, TensorProto.UINT4


def _array(item: Any) -> Array:
    from onnx import numpy_helper

    array: Array = numpy_helper.to_array(item)
    # Numpy itself has no integers of four bits.
    return array if item.data_type in _floats() else array.astype("int32")


def _spread(point: Array, levels: Array, node: Any, index: int) -> Array:
    """The zero points in a shape that goes with the levels: one for all, for each channel, or for each group."""
    about = {item.name: item.i for item in node.attribute}
    if point.size == 1:
        return point.reshape(())
    if node.op_type == "DequantizeLinear" and point.ndim == levels.ndim:
        axis = about.get("axis", 1) % levels.ndim
        size = about.get("block_size") or math.ceil(levels.shape[axis] / point.shape[axis])
        return point.repeat(size, axis=axis).take(range(levels.shape[axis]), axis=axis)
    if node.op_type == "DynamicQuantizeLSTM":
        # (directions,) or (directions, 4 * hidden), and the levels are (directions, inputs, 4 * hidden).
        return point.reshape(len(point), 1, -1)
    if node.op_type == "DequantizeLinear":
        axis = about.get("axis", 1) % levels.ndim
    else:
        axis = 0 if "Conv" in node.op_type else levels.ndim - 1
        if "MatMul" in node.op_type and index == 0:
            axis = levels.ndim - 2  # what is multiplied from the left has a row for each
    return point.reshape([-1 if place == axis else 1 for place in range(levels.ndim)])
