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


def bits_of(graph: Any) -> dict[str, tuple[int, int]]:
    """Elements and bits of each weight by name: constants of numbers with two axes or more, scales and biases aside.

    Integers of more than 8 bits are indices and shapes, no weights.
    """
    bits = _bits()
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
    """What is gathered by row to be multiplied with, or added to, gathered integers: scales of an embedding table."""
    producers = {name: node for node in graph.node for name in node.output}
    rows: set[str] = set()
    for node in graph.node:
        made = [producers[name] for name in node.input if name in producers]
        if node.op_type in ("Mul", "Add") and any(item.op_type in ("Cast", "Mul") for item in made):
            rows.update(item.input[0] for item in made if item.op_type == "Gather")
    return {item.name for item in graph.initializer if item.name in rows and list(item.dims[1:]) == [1]}
