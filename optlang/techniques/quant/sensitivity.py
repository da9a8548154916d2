"""What int8 costs layer by layer: which layers there are, and what each alone does to the answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Refusal
from optlang.techniques.quant.embedding_tables import tables_of
from optlang.techniques.quant.onnx_graph import WITH_WEIGHTS, eligible, layer_of
from optlang.techniques.quant.ort_quantizer import Reader, session_of
from optlang.workload.data import ragged
from optlang.workload.export.onnx_weights import census

if TYPE_CHECKING:
    import numpy

    Answers = dict[str, numpy.ndarray[Any, Any]]

_PRODUCTS = (*WITH_WEIGHTS, "ConvTranspose")
# A layer that changes nothing at all has no noise: 1e-20 of the signal stands for none, which is 200 dB.
_SILENCE = 1e-20


class Layers:
    """The layers of a float graph that int8 may take, and which nodes stay in float with which of them.

    A layer is its nodes with weights. A node without weights (a sum, an activation) goes with the layers right before
    it: it stays in float where all of these do, since rounding between two float layers costs and wins nothing.
    `left` are nodes that stay in float whatever is chosen. Raises `Refusal` where no layer is there to choose.
    """

    def __init__(self, graph: Any, left: Sequence[str]) -> None:
        self._left = list(left)
        # A node without a name cannot be kept in float.
        weighted = set(eligible(graph, _PRODUCTS, ())) - {""}
        weighted |= {node.name for nodes in tables_of(graph).values() for node in nodes if node.name}
        found = {node.name: layer_of(node.name) or node.name for node in graph.node if node.name in weighted}
        chosen = weighted.difference(left)
        # Part of a layer that was left in float by name is no layer to choose.
        self.names = tuple(dict.fromkeys(layer for node, layer in found.items() if node in chosen))
        if not self.names:
            raise Refusal(
                f"no layer is left to quantize: the model has {census(graph)}",
                help="mixed takes convolutions and linear layers; shorten `keep`, or name more in `only`",
            )
        self._before: dict[str, set[str]] = {}
        behind: dict[str, set[str]] = {}
        for node in graph.node:
            layers = {found[node.name]} if node.name in found else set[str]().union(
                *(behind.get(name, set()) for name in node.input)
            )
            behind.update(dict.fromkeys(node.output, layers))
            if node.name and layers:
                self._before[node.name] = layers
        self._always = set(found.values()) - set(self.names)

    def kept(self, in_float: Collection[str]) -> list[str]:
        """The names of the nodes that stay in float when these layers do."""
        layers = {*in_float, *self._always}
        return list(dict.fromkeys([*self._left, *(name for name, mine in self._before.items() if mine <= layers)]))


def answers(model: Path, samples: Mapping[str, Any], batch: int | None = None) -> Answers:
    """The outputs of the ONNX file `model` for `samples` (inputs by name, first axis the sample), by output name.

    `batch` samples a call: what a target's call has, since some models answer by what else is in a call.
    """
    session = session_of(model)
    names = [item.name for item in session.get_outputs()]
    pieces = []
    # Where samples differ in shape a call has those of one.
    for places, group in ragged.groups(samples):
        reader = Reader(group, batch)
        answered = []
        while (given := reader.get_next()) is not None:
            answered.append(session.run(names, given))
        joined = {name: ragged.column([piece[index] for piece in answered]) for index, name in enumerate(names)}
        pieces.append((places, joined))
    return {name: ragged.padded(item) for name, item in ragged.in_order(pieces).items()}


def sqnr(wanted: Answers, found: Answers) -> float:
    """The signal-to-quantization-noise ratio in dB (10 log10 of E[wanted²] / E[(wanted − found)²]), at most 200.

    Of several outputs the worst one counts; those that are no floating-point numbers (labels) do not.
    """
    import numpy

    worst = math.inf
    for name, value in wanted.items():
        if not numpy.issubdtype(value.dtype, numpy.floating):
            continue
        signal = float(numpy.square(value, dtype=numpy.float64).mean())
        noise = float(numpy.square(value.astype(numpy.float64) - found[name]).mean())
        if signal > 0:
            worst = min(worst, -10 * math.log10(max(noise / signal, _SILENCE)))
    if math.isinf(worst):
        raise Refusal("the cost of int8 cannot be measured: no output has numbers other than zero")
    return worst


def scores(
    layers: Layers, quantized: Callable[[Sequence[str]], Path], float_graph: Path, samples: Any,
    batch: int | None = None,
) -> list[float]:
    """The SQNR of the model's outputs (dB) with each layer alone in int8 and all others in float, in order of `layers`.

    `quantized` writes the graph with the given nodes in float. The lower, the more the layer suffers (phase 1
    of Pandey et al., A Practical Mixed Precision Algorithm for Post-Training Quantization, 2023).
    """
    wanted = answers(float_graph, samples, batch)
    found = []
    for layer in layers.names:
        others = [name for name in layers.names if name != layer]
        found.append(sqnr(wanted, answers(quantized(layers.kept(others)), samples, batch)))
    return found
