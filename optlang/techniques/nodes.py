"""Finds what can be quantized among the nodes of an exported ONNX graph, by the names of the layers they come from.

It reads graphs and changes none.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from optlang.forms import JSON, QuantWants, Refusal, Subject
from optlang.workload.layers import left_alone

LINEAR = ("MatMul", "Gemm")
WITH_WEIGHTS = ("Conv", *LINEAR)
"""The operators with weights that int8 knows."""
WEIGHTS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys((*WITH_WEIGHTS, "ConvTranspose"), (1,)), **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2)),
}
"""Which inputs of an operator hold weights to multiply by; a recurrent layer has those of its inputs and its state."""
# Inputs that may have two axes and are no weights: scales and zero points, and biases by direction.
_BESIDE: Mapping[str, tuple[int, ...]] = {
    "DequantizeLinear": (1, 2), **dict.fromkeys(("LSTM", "GRU", "RNN"), (3,)),
    "DynamicQuantizeLSTM": (3, 8, 9, 10, 11),
}
RECURRENT = "dynamic takes an LSTM, weight_only any recurrent layer; or name in `only` what is all that you want"
"""The way out where most weights are in recurrent layers, whose activations int8 does not know."""
# Less than this share of what was asked for is not what a user expects of a technique by that name.
_MOST = 0.5
QUANTIZED = (
    "QuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "QLinearConv",
    "QLinearMatMul", "QGemm", "MatMulNBits", "DynamicQuantizeLSTM",
)
"""Operators by which a graph shows that it is quantized already."""
# In a Transformer the products alone carry the cost; sums, masks and norms in int8 cost tens of points of accuracy.
_ATTENTION = ("LayerNormalization", "SkipLayerNormalization", "Attention", "Softmax")


def load(path: Path) -> Any:
    """The model in the file `path`, with its weights."""
    import onnx

    return onnx.load(path)


def layer_of(node: str) -> str:
    """The module that a node of an exported graph comes from: "/layer1/layer1.0/conv1/Conv" is "layer1.0.conv1"."""
    parts: list[str] = []
    for part in node.strip("/").split("/")[:-1]:
        if parts and (part == parts[-1] or part.startswith(parts[-1] + ".")):
            parts[-1] = part  # a container's child repeats the container's name
        else:
            parts.append(part)
    return ".".join(parts)


def left_float(graph: Any, subject: Subject, settings: Mapping[str, Any]) -> list[str]:
    """The names of the nodes that `settings` leave in float: those in `keep`, and where `only` names some, all others.

    Nodes of no layer (a sum in the model's own forward) go with `only`'s others. Raises OptlangError for a pattern
    that matches no layer of the model.
    """
    keep, only = tuple(settings["keep"]), tuple(settings["only"])
    if not keep and not only:
        return []
    layers = {node.name: layer_of(node.name) for node in graph.node if node.name}
    names = set(layers.values())
    for layer in list(names):
        parts = layer.split(".")
        names.update(".".join(parts[:count]) for count in range(1, len(parts)))
    if subject.form == "module":
        names.update(name for name, _ in subject.model.named_modules())
    alone = left_alone(keep, only, sorted(names))
    return [name for name, layer in layers.items() if layer in alone or (only and not layer)]


def weights_of(graph: Any) -> dict[str, int]:
    """Elements of the initializers that are matrices or larger, by name."""
    return {item.name: math.prod(item.dims) for item in graph.initializer if len(item.dims) > 1}


def eligible(graph: Any, operators: Sequence[str], kept: Sequence[str]) -> list[str]:
    """The names of the nodes of these operators that have weights and are not kept."""
    weights = weights_of(graph)
    left = set(kept)
    return [
        node.name for node in graph.node
        if node.op_type in operators and node.name not in left and any(name in weights for name in node.input)
    ]


def excluded(graph: Any, nodes: Sequence[str]) -> list[str]:
    """The nodes that stay in float, also by the names that they get when a Gemm is split into a product and a sum."""
    chosen_ones = set(nodes)
    left = [node.name for node in graph.node if node.name not in chosen_ones]
    return left + [f"{name}_MatMul" for name in left]


def census(graph: Any) -> str:
    """The kinds of operators in the graph, for messages."""
    kinds = sorted({node.op_type for node in graph.node})
    return ", ".join(kinds[:8]) + (", …" if len(kinds) > 8 else "") if kinds else "no operators"


def operators_of(graph: Any, wants: QuantWants) -> list[str]:
    """What to quantize: every operator that can be, or those with weights; in a Transformer the products alone."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    present = {node.op_type for node in graph.node}
    if wants.operators == "weighted":
        return sorted(present.intersection((*WITH_WEIGHTS, "ConvTranspose")))
    known = set(QDQRegistry) | set(QLinearOpsRegistry)
    if present.intersection(_ATTENTION[:3]) or _has_attention(graph):
        known = set(WITH_WEIGHTS)
    return sorted(present & known)


def _has_attention(graph: Any) -> bool:
    """Whether a softmax feeds a product: scores times values."""
    scores = {name for node in graph.node if node.op_type == "Softmax" for name in node.output}
    return any(node.op_type == "MatMul" and scores.intersection(node.input) for node in graph.node)


def covered(
    graph: Any, nodes: Collection[str], left: Collection[str], settings: Mapping[str, Any], help: str
) -> dict[str, JSON]:
    """What there is to note where `nodes` become int8: `quantize.float`, the layers that stay in float unasked.

    Raises `Refusal` where most weights of the float `graph` would, as `mostly` does.
    """
    done = {
        node.input[index] for node in graph.node if node.name in nodes for index in WEIGHTS.get(node.op_type, ())
    }
    _, others = mostly(graph, done, left, settings, "int8", help)
    return {"quantize.float": others} if others else {}


def mostly(
    graph: Any, done: Collection[str], left: Collection[str], settings: Mapping[str, Any], what: str, help: str
) -> tuple[float, list[str]]:
    """The share of the weights of float `graph` that are in `done`, by names of initializers, and the other layers.

    The weights are those that layers multiply by and whose nodes are not in `left`. Raises `Refusal` where the share is
    less than half, with the largest layers that stay as they are: `what` is what they were to become. Layers that
    `only` names were chosen with open eyes, and are not refused.
    """
    elements = weights_of(graph)
    layers: dict[str, str] = {}
    for node in graph.node:
        for index in WEIGHTS.get(node.op_type, ()):
            if node.input[index] in elements and node.name not in left:
                layers.setdefault(node.input[index], layer_of(node.name) or node.name)
    total = sum(elements[name] for name in layers)
    share = sum(elements[name] for name in layers if name in done) / total if total else 0.0
    others: dict[str, int] = {}
    for name, layer in layers.items():
        if name not in done:
            others[layer] = others.get(layer, 0) + elements[name]
    if share < _MOST and not settings["only"]:
        largest = sorted(others, key=lambda layer: -others[layer])
        kinds = {layer_of(node.name) or node.name: node.op_type for node in graph.node if node.op_type in WEIGHTS}
        named = ", ".join(f"{layer} ({kinds[layer]})" for layer in largest[:4]) + (", …" if len(largest) > 4 else "")
        raise Refusal(f"only {share:.0%} of the weights would be {what}: not those of {named}", help=help)
    return share, sorted(others)


def quantized_share(graph: Any) -> float:
    """The share of the graph's weights (constants of two axes and more, scales and biases aside) in 8 bits or fewer."""
    from onnx import TensorProto

    kinds = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
    small = total = 0
    others = {
        name for node in graph.node for index in _BESIDE.get(node.op_type, ()) for name in node.input[index : index + 1]
    }
    for item in graph.initializer:
        if len(item.dims) > 1 and item.name not in others:
            total += math.prod(item.dims)
            small += math.prod(item.dims) if item.data_type in kinds else 0
    return small / total if total else 0.0
