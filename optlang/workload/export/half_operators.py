"""Operators that calculate in float32 in a graph of float16, with casts around them: they have no kernels in float16.

ONNX defines some for float32 alone, and ONNX Runtime does not put its own casts around those that add up what they
scatter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_ALWAYS = ("Celu", "IsInf", "MeanVarianceNormalization", "NonMaxSuppression", "Range")
_REDUCING = ("ScatterElements", "ScatterND")


def widen(model: ModelProto) -> None:
    """Put these operators of `model` between casts to float32 and back, in place, where they are given float16."""
    import onnx
    from onnx import TensorProto, helper

    if not any(_in_float32(node) for node in model.graph.node):
        return
    halves = _halves(onnx.shape_inference.infer_shapes(model).graph)
    nodes: list[Any] = []
    for node in model.graph.node:
        own = type(node)()
        own.CopyFrom(node)
        if _in_float32(node) and halves.intersection(node.input):
            wide = {name: f"{node.name}/{name}" for name in (*node.input, *node.output) if name in halves}
            own.input[:] = [wide.get(name, name) for name in node.input]
            own.output[:] = [wide.get(name, name) for name in node.output]
            before = [name for name in dict.fromkeys(node.input) if name in wide]
            after = [name for name in node.output if name in wide]
            nodes += [helper.make_node("Cast", [name], [wide[name]], f"{wide[name]}/Cast", to=TensorProto.FLOAT)
                      for name in before]
            nodes.append(own)
            nodes += [helper.make_node("Cast", [wide[name]], [name], f"{wide[name]}/Cast", to=TensorProto.FLOAT16)
                      for name in after]
        else:
            nodes.append(own)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _in_float32(node: NodeProto) -> bool:
    if node.op_type in _REDUCING:
        return any(item.name == "reduction" and item.s != b"none" for item in node.attribute)
    return node.op_type in _ALWAYS


def _halves(graph: GraphProto) -> set[str]:
    """The names of what is in float16."""
    from onnx import TensorProto

    half = TensorProto.FLOAT16
    values = (*graph.input, *graph.output, *graph.value_info)
    return {item.name for item in graph.initializer if item.data_type == half} | {
        item.name for item in values if item.type.tensor_type.elem_type == half
    }
