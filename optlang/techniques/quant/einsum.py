"""Writes sums over indices (Einsum) as products of matrices, which quantizers know. Rounds nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from optlang.techniques.quant.embedding_tables import set_nodes


@dataclass(frozen=True, slots=True)
class _Terms:
    """The indices of a sum over `inner`: of the value, the weight and the answer; the others are free."""

    value: str
    weight: str
    answer: str

    @property
    def inner(self) -> str:
        return "".join(index for index in self.value if index in self.weight)

    @property
    def rows(self) -> str:
        return "".join(index for index in self.value if index not in self.weight)

    @property
    def columns(self) -> str:
        return "".join(index for index in self.weight if index not in self.value)

    def is_product(self) -> bool:
        """Whether it is a product of two matrices, when the axes of both are put in order."""
        once = all(len(set(term)) == len(term) for term in (self.value, self.weight, self.answer))
        free = self.rows + self.columns
        return once and bool(self.inner and self.rows and self.columns) and sorted(self.answer) == sorted(free)


def as_products(model: Any) -> bool:
    """Write each Einsum of a value and a constant as a MatMul of the same name, in `model` (an onnx.ModelProto) itself.

    The value is transposed and reshaped where that is needed, the constant once and for all. Sums that are no product
    of two matrices (an index that both have and the answer too, dots) stay as they are. Whether there was one.
    """
    from onnx import TensorProto

    graph = model.graph
    stored = {item.name: item for item in graph.initializer if item.data_type == TensorProto.FLOAT}
    nodes: list[Any] = []
    found = False
    for node in graph.node:
        place = _weight(node, stored)
        terms = _terms(node, place) if place is not None else None
        if place is None or terms is None:
            nodes.append(node)
            continue
        nodes += _product(graph, node, place, terms, stored[node.input[place]])
        found = True
    if found:
        set_nodes(graph, nodes)
        used = {name for node in graph.node for name in node.input}
        for item in [item for item in graph.initializer if item.name in stored and item.name not in used]:
            graph.initializer.remove(item)
    return found


def _weight(node: Any, stored: dict[str, Any]) -> int | None:
    if node.op_type != "Einsum" or len(node.input) != 2:
        return None
    places = [index for index, name in enumerate(node.input) if name in stored]
    return places[0] if len(places) == 1 else None


def _terms(node: Any, place: int) -> _Terms | None:
    equation = next(item.s.decode() for item in node.attribute if item.name == "equation").replace(" ", "")
    inputs, arrow, answer = equation.partition("->")
    if not arrow or "." in equation or inputs.count(",") != 1:
        return None
    both = inputs.split(",")
    terms = _Terms(both[1 - place], both[place], answer)
    return terms if terms.is_product() else None


def _product(graph: Any, node: Any, place: int, terms: _Terms, weight: Any) -> Iterator[Any]:
    """The nodes of the product, whose constants go into the graph."""
    from onnx import TensorProto, helper, numpy_helper

    array = numpy_helper.to_array(weight)
    sizes = dict(zip(terms.weight, array.shape, strict=True))
    order = [terms.weight.index(index) for index in terms.inner + terms.columns]
    matrix = f"{node.output[0]}_weight"
    inner = math.prod(sizes[index] for index in terms.inner)
    graph.initializer.append(numpy_helper.from_array(array.transpose(order).reshape(inner, -1).copy(), matrix))

    def turned(value: str, before: str, after: str, answer: str, end: str) -> Iterator[Any]:
        perm = [before.index(index) for index in after]
        yield helper.make_node("Transpose", [value], [answer], f"{node.name}_{end}", perm=perm)

    def shaped(value: str, last: list[int], answer: str, end: str) -> Iterator[Any]:
        shape = f"{answer}_shape"
        axes = [0] * len(terms.rows) + last  # 0: as long as it is
        graph.initializer.append(helper.make_tensor(shape, TensorProto.INT64, [len(axes)], axes))
        yield helper.make_node("Reshape", [value, shape], [answer], f"{node.name}_{end}")

    value, name = node.input[1 - place], node.output[0]
    if terms.value != terms.rows + terms.inner:
        yield from turned(value, terms.value, terms.rows + terms.inner, f"{name}_turned", "turn")
        value = f"{name}_turned"
    if len(terms.inner) > 1:
        yield from shaped(value, [inner], f"{name}_flat", "flatten")
        value = f"{name}_flat"
    steps = ["product"]
    if len(terms.columns) > 1:
        steps.append("columns")
    if terms.answer != terms.rows + terms.columns:
        steps.append("order")
    names = {step: name if step == steps[-1] else f"{name}_{step}" for step in steps}
    yield helper.make_node("MatMul", [value, matrix], [names["product"]], node.name)
    if "columns" in steps:
        last = [sizes[index] for index in terms.columns]
        yield from shaped(names["product"], last, names["columns"], "columns")
    if "order" in steps:
        yield from turned(names[steps[-2]], terms.rows + terms.columns, terms.answer, name, "order")
