"""Embedding tables in 8 bits: integers are gathered, and only the rows that a call reads become floats.

It knows ONNX graphs, and no calibration: a table is a constant, and its rows are rounded as they stand.

Source: a scale for each row as in Guan et al., Post-Training 4-bit Quantization on Embedding Tables, 2019 (and in
PyTorch's `float_qparams_weight_only_qconfig`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.techniques.quant.levels import rounded
from optlang.workload.export.onnx_weights import nodes_of

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

# One scale serves a whole table where its step is at most so many times the mean step of a row: two bits.
_WIDER = 4.0
# What nodes and scales around a smaller table take in the file.
_FIXED = 400


def tables_of(graph: Any, left: Collection[str] = ()) -> dict[str, list[Any]]:
    """The nodes that read each embedding table, by the name of the table: float32, rows gathered by index.

    Tables that a node in `left` gathers from are not among them, nor those that would not become smaller.
    """
    from onnx import TensorProto

    held = {
        item.name: item for item in graph.initializer
        if item.data_type == TensorProto.FLOAT and len(item.dims) == 2 and _pays(*item.dims)
    }
    found: dict[str, list[Any]] = {}
    kept: set[str] = set()
    for node in nodes_of(graph):
        if node.op_type == "Gather" and node.input[0] in held and not _axis(node, 0):
            found.setdefault(node.input[0], []).append(node)
            if node.name in left:
                kept.add(node.input[0])
    return {name: nodes for name, nodes in found.items() if name not in kept}


def _pays(rows: int, width: int) -> bool:
    return 3 * rows * width > 4 * rows + _FIXED


def _axis(node: Any, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == "axis"), default)


def cover(
    model: Any, left: Collection[str], *, ahead: bool = False, one_scale: bool = False, symmetric: bool = True
) -> list[str]:
    """Store the embedding tables of `model` (an onnx.ModelProto) in 8 bits, in place; the names of those that are.

    There is one scale for a table whose rows are alike (or `one_scale`), else one for each row. Integers are int8
    around zero where `symmetric`, else uint8 over the range of the table or of each row. A table that is also a layer's
    weight (tied) and in 8 bits there already is stored once, with the layer's own scales; one that something else reads
    in float stays. `ahead` dequantizes the table ahead of the nodes that gather, for runtimes that take integers in no
    other place.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    stored = {item.name: item for item in graph.initializer}
    done, nodes = [], []
    for name, readers in tables_of(graph, left).items():
        if reads(graph).count(name) > len(readers):
            continue
        table = numpy_helper.to_array(stored[name])
        tied = _tied(graph, table, turned=not ahead)
        if tied is None:
            made = in_bytes(table, symmetric, one_scale)
            # A zero point of 0 is what a graph means by none; but where ONNX Runtime rounds those rows again, behind a
            # Transpose or Reshape, none would be an unsigned 0.
            ends = ("quantized", "scale") if symmetric and made[1].ndim else ("quantized", "scale", "zero_point")
            parts = [f"{name}_{end}" for end in ends]
            graph.initializer.extend(map(numpy_helper.from_array, made[: len(parts)], parts))
        else:
            parts = tied
        whole = math.prod(next(item for item in graph.initializer if item.name == parts[1]).dims) == 1
        about = {} if whole else {"axis": 0}
        nodes.append(helper.make_node("DequantizeLinear", parts, [name], f"{name}_dequantize", **about))
        graph.initializer.remove(stored[name])
        done.append(name)
    prepend(graph, nodes)
    if not ahead:
        behind(graph)
    return done


def in_bytes(table: Array, symmetric: bool = True, one_scale: bool = False) -> tuple[Array, Array, Array]:
    """The 8-bit levels of a float table with its scale and zero point: a number each, or one for each row."""
    levels, scale, zero = rounded(table.reshape(1, -1), 0, symmetric)
    rows = rounded(table, 0, symmetric)
    if one_scale or scale[0] <= _WIDER * float(rows[1].mean()):
        return levels.reshape(table.shape), scale.reshape(()), zero.reshape(())
    return rows


def _tied(graph: Any, table: Array, *, turned: bool) -> list[str] | None:
    """The integers, scale and zero point (if any) by which a layer has the same table already; None where none has.

    Integers that lie transposed are laid out as the table, with a Transpose ahead of the layer that takes them, which
    runtimes fold when they load the file; not unless `turned` allows it.
    """
    from onnx import TensorProto, helper, numpy_helper

    shapes = (list(table.shape), list(table.shape[::-1]))
    stored = {item.name: item for item in graph.initializer}
    for item in list(graph.initializer):
        if item.data_type not in (TensorProto.INT8, TensorProto.UINT8) or list(item.dims) not in shapes:
            continue
        base = item.name.removesuffix("_quantized")
        names = [name for end in ("scale", "zero_point") if (name := f"{base}_{end}") in stored]
        if base == item.name or f"{base}_scale" not in names:
            continue
        levels, *numbers = (numpy_helper.to_array(stored[name]) for name in (item.name, *names))
        # Zero points of 0 are what a graph means by none, but for one that serves all: see `cover`.
        if len(numbers) == 2 and numbers[1].size > 1 and not numbers[1].any():
            names = names[:1]
        for array, lying in ((levels, False), (levels.T, True)):
            if array.shape != table.shape or not _same(array, numbers, table):
                continue
            if not lying:
                return [item.name, *names]
            if turned:
                laid = f"{base}_rows"
                graph.initializer.append(numpy_helper.from_array(array.copy(), laid))
                prepend(graph, [helper.make_node("Transpose", [laid], [item.name], f"{base}_transpose", perm=[1, 0])])
                graph.initializer.remove(item)
                return [laid, *names]
    return None


def _same(levels: Array, numbers: Sequence[Array], table: Array) -> bool:
    """Whether levels with a scale and zero point (one, or one for each row) are the table, to half a step; a few
    clipped ends aside."""
    import numpy

    if any(item.size not in (1, len(table)) for item in numbers):
        return False
    step, *zero = (item.astype(numpy.float32).reshape(-1, 1) for item in numbers)
    off = numpy.abs((levels.astype(numpy.float32) - (zero[0] if zero else 0)) * step - table)
    return bool((off <= 1.01 * step).all() and (off <= 0.501 * step).mean() > 0.99)


def behind(graph: Any) -> None:
    """Gather integers where a graph gathers rows of a constant that is dequantized ahead, and dequantize those rows.

    With the constant ahead a runtime would turn all of it into floats in each call.
    """
    stored = {item.name: item for item in graph.initializer}
    made = {
        node.output[0]: node for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored and _by_row(node, stored)
    }
    _gather_levels(graph, graph, made, stored)
    read = {*reads(graph), *(item.name for item in graph.output)}
    gone = [node for node in graph.node if node.output[0] in made and node.output[0] not in read]
    freed = {name for node in gone for name in node.input}
    set_nodes(graph, [node for node in graph.node if not any(node is item for item in gone)])
    freed -= set(reads(graph))
    for item in [item for item in graph.initializer if item.name in freed]:
        graph.initializer.remove(item)


def _gather_levels(graph: Any, part: Any, made: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """In `part`, the graph or the body of a loop in it, gather integers and dequantize what was gathered.

    Constants are the graph's: the bag of torch's EmbeddingBag gathers in a loop.
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    for node in part.node:
        for item in node.attribute:
            for inner in (item.g, *item.graphs):
                if inner.node:
                    _gather_levels(graph, inner, made, stored)
        source = made.get(node.input[0]) if node.op_type == "Gather" and not _axis(node, 0) else None
        if source is None:
            nodes.append(node)
            continue
        integers, step, *zero = source.input
        rows, indices, answer = f"{node.output[0]}_levels", node.input[1], node.output[0]
        nodes.append(helper.make_node("Gather", [integers, indices], [rows], node.name, axis=0))
        if len(numpy_helper.to_array(stored[step]).reshape(-1)) == 1:
            nodes.append(helper.make_node("DequantizeLinear", [rows, step, *zero], [answer], f"{node.name}_dequantize"))
            continue
        points = numpy_helper.to_array(stored[zero[0]]).astype("float32") if zero else None
        shift = points is not None and bool(points.any())
        floats, product = f"{answer}_floats", f"{answer}_scaled" if shift else answer
        nodes.append(helper.make_node("Cast", [rows], [floats], f"{node.name}_cast", to=TensorProto.FLOAT))
        nodes += _times(graph, node, "Mul", floats, (step, numpy_helper.to_array(stored[step])), product)
        if shift:
            assert points is not None
            offset = -points * numpy_helper.to_array(stored[step])
            nodes += _times(graph, node, "Add", product, (f"{step}_offset", offset), answer)
    set_nodes(part, nodes)


def reads(graph: Any) -> list[str]:
    """The names that nodes read, as often as they do, those in branches among them."""
    return [name for node in nodes_of(graph) for name in node.input]


def _by_row(node: Any, stored: dict[str, Any]) -> bool:
    """Whether it dequantizes a matrix with one scale, or with one for each row."""
    if any(item.name == "block_size" and item.i for item in node.attribute) or len(stored[node.input[0]].dims) != 2:
        return False
    scale = list(stored[node.input[1]].dims) if node.input[1] in stored else None
    return scale is not None and (not scale or scale == [1] or (len(scale) == 1 and _axis(node, 1) % 2 == 0))


def _times(
    graph: Any, node: Any, operator: str, value: str, column: tuple[str, Array], answer: str
) -> Iterator[Any]:
    """The nodes that multiply gathered rows by (or add to them) each row's own number."""
    from onnx import helper, numpy_helper

    name, numbers = column
    rows, gathered = f"{name}_rows", f"{answer}_{operator}"
    if not any(item.name == rows for item in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(numbers.reshape(-1, 1), rows))
    yield helper.make_node("Gather", [rows, node.input[1]], [gathered], f"{node.name}_{operator}_rows", axis=0)
    yield helper.make_node(operator, [value, gathered], [answer], f"{node.name}_{operator}")


def prepend(graph: Any, nodes: Iterable[Any]) -> None:
    """Put nodes that take constants alone in front of all others."""
    set_nodes(graph, [*nodes, *graph.node])


def set_nodes(graph: Any, nodes: Iterable[Any]) -> None:
    """Let `graph` have these nodes, in this order."""
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
