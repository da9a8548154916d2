"""Joins what ONNX Runtime's preparation takes apart: x times HardSigmoid(x) is one HardSwish again.

Between the two the quantizer would round, and OpenVINO, whose convolutions end in a HardSwish, would run a HardSigmoid
of its reference code and a product instead: an LRASPP in int8 took 1.8 times as long.
"""

from __future__ import annotations

from typing import Any

from optlang.techniques.quant.embedding_tables import set_nodes

_ALPHA, _BETA = 1 / 6, 0.5
# The first version of ONNX's operators that has it.
_OPSET = 14


def joined(model: Any) -> int:
    """Write each `x * HardSigmoid(x)` with HardSwish's constants as HardSwish, in place; how many there were."""
    if not any(item.domain in ("", "ai.onnx") and item.version >= _OPSET for item in model.opset_import):
        return 0
    graph = model.graph
    halves = {node.output[0]: node for node in graph.node if node.op_type == "HardSigmoid" and _is_half(node)}
    taken: dict[str, int] = {item.name: 1 for item in graph.output}
    for node in graph.node:
        for name in node.input:
            taken[name] = taken.get(name, 0) + 1
    gone = set()
    for node in graph.node:
        for half, whole in (tuple(node.input), tuple(node.input)[::-1]) if node.op_type == "Mul" else ():
            if half in halves and halves[half].input[0] == whole and taken[half] == 1:
                gone.add(half)
                node.op_type = "HardSwish"
                node.ClearField("input")
                node.input.append(whole)
                break
    set_nodes(graph, [node for node in graph.node if node.output[0] not in gone])
    return len(gone)


def _is_half(node: Any) -> bool:
    about: dict[str, float] = {item.name: item.f for item in node.attribute}
    return abs(about.get("alpha", 0.2) - _ALPHA) < 1e-6 and about.get("beta", 0.5) == _BETA
