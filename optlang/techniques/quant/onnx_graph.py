"""Finds what can be quantized among the nodes of an exported ONNX graph, by the names of the layers they come from.

It reads graphs and changes none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from optlang.interfaces import JSON, ModelState, QuantWants, Refusal
from optlang.techniques.quant.embedding_tables import tables_of
from optlang.workload.export.onnx_weights import bits_of, nodes_of
from optlang.workload.model import quantized_share
from optlang.workload.model.layers import left_alone

LINEAR = ("MatMul", "Gemm")
WITH_WEIGHTS = ("Conv", *LINEAR)
"""The operators with weights that int8 knows."""
WEIGHTS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys((*WITH_WEIGHTS, "ConvTranspose"), (1,)), **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2)),
    "Gather": (0,),
}
"""Which inputs of an operator hold weights; a recurrent layer has those of its inputs and its state, a Gather a table
of embeddings."""
_AFFINE = ("BatchNormalization", "Add", "Sub", "Mul", "Div")
_NO_DATA = ("Shape", "Size")
_SUMS = {"Add", "Sub", "Mul", "Div", "Where"}
_KINDS = {"Gather": "embedding table"}
RECURRENT = "dynamic takes an LSTM, weight_only any recurrent layer; or name in `only` what is all that you want"
"""The way out where most weights are in recurrent layers, whose activations int8 does not know."""
# In a Transformer the products alone carry the cost; sums, masks and norms in int8 cost tens of points of accuracy.
_ATTENTION = ("LayerNormalization", "SkipLayerNormalization", "Attention", "Softmax")
# What may stand between a softmax and the product with the values.
_BETWEEN = ("Where", "Mul", "Cast", "Identity", "Dropout", "Reshape", "Transpose", "Unsqueeze", "Expand", "Slice")


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


def left_float(graph: Any, state: ModelState, settings: Mapping[str, Any]) -> list[str]:
    """The names of the nodes that `settings` leave in float: those in `keep`, and where `only` names some, all others.

    Nodes of no layer (a sum in the model's own forward) go with `only`'s others. Raises OptlangError for a pattern
    that matches no layer of the model.
    """
    keep, only = tuple(settings["keep"]), tuple(settings["only"])
    if not keep and not only:
        return []
    layers = {node.name: layer_of(node.name) for node in nodes_of(graph) if node.name}
    names = set(layers.values())
    for layer in list(names):
        parts = layer.split(".")
        names.update(".".join(parts[:count]) for count in range(1, len(parts)))
    if state.form == "module":
        names.update(name for name, _ in state.model.named_modules())
    alone = left_alone(keep, only, sorted(names))
    return [name for name, layer in layers.items() if layer in alone or (only and not layer)]


def weights_of(graph: Any) -> dict[str, int]:
    """Elements of the weights in floats, by name: constants with two axes or more."""
    return {name: elements for name, (elements, bits) in bits_of(graph).items() if bits > 8}


def depending(graph: Any) -> set[str]:
    """The tensors that depend on what the graph's inputs hold, and not on their shapes alone."""
    found = {item.name for item in graph.input} - {item.name for item in graph.initializer}
    for node in graph.node:
        branches = any(item.HasField("g") or item.graphs for item in node.attribute)
        if node.op_type not in _NO_DATA and (branches or found.intersection(node.input)):
            found.update(node.output)
    return found


def steady(graph: Any) -> list[str]:
    """The nodes that give the same in each call of one shape: positions, masks, tables of angles.

    Rounding them wins nothing. OpenVINO 2026.4 computes them when it loads a file, and refuses it where a convolution
    among them is rounded.
    """
    tensors = depending(graph)
    return [node.name for node in graph.node if node.name and not tensors.intersection(node.output)]


def scaled_joints(graph: Any) -> list[str]:
    """Concatenations whose answer a norm or a constant scales or shifts next, and what does so.

    Rounded before and behind that, OpenVINO 2026.4 ends the process while it compiles them (DenseNet). No runtime has
    a kernel for the scaling in integers.
    """
    stored = {item.name for item in graph.initializer}
    joined = {name: node.name for node in graph.node if node.op_type == "Concat" for name in node.output}
    found: list[str] = []
    for node in graph.node:
        sources = [name for name in node.input if name not in stored]
        if node.op_type in _AFFINE and len(sources) == 1 and sources[0] in joined:
            found += [joined[sources[0]], node.name]
    return [name for name in dict.fromkeys(found) if name]


def eligible(graph: Any, operators: Sequence[str], kept: Collection[str]) -> list[str]:
    """The names of the nodes of these operators that have weights, are not kept and work on what the inputs hold."""
    weights = weights_of(graph)
    left = {*kept, *steady(graph)}
    return [
        node.name for node in graph.node
        if node.op_type in operators and node.name not in left
        and any(node.input[index] in weights for index in WEIGHTS.get(node.op_type, ()))
    ]


def excluded(graph: Any, nodes: Sequence[str]) -> list[str]:
    """The nodes that stay in float, also by the names that they get when a Gemm is split into a product and a sum."""
    chosen_ones = set(nodes)
    left = [node.name for node in graph.node if node.name not in chosen_ones]
    return left + [f"{name}_MatMul" for name in left]


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
    """Whether a softmax feeds a product: scores times values.

    What masks, drops or lays out its answer may stand between the two.
    """
    scores: set[str] = set()
    for node in graph.node:
        if node.op_type == "Softmax" or (node.op_type in _BETWEEN and scores.intersection(node.input)):
            scores.update(node.output)
        elif node.op_type == "MatMul" and scores.intersection(node.input):
            return True
    return False


def covered(
    graph: Any, nodes: Collection[str], left: Collection[str], settings: Mapping[str, Any], help: str,
    without: Collection[str] = ("LSTM", "GRU", "RNN"),
) -> dict[str, JSON]:
    """What there is to note where `nodes` become int8: `quantize.float`, the layers that stay in float unasked.

    Embedding tables become int8 with them. Raises `Refusal` where most weights of the float `graph` would stay, as
    `mostly` does; `without` are the operators that the technique takes with no settings.
    """
    done = {
        node.input[index] for node in graph.node if node.name in nodes for index in WEIGHTS.get(node.op_type, ())
    }
    _, others = mostly(graph, {*done, *tables_of(graph, left)}, left, settings, "int8", help, without)
    return {"quantize.float": others} if others else {}


def mostly(
    graph: Any, done: Collection[str], left: Collection[str], settings: Mapping[str, Any], what: str, help: str,
    without: Collection[str] = (),
) -> tuple[float, list[str]]:
    """The share of the weights of float `graph` that are in `done`, by names of constants, and the other layers.

    Weights that only nodes in `left` read do not count, and neither does what the exporter computed for a sum. Raises
    `Refusal` where the share is too little, as `quantized_share.mostly` does: layers that `only` names were chosen
    deliberately. `without` are the operators that the technique takes with no settings.
    """
    computed = _computed(graph)
    elements = {name: count for name, count in weights_of(graph).items() if name not in computed}
    found: dict[str, quantized_share.Weight] = {}
    for node in nodes_of(graph):
        weights = {node.input[index] for index in WEIGHTS.get(node.op_type, ())}
        for name in node.input:
            # What a layer multiplies by is named after it, any other constant by its own name.
            if name in elements and node.name not in left and (name in weights or name not in found):
                layer = (layer_of(node.name) or node.name) if name in weights else name
                kind = _KINDS.get(node.op_type, node.op_type) if name in weights else f"constant of {node.op_type}"
                found[name] = quantized_share.Weight(layer, kind, elements[name], name in done)
    return quantized_share.mostly(
        list(found.values()), what, help, named=bool(settings["only"]), without=() if left else without
    )


def _computed(graph: Any) -> set[str]:
    """Constants that are no parameter and that no layer takes: masks, biases by relative position, tables of angles.

    The exporter computes them, and names them by where in the module it did.
    """
    readers: dict[str, set[str]] = {}
    for node in nodes_of(graph):
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    return {item.name for item in graph.initializer if "/" in item.name and readers.get(item.name, set()) <= _SUMS}


def refuse_less(graph: Any, result: Any, left: Collection[str]) -> None:
    """Raise `Refusal` where a quantizer left most of the weights of float `graph` in float in `result`.

    Weights that only nodes in `left` read were not asked for. This counts what was done; `mostly` says beforehand what
    can be.
    """
    computed = _computed(graph)
    before, after = (
        {name: count for name, count in weights_of(part).items() if name not in computed} for part in (graph, result)
    )
    read = {name for node in nodes_of(graph) if node.name not in left for name in node.input}
    asked = sum(elements for name, elements in before.items() if name in read)
    rest = sum(after.values()) - (sum(before.values()) - asked)
    if asked and 1 - rest / asked < quantized_share.LEAST:
        names = sorted(set(after) & read, key=lambda name: -after[name])
        raise Refusal(
            f"only {max(0.0, 1 - rest / asked):.0%} of the weights became int8: not {', '.join(names[:4])}",
            help="weight_only takes layers of any kind; or name in `only` what is all that you want",
        )


def one_scale(graph: Any) -> list[str]:
    """The weights that have one scale in any scheme: those of transposed convolutions in groups.

    Their axis of output channels counts the channels of one group, and biases have a scale for each channel of all.
    """
    stored = weights_of(graph)
    return [
        node.input[1] for node in graph.node
        if node.op_type == "ConvTranspose" and node.input[1] in stored
        and any(item.name == "group" and item.i > 1 for item in node.attribute)
    ]
