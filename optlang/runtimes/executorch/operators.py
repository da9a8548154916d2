"""Compares an int8 file with its graph in torch operator by operator, each given what the file itself has before it.

XNNPACK's kernels round ties and biases in other places than torch, so that one value in a few hundred is a step off. A
net that answers to such steps is far from its graph at the end though each operator is right, and a wrong operator may
be lost among them. So a second file gives what stands between the layers too; the graph is run next to it, each layer
on the file's own values. A file that agrees in every operator, and answers as this one, is the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401 - it defines the operators that round
from torch import fx

from optlang.interfaces import Array, Refusal
from optlang.runtimes.executorch.session import method_of
from optlang.workload.data.tensors import array
from optlang.workload.export import torch_export, tracing

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Node: TypeAlias = Any
"""An fx.Node, whose arguments torch declares as any of twenty types."""

STEPS = 2
"""How many steps of its scale an operator of a file may be off: ties and biases are rounded in other places."""
_FURTHER = 1.5
"""With dynamic ranges a product may be this many times as far from the unrounded one as the graph's is: XNNPACK has a
range for each sample or row where the graph has one for all."""
_ALIKE = 1e-3
_OPS = torch.ops.quantized_decomposed
_QUANTIZE, _DEQUANTIZE = _OPS.quantize_per_tensor.default, _OPS.dequantize_per_tensor.default
_DYNAMIC = _OPS.quantize_per_tensor.tensor, _OPS.dequantize_per_tensor.tensor
_PRODUCTS = {*torch_export.LINEAR, *torch_export.CONVOLUTIONS}
CLAMPS = {
    torch.ops.aten.hardtanh.default, torch.ops.aten.hardtanh_.default, torch.ops.aten.relu6.default,
    torch.ops.aten.relu6_.default,
}
"""Clamps to two bounds, a ReLU6 above all."""
_ACTIVATIONS = {torch.ops.aten.relu.default, torch.ops.aten.relu_.default, *CLAMPS}


@dataclass(frozen=True, slots=True)
class Wrong:
    """An operator of a file that gives other values than torch: its layer ("" for the model's own forward), its name,
    and by how much it is off in words."""

    layer: str
    operator: str
    off: str

    def __str__(self) -> str:
        return f"{self.layer or 'forward'} ({self.operator}, off by {self.off})"


class WrongOperators(Exception):  # noqa: N818 - what the file has
    """A file has operators that give other values than its graph."""

    def __init__(self, operators: Sequence[Wrong]) -> None:
        super().__init__(", ".join(map(str, operators)))
        self.operators = operators


class Operators:
    """The operators of an int8 file, whose graph is `graph`; `lowered` makes a file's program of such a graph."""

    def __init__(self, graph: fx.GraphModule, lowered: Callable[[fx.GraphModule], Any]) -> None:
        self._graph = graph
        self._lowered = lowered
        self._points = _points(graph.graph)
        self._content = b""
        self._method: Any = None

    def check(self, inputs: Mapping[str, Tensor], answers: Sequence[Array]) -> None:
        """Raise `WrongOperators` where some do not give what the graph does for what the file has before them.

        `answers` are the file's own to `inputs`. Raises `Refusal` where a file with what stands between the layers
        does not answer as the file itself, and where no operator is wrong but the answers behind the last one.
        """
        if self._method is None:
            opened = _opened(self._graph, self._points)
            self._content = bytes(self._lowered(opened).buffer)
            self._method = method_of(self._content)
        found = [array(item) for item in self._method.execute(tuple(inputs.values()))]
        last, between = found[: len(answers)], found[len(answers) :]
        names = [f"output {place}" for place in range(len(last))]
        _same(dict(zip(names, answers, strict=True)), last, "with what stands between its layers the lowered model")
        there = dict(zip(self._points, map(torch.from_numpy, between), strict=True))
        follow = _Following(self._graph, there)
        with torch.no_grad():
            right = dict(zip(names, map(array, follow.run(*inputs.values())), strict=True))
        if follow.wrong:
            raise WrongOperators(follow.wrong)
        _same(right, last, "behind its last layer the lowered model")


def _same(wanted: Mapping[str, Array], found: Sequence[Array], what: str) -> None:
    try:
        tracing.agree(wanted, found, what, _ALIKE)
    except Refusal as error:
        raise Refusal(str(error), help="use the runtime onnxruntime") from error


def _points(graph: fx.Graph) -> list[Node]:
    """The nodes whose values are looked at: those in integers, and products with dynamic ranges, behind what is fused
    with them."""
    found = []
    for node in graph.nodes:
        if node.target is _QUANTIZE:
            if not _passed(node):
                found.append(node)
        elif node.target in _PRODUCTS and node.args[0].target is _DYNAMIC[1]:
            users = list(node.users)
            fused = len(users) == 1 and users[0].target in _ACTIVATIONS
            found.append(users[0] if fused else node)
    return found


def _passed(quantize: Node) -> bool:
    """Whether XNNPACK leaves out a rounding since there is nothing but a clamp, and its own rounding, behind it."""
    users = list(quantize.users)
    behind = list(users[0].users) if len(users) == 1 and users[0].target is _DEQUANTIZE else []
    if len(behind) != 1 or behind[0].target not in _ACTIVATIONS:
        return False
    return [item.target for item in behind[0].users] == [_QUANTIZE]


def _opened(graph: fx.GraphModule, points: Sequence[Node]) -> fx.GraphModule:
    """The graph with the values at `points` behind its outputs, integers as the floats that they stand for."""
    copied = fx.Graph()
    kept: dict[Node, Node] = {}
    copied.graph_copy(graph.graph, kept)
    (end,) = graph.graph.find_nodes(op="output")
    outputs = [kept[item] for item in end.args[0]]
    for node in points:
        place = kept[node]
        with copied.inserting_after(place):
            if node.target is _QUANTIZE:
                place = copied.call_function(_DEQUANTIZE, (place, *node.args[1:]))
            elif any(_name(user).endswith("_") for user in node.users):
                # What is behind it writes into it.
                place = copied.call_function(torch.ops.aten.clone.default, (place,))
        outputs.append(place)
    copied.output(tuple(outputs))
    return fx.GraphModule(graph, copied)


class _Following(fx.Interpreter):
    """Runs a graph in torch, and goes on behind each point with the value that the file has there."""

    def __init__(self, graph: fx.GraphModule, found: Mapping[Node, Tensor]) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self._found = found
        self.wrong: list[Wrong] = []

    def run_node(self, n: fx.Node) -> Any:
        """The file's own value of a point, compared with torch's; torch's of all other nodes."""
        node: Node = n
        source = node.args[0] if node.target is _DEQUANTIZE else None
        if source is not None and source.target is _QUANTIZE and _passed(source):
            return self.env[source.args[0]]
        value = super().run_node(n)
        if node not in self._found:
            return value
        if node.target is _QUANTIZE:
            scale, zero, low, high = node.args[1:5]
            found = (self._found[node] / scale + zero).round().clamp(low, high).to(value.dtype)
            off = int((found.int() - value.int()).abs().max()) if value.numel() else 0
            said = f"{off} steps" if off > STEPS else ""
        else:
            found = self._found[node]
            said = self._further(node, value, found)
        if said:
            product = _product(node)
            self.wrong.append(Wrong(torch_export.layer_of(product), _name(product), said))
        return found

    def _further(self, node: Node, value: Tensor, found: Tensor) -> str:
        """By how much a product with dynamic ranges is off, in words; "" where it is as near as the graph's own."""
        product: Node = node if node.target in _PRODUCTS else node.args[0]
        # What is before the rounding of its input: two nodes back.
        unrounded = product.args[0].args[0].args[0]
        arguments = [self.env[item] if isinstance(item, fx.Node) else item for item in product.args[1:]]
        exact = product.target(self.env[unrounded], *arguments, **product.kwargs)
        if product is not node:
            exact = self.call_function(node.target, (exact, *node.args[1:]), node.kwargs)
        own, files = ((item - exact).square().mean().sqrt() for item in (value, found))
        allowed = _FURTHER * own + _ALIKE * exact.abs().max()
        return "" if bool(files <= allowed) else f"{float(files / exact.abs().max()):.0%} of its largest value"


def _product(node: Node) -> Node:
    """The operator that a point is behind: the nearest product before it, or what is right before it."""
    first = node.args[0] if node.target is _QUANTIZE else node
    item = first
    while item.target in _ACTIVATIONS and isinstance(item.args[0], fx.Node):
        item = item.args[0]
    return item if item.target in _PRODUCTS else first


def _name(node: Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]
