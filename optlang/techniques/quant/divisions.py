"""Finds what stays in float because it is divided: rounding in steps of the largest value loses the small ones.

A quotient has the error of its denominator as a share of that denominator. Where one is small next to the largest, a
step of 8 bits is most of it, or makes it zero. Linear attention (Katharopoulos et al., Transformers are RNNs, ICML
2020), which divides by a sum of products of queries and keys, gives wrong answers then. This reads graphs and changes
none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from optlang.interfaces import JSON
from optlang.techniques.quant.onnx_graph import WEIGHTS, depending, eligible, layer_of

# What brings its answer to a scale of its own: errors before it are not divided.
_SCALES = (
    "Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid", "Tanh", "LayerNormalization", "InstanceNormalization",
    "GroupNormalization", "RMSNormalization", "BatchNormalization",
)
_LAYOUT = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Slice", "Identity", "Cast")


def divided(graph: Any) -> list[str]:
    """The names of the nodes between layers with weights and a division by what depends on the inputs, with that one.

    A logarithm counts as a division. The layers with weights are not among them.
    """
    layers = set(eligible(graph, list(WEIGHTS), ()))
    producer = {name: node for node in graph.node for name in node.output}
    data = depending(graph)
    found: dict[str, str] = {}
    pending = list(_divisions(graph, data))
    while pending:
        node = pending.pop()
        if node.output[0] in found or node.name in layers:
            continue
        found[node.output[0]] = node.name
        if node.op_type not in _SCALES:
            pending += [producer[name] for name in node.input if name in data and name in producer]
    return [name for name in found.values() if name]


def noted(graph: Any, operators: Collection[str]) -> dict[str, JSON]:
    """The layers where nodes of `operators` stay in float because they are divided, as the note `quantize.divided`."""
    names = set(divided(graph))
    layers = {layer_of(node.name) for node in graph.node if node.name in names and node.op_type in operators}
    return {"quantize.divided": sorted(layers)} if layers else {}


def _divisions(graph: Any, data: Collection[str]) -> Iterator[Any]:
    """The nodes that divide by something in `data`, also by a product with its reciprocal, or take its logarithm."""
    negative = set(_negative(graph))
    reciprocals: set[str] = set()
    for node in graph.node:
        if not any(name in data for name in node.input):
            continue
        inverse = node.op_type == "Reciprocal" or (node.op_type == "Pow" and node.input[1] in negative)
        if inverse or node.op_type == "Log" or (node.op_type == "Div" and node.input[1] in data):
            yield node
            if inverse or (node.op_type == "Div" and node.input[0] not in data):
                reciprocals.update(node.output)
        elif reciprocals.intersection(node.input):
            if node.op_type in _LAYOUT:
                reciprocals.update(node.output)
            elif node.op_type == "Mul":
                yield node


def _negative(graph: Any) -> Iterator[str]:
    """The names of constants that are all below zero, of those that are exponents."""
    from onnx import numpy_helper

    exponents = {node.input[1] for node in graph.node if node.op_type == "Pow"}
    constants: Mapping[str, Any] = {
        **{item.name: item for item in graph.initializer},
        **{
            node.output[0]: node.attribute[0].t for node in graph.node
            if node.op_type == "Constant" and node.attribute[0].name == "value"
        },
    }
    for name in exponents & constants.keys():
        if (numpy_helper.to_array(constants[name]) < 0).all():
            yield name
