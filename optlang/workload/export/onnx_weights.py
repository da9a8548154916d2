"""The weights that an ONNX graph stores, and in how many bits. Reads graphs, and knows no technique."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

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
    return any(node.op_type in QUANTIZED for node in graph.node) or bool(scales_of(graph))


def census(graph: Any) -> str:
    """The kinds of operators in the graph, for messages."""
    kinds = sorted({node.op_type for node in graph.node})
    return ", ".join(kinds[:8]) + (", …" if len(kinds) > 8 else "") if kinds else "no operators"


def bits_of(graph: Any) -> dict[str, tuple[int, int]]:
    """Elements and bits of each weight by name: constants of numbers with two axes or more, scales and biases aside.

    Integers of more than 8 bits are indices and shapes, no weights, and so are all of a graph that is not quantized.
    """
    bits = {kind: size for kind, size in _bits().items() if size > 8 or is_quantized(graph)}
    beside = scales_of(graph)
    for node in graph.node:
        for index in _BESIDE.get(node.op_type, ()):
            beside.update(node.input[index : index + 1])
    return {
        item.name: (math.prod(item.dims), bits[item.data_type]) for item in graph.initializer
        if len(item.dims) > 1 and item.data_type in bits and item.name not in beside
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
    """The scale of each row of an embedding table in integers, and its offset: gathered as the integers are, to be
    multiplied with them and added to the product."""
    from onnx import TensorProto

    stored = {item.name: item for item in graph.initializer}
    integers = {name for name, item in stored.items() if item.data_type in (TensorProto.INT8, TensorProto.UINT8)}
    columns = {name for name, item in stored.items() if list(item.dims[1:]) == [1]}
    gathered = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Gather"}
    levels = {
        node.output[0] for node in graph.node if node.op_type == "Cast" and gathered.get(node.input[0]) in integers
    }
    found: set[str] = set()
    for node in graph.node:
        rows = {gathered[name] for name in node.input if gathered.get(name) in columns}
        if node.op_type in ("Mul", "Add") and rows and levels.intersection(node.input):
            found |= rows
            levels.update(node.output)
    return found
