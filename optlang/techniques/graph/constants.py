"""Constant folding: what an ONNX graph computes from its weights alone is computed once and stored.

The exporter folds a part of it while it traces. What is left is mostly arithmetic on shapes and on buffers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context, ModelState, Refusal
from optlang.techniques.shared.parametrizations import without_parametrizations
from optlang.workload.export.onnx_weights import QUANTIZED, census

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# Their outputs are random at each call, or they have graphs inside, whose values come from elsewhere.
_NEVER = {
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout",
    "If", "Loop", "Scan", "SequenceMap",
}
# An answer may be this much larger than what it is made of (a filled tensor): the file would grow for a cheap node.
_GROWTH = 1024


def constants(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Replace the nodes that no input reaches by their values, and remove what nothing uses any more.

    The arithmetic is ONNX Runtime's, without its optimizer. Weights in integers stay as they are: unfolded, they save
    bytes. Notes: `graph.constants`, how many nodes went. Raises `Refusal` where there is none.
    """
    import onnx

    state = without_parametrizations(state, context.data, context.study)
    with tempfile.TemporaryDirectory(prefix="constants-") as name:
        if state.form == "onnx":
            source = Path(state.model)
        elif state.form == "module":
            from optlang.workload.export.onnx import export

            source = Path(name) / "float.onnx"
            export(state, context.data.bind(state.model), source, context.study)
        else:
            raise Refusal(f"an ONNX graph is folded, and the model is in the form {state.form}")
        model = onnx.load(source)
    found = _constant(model.graph)
    values = _answers(model, found)
    gone = _fold(model.graph, found, values)
    if not gone:
        raise Refusal(f"there is no constant to fold: every node depends on an input, of {census(model.graph)}")
    onnx.checker.check_model(model)
    context.folder.mkdir(parents=True, exist_ok=True)
    path = context.folder / "model.onnx"
    onnx.save(model, path)
    return ModelState("onnx", path, state.factory, state.edits, {**state.notes, "graph.constants": gone})


def _constant(graph: GraphProto) -> list[NodeProto]:
    """The nodes that only stored values reach, in the graph's order."""
    known = {item.name for item in graph.initializer} | {""}
    found = []
    for node in graph.node:
        if node.op_type in _NEVER or node.op_type in QUANTIZED or not all(name in known for name in node.input):
            continue
        known.update(node.output)
        found.append(node)
    return found


def _answers(model: ModelProto, found: list[NodeProto]) -> dict[str, Any]:
    """What the nodes give, by the name of the value."""
    import onnx
    import onnxruntime

    names = [name for node in found for name in node.output if name]
    if not names:
        return {}
    read = {name for node in found for name in node.input}
    graph = onnx.helper.make_graph(
        found, "constants", [], [onnx.ValueInfoProto(name=name) for name in names],
        [item for item in model.graph.initializer if item.name in read],
    )
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {}), strict=True))


def _fold(graph: GraphProto, found: list[NodeProto], values: Mapping[str, Any]) -> int:
    """Store the values that the rest of the graph reads; how many nodes that made superfluous."""
    from onnx import numpy_helper

    before = len(graph.node)
    answers = {item.name for item in graph.output}
    stored = {item.name: item.ByteSize() for item in graph.initializer}
    for node in found:
        size = sum(values[name].nbytes for name in node.output if name)
        if size > _GROWTH + sum(stored.get(name, 0) for name in node.input) or answers & set(node.output):
            continue
        for name in node.output:
            if name:
                graph.initializer.append(numpy_helper.from_array(values[name], name))
                stored[name] = values[name].nbytes
        graph.node.remove(node)
    used = answers | {name for node in graph.node for name in _read(node)}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return before - len(graph.node)


def _read(node: NodeProto) -> set[str]:
    """The values that a node, or a graph inside it, takes."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            names.update(*(_read(item) for item in inner.node), (item.name for item in inner.output))
    return names
