"""Makes an ONNX file as small as its meaning: no documentation, short inner names, equal constants once, no zero points
where they are none.

It knows the format, not what the graph computes.
"""

from __future__ import annotations

from typing import Any

_LAYERS = {"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN"}
_WEIGHTS_OF_GEMM = {("Gemm", 0), ("Gemm", 1)}
"""Where a Gemm reads them: the operator and the number of its input."""


def compact(model: Any) -> Any:
    """Strip `model` (an onnx.ModelProto) in place and return it; inputs, outputs and results stay what they were."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    del model.metadata_props[:]
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    for item in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    if not any(_has_graphs(node) for node in graph.node):  # a name may be used inside a branch
        _share_constants(graph, _drop_zero_points(graph))
        _shorten_names(graph)
    graph.name = "g"
    _drop_unused_domains(model)
    return model


def _has_graphs(node: Any) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _drop_zero_points(graph: Any) -> set[str]:
    """Dequantize the weights and biases of layers without a zero point where it is 0, as it is where there is none;
    those that are kept for a layer, which no other may share.

    OpenVINO runs a layer in floats whose zero points are shared with another layer's. ONNX Runtime 1.32 runs a Gemm in
    floats whose weights have none. Weights that something else reads than a layer keep theirs: where ONNX Runtime moves
    a rounding behind that, it takes none for an unsigned 0.
    """
    stored = {item.name: item for item in graph.initializer}
    readers: dict[str, set[tuple[str, int]]] = {item.name: {("", 0)} for item in graph.output}
    for node in graph.node:
        for index, name in enumerate(node.input):
            readers.setdefault(name, set()).add((node.op_type, index))
    dropped, kept = set[str](), set[str]()
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) < 3 or node.input[0] not in stored:
            continue
        point, read = node.input[2], readers.get(node.output[0], {("", 0)})
        if point not in stored or not {layer for layer, _ in read} <= _LAYERS or not _is_zero(stored[point]):
            continue
        if read & _WEIGHTS_OF_GEMM:
            kept.add(point)
        else:
            del node.input[2:]
            dropped.add(point)
    dropped -= {name for node in graph.node for name in node.input}
    for item in [item for item in graph.initializer if item.name in dropped]:
        graph.initializer.remove(item)
    return kept


def _is_zero(item: Any) -> bool:
    from onnx import numpy_helper

    return not item.external_data and not numpy_helper.to_array(item).astype("int32").any()


def _share_constants(graph: Any, apart: set[str]) -> None:
    """Zero points and scales repeat: keep one of each content, and all that are to stay `apart`."""
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    keep = []
    outputs = {item.name for item in graph.output}
    for item in graph.initializer:
        if item.external_data or item.name in outputs or item.name in apart:
            keep.append(item)
            continue
        name, item.name = item.name, ""
        content = item.SerializeToString(deterministic=True)
        item.name = name
        if content in first:
            same[name] = first[content]
        else:
            first[content] = name
            keep.append(item)
    kept = [type(item).FromString(item.SerializeToString()) for item in keep]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in same:
                node.input[index] = same[name]
    # An older graph may list initializers among its inputs.
    gone = [item for item in graph.input if item.name in same]
    for item in gone:
        graph.input.remove(item)


def _shorten_names(graph: Any) -> None:
    fixed = {item.name for item in (*graph.input, *graph.output)}
    short: dict[str, str] = {"": ""} | {name: name for name in fixed}

    def shortened(name: str) -> str:
        while name not in short:
            candidate = f"t{len(short):x}"
            short[name] = candidate if candidate not in fixed else f"u{candidate}"
        return short[name]

    for item in graph.initializer:
        item.name = shortened(item.name)
    for node in graph.node:
        node.name = ""
        node.input[:] = [shortened(name) for name in node.input]
        node.output[:] = [shortened(name) for name in node.output]


def _drop_unused_domains(model: Any) -> None:
    used = {_domain(node.domain) for node in model.graph.node} | {""}
    unused = [item for item in model.opset_import if _domain(item.domain) not in used]
    if model.functions:
        return
    for item in unused:
        model.opset_import.remove(item)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
