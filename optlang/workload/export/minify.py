"""Makes an ONNX file as small as its meaning: no documentation, short inner names, equal constants once.

It knows the format, not what the graph computes.
"""

from __future__ import annotations

from typing import Any


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
        _share_constants(graph)
        _shorten_names(graph)
    graph.name = "g"
    _drop_unused_domains(model)
    return model


def _has_graphs(node: Any) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _share_constants(graph: Any) -> None:
    """Zero points and scales repeat: keep one of each content."""
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    keep = []
    outputs = {item.name for item in graph.output}
    for item in graph.initializer:
        if item.external_data or item.name in outputs:
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
