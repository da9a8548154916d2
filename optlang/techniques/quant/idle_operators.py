"""Takes out of a float graph the operators that return what they take: slices of the whole, reshapes to the same shape.

Between two roundings they are no help, and OpenVINO 2026.4, which drops them itself, ends the process while it compiles
a concatenation that is then rounded twice in succession.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optlang.techniques.quant.embedding_tables import set_nodes
from optlang.workload.export.onnx import drop_unread, redirect

# By the value of the constant that changes nothing; whether the constant may also be the first input.
_NEUTRAL = {"Add": (0, True), "Sub": (0, False), "Mul": (1, True), "Div": (1, False)}

Shape = tuple[int | str, ...]


def without_idle(model: Any) -> bool:
    """Remove them from an onnx.ModelProto whose shapes are inferred, in place; whether there were any.

    What a graph answers with keeps its operator, which gives it its name.
    """
    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    shapes = _shapes(graph)
    answers = {item.name for item in graph.output}
    handed_on: dict[str, str] = {}
    kept = []
    for node in graph.node:
        source = None if answers.intersection(node.output) else _returned(node, shapes, constants)
        if source is None:
            kept.append(node)
        else:
            handed_on[node.output[0]] = handed_on.get(source, source)
    if handed_on:
        set_nodes(graph, kept)
        redirect(graph, handed_on)
        drop_unread(graph)
    return bool(handed_on)


def _shapes(graph: Any) -> dict[str, Shape]:
    """The shapes that are known, an open axis by its name."""
    found: dict[str, Shape] = {}
    for item in (*graph.input, *graph.value_info, *graph.output):
        kind = item.type.tensor_type
        if not kind.HasField("shape"):
            continue
        sizes = [axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in kind.shape.dim]
        if all(size != "" for size in sizes):
            found[item.name] = tuple(sizes)
    return found


def _returned(node: Any, shapes: Mapping[str, Shape], constants: Mapping[str, Any]) -> str | None:
    """The input that a node returns as it is; None where it computes something."""
    if len(node.output) != 1 or not node.input or node.domain not in ("", "ai.onnx"):
        return None
    first = str(node.input[0])
    if node.op_type == "Identity":
        return None if first in constants else first

    def same(name: str) -> bool:
        return name in shapes and shapes[name] == shapes.get(node.output[0])

    if node.op_type in _NEUTRAL:
        value, either = _NEUTRAL[node.op_type]
        for name, other in ((first, node.input[1]), *(((node.input[1], first),) if either else ())):
            if name not in constants and same(name) and _all(constants.get(other), value):
                return str(name)
        return None
    if first in constants or not same(first):
        return None
    if node.op_type in ("Reshape", "Expand"):
        return first
    # A slice of the whole that goes backward turns it round.
    if node.op_type == "Slice" and (len(node.input) < 5 or _all(constants.get(node.input[4]), 1)):
        return first
    # What is cut off at one end may be filled at the other.
    if node.op_type == "Pad" and len(node.input) > 1 and _all(constants.get(node.input[1]), 0):
        return first
    return None


def _all(constant: Any, value: int) -> bool:
    from onnx import numpy_helper

    return constant is not None and bool((numpy_helper.to_array(constant) == value).all())
