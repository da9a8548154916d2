"""LiteRT's file as data: its operators with the layers they come from, its weights, and the names in it. Runs nothing.

A file has one graph. The converter names each tensor by the classes and attributes of the modules that it passed, and
names what it fused or found twice by all of them; `Graph` turns that into the layers' own names, and `named` writes
short ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optlang.workload.model.quantized_share import Weight

# What multiplies by weights or looks them up, and the place of these among the operator's inputs.
PLACES = {
    "CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "CONV_3D": 1, "TRANSPOSE_CONV": 1, "CONV_3D_TRANSPOSE": 1,
    "FULLY_CONNECTED": 1, "BATCH_MATMUL": 1, "EMBEDDING_LOOKUP": 1, "GATHER": 0,
}
LINEAR = ("FULLY_CONNECTED", "BATCH_MATMUL")
TABLES = ("EMBEDDING_LOOKUP", "GATHER")
_COMPACT = ("INT8", "INT4", "INT2", "FLOAT16")


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of the graph: its kind ("CONV_2D"), its layer ("" for the model's own forward), its outputs' names
    as the quantizer joins them, and the name and number of elements of the weights that it multiplies by."""

    kind: str
    layer: str
    scope: str
    weights: str | None = None
    elements: int = 0


class Graph:
    """The file `content`, whose tensors were named after the modules that `program` was exported from."""

    def __init__(self, content: bytes, program: Any) -> None:
        self._model = read(content)
        self._paths = _paths(program)
        self.operators = tuple(self._operators())

    def _operators(self) -> Iterator[Operator]:
        from ai_edge_quantizer.utils.tfl_flatbuffer_utils import get_op_scope

        graph = self._model.subgraphs[0]
        for item in graph.operators:
            kind, scope = kind_of(self._model, item), get_op_scope(item, graph.tensors)
            place = PLACES.get(kind)
            constant = None
            if place is not None and len(item.inputs) > place:
                constant = graph.tensors[item.inputs[place]]
                if self._model.buffers[constant.buffer].data is None:
                    constant = None
            names = [] if constant is None else [text(constant.name)]
            names += [text(graph.tensors[index].name) for index in item.outputs]
            elements = 0 if constant is None else math.prod(constant.shape)
            layer = self._layer(names, elements)
            yield Operator(kind, layer, scope, None if constant is None else text(constant.name), elements)

    def _layer(self, names: Sequence[str], elements: int) -> str:
        """The layer that tensors come from: of several the one whose own weight has so many elements."""
        passed = [found for name in names for part in name.split(";") for found in self._paths.get(_plain(part), ())]
        for layer, sizes in passed:
            if elements and elements in sizes:
                return layer
        return passed[0][0] if passed else ""

    def weights(self, content: bytes) -> list[Weight]:
        """The weights of the file, each tensor once, and whether `content`, made from it, has them in fewer bits: what
        operators multiply by or look up, and the other constants of floats with two axes or more."""
        from ai_edge_litert.schema_py_generated import TensorType

        types = {value: name for name, value in vars(TensorType).items() if not name.startswith("_")}
        now = {text(item.name): types[item.type] for item in read(content).subgraphs[0].tensors}
        found: dict[str, Weight] = {}
        for item in self.operators:
            if item.weights is not None:
                kind = "linear" if item.kind in LINEAR else "convolution" if "CONV" in item.kind else "embedding table"
                compact = now.get(item.weights) in _COMPACT
                found.setdefault(item.weights, Weight(item.layer, kind, item.elements, compact))
        for tensor in self._model.subgraphs[0].tensors:
            name, stored = text(tensor.name), self._model.buffers[tensor.buffer].data is not None
            if stored and name not in found and types[tensor.type] == "FLOAT32" and len(tensor.shape) > 1:
                layer, compact = self.layers_of(name), now.get(name) in _COMPACT
                found[name] = Weight(layer, "constant", math.prod(tensor.shape), compact)
        return list(found.values())

    def layers_of(self, name: str) -> str:
        """The layer that a tensor of this name, or of one made from it, comes from."""
        return self._layer([name], 0)


def read(content: bytes) -> Any:
    """The file as objects."""
    from ai_edge_litert.tools import flatbuffer_utils

    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def kind_of(model: Any, operator: Any) -> str:
    """The name of an operator: "CONV_2D"."""
    from ai_edge_litert.tools import flatbuffer_utils

    return str(flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex))


def kinds(content: bytes) -> list[str]:
    """The operators that an app must have, each once."""
    model = read(content)
    return sorted({kind_of(model, item) for graph in model.subgraphs for item in graph.operators})


def named(content: bytes, graph: Graph, inputs: Iterable[str], outputs: Iterable[str]) -> bytes:
    """The file with inputs and outputs of these names, in this order, and tensors named after their layers.

    The converter's own names (every class in between, for each operator that was fused) may be a third of a small file.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = read(content)
    for subgraph in model.subgraphs:
        for index, tensor in enumerate(subgraph.tensors):
            tensor.name = f"{graph.layers_of(text(tensor.name)) or 'model'}:{index}".encode()
    (signature,) = model.signatureDefs
    tensors = model.subgraphs[signature.subgraphIndex].tensors
    for given, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for entry, name in zip(sorted(given, key=_number), names, strict=True):
            entry.name = name.encode()
            tensors[entry.tensorIndex].name = name.encode()
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _number(entry: Any) -> int:
    """The converter calls them args_0, args_1, … and output_0, output_1, …"""
    return int(text(entry.name).rpartition("_")[2])


def _paths(program: Any) -> Mapping[str, list[tuple[str, frozenset[int]]]]:
    """The layers by the path of classes and attributes that the converter writes, with the sizes of their weights."""
    from optlang.workload.export.torch_export import layer_of

    sizes: dict[str, set[int]] = {}
    found: dict[str, dict[str, frozenset[int]]] = {}
    for name, item in program.named_parameters():
        parts = [part for part in name.split(".")[:-1] if part]
        sizes.setdefault(".".join(parts[1:]), set()).add(item.numel())
    for node in program.graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        path = "/".join(
            (kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}")
            + (f"_{name.split('.')[-1]}" if name else "")
            for name, kind in stack.values()
        )
        layer = layer_of(node)
        if layer:
            found.setdefault(_plain(path), {})[layer] = frozenset(sizes.get(layer, ()))
    return {path: list(layers.items()) for path, layers in found.items()}


def _plain(path: str) -> str:
    """A path without the count of calls that export gives a layer that is called again: "ReLU_relu@1"."""
    return "/".join(part.partition("@")[0] for part in path.split("/"))


def text(name: bytes | str) -> str:
    """A name of the file as text."""
    return name.decode() if isinstance(name, bytes) else name
