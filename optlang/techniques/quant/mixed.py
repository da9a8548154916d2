"""Mixed precision: int8, but for the layers that it harms most, as many as a budget asks for.

Layers are ranked by what each alone in int8 does to the model's answers, and put back into float from the worst on:
phases 1 and 2 of Pandey et al., A Practical Mixed Precision Algorithm for Post-Training Quantization, 2023 (AIMET's
automatic mixed precision). One layer at a time in int8 is also how NVIDIA's pytorch-quantization draws its profile of
sensitivities; the other way round (one at a time in float, as Intel's neural-compressor falls back) hides a layer's
harm behind that of all others. The score is the signal-to-noise ratio of the outputs, not the accuracy: it needs no
labels, and tells layers apart that a few hundred samples get equally right.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Arrays, Context, ModelState, QuantWants, Refusal
from optlang.techniques.quant.divisions import noted
from optlang.techniques.quant.onnx_graph import RECURRENT, WEIGHTS, covered, eligible, left_float, load, operators_of
from optlang.techniques.quant.ort_quantizer import finished, float_bytes, ranges_of, wants_of, workshop, write
from optlang.techniques.quant.sensitivity import Layers, answers, scores, sqnr
from optlang.techniques.shared.parametrizations import without_parametrizations
from optlang.workload.export.minify import compact

if TYPE_CHECKING:
    from optlang.workload.data.dataset import Dataset

# What the scores follow from; another budget finds them as they are.
_SCORED = ("calibrator", "percentile", "bins", "samples", "granularity", "keep", "only")
# Keeps 0.99 - 0.98 = 0.010000000000000009 from being more than one point.
_ROUNDING = 1e-9


def mixed(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Static int8 with layers put back into float, the most sensitive first, until (or as long as) `budget` holds.

    - "accuracy": as few in float as lose at most `max_drop` points of accuracy on `held_out` samples of 'train' that
      set no range (of a task without accuracy: whose loss rises by at most that share; without labels: as few as
      change the float model's class on at most that share of samples, or its answers by at most that share of them);
    - "size": as many in float as fit into `share` of the float file's bytes; a layer that does not fit is passed over;
    - "latency": as many in float as the runtime runs in at most `share` of the float model's time, found by bisection.

    The search by bisection assumes that more layers in float are no worse; what it ends with was measured. Notes:
    `mixed.sqnr`, the score (dB) by layer; `mixed.float`, the layers put back into float; `mixed.reached`, what was
    reached of the budget; `quantize.weights`, `quantize.float` and `quantize.divided`, as `static` has them. Raises
    `Refusal` with the best that was reached where no choice meets the budget, where no layer is left to choose, where
    int8 does not know most of the weights, or the file does not become smaller.
    """
    wants = wants_of(context, settings["granularity"])
    state = without_parametrizations(state, context.data, context.study)
    with workshop(state, context) as (source, prepared):
        graph = load(prepared).graph
        left, operators = left_float(graph, state, settings), operators_of(graph, wants)
        layers = Layers(graph, left)
        products = eligible(graph, [item for item in operators if item in WEIGHTS and item != "Gather"], left)
        about_layers = {**covered(graph, products, left, settings, RECURRENT), **noted(graph, operators)}
        state = replace(state, notes={**state.notes, **about_layers})
        names = [item.name for item in graph.input]
        data = context.data.bind(names)
        samples = data.calibration(int(settings["samples"]), context.seed)
        writer = _Writer(prepared, operators, samples, settings, wants)
        about: dict[str, JSON] = {name: _plain(settings[name]) for name in _SCORED if name in settings}
        found = context.memo(
            "sqnr", about, lambda: list(scores(layers, writer.kept_in_float, prepared, samples, context.batch))
        )
        assert isinstance(found, list | tuple)
        ranked = sorted(zip(layers.names, (float(str(item)) for item in found), strict=True), key=lambda item: item[1])

        def written(chosen: Sequence[str]) -> Path:
            return writer.kept_in_float(layers.kept(chosen))

        bench = _Bench(state, context, data, source, settings, written)
        chosen, reached = _chosen([name for name, _ in ranked], settings, bench)
        result = finished(bench.written(chosen), source, state, context)
    notes: dict[str, JSON] = {
        "mixed.sqnr": dict(ranked), "mixed.float": chosen, "mixed.reached": reached,
    }
    return replace(result, notes={**result.notes, **notes})


def _plain(value: Any) -> JSON:
    return list(value) if isinstance(value, list | tuple) else value


class _Writer:
    """Writes the graph in int8 as often as asked; the ranges are found once, when they are first needed."""

    def __init__(
        self, prepared: Path, operators: Sequence[str], samples: Mapping[str, Any], settings: Mapping[str, Any],
        wants: QuantWants,
    ) -> None:
        self._prepared, self._operators, self._wants = prepared, operators, wants
        self._samples, self._settings = samples, settings

    @functools.cached_property
    def _ranges(self) -> Any:
        return ranges_of(self._prepared, self._samples, self._operators, self._settings, self._wants)

    def kept_in_float(self, nodes: Sequence[str]) -> Path:
        """The file with these nodes in float; it stays until the next one is written."""
        result = self._prepared.with_name("mixed.onnx")
        write(self._prepared, result, self._operators, nodes, self._ranges, self._wants)
        return result


@dataclass(frozen=True, slots=True)
class _Bench:
    """Measures a choice of float layers; `written` gives its file."""

    state: ModelState
    context: Context
    data: Dataset
    source: Path
    settings: Mapping[str, Any]
    written: Callable[[Sequence[str]], Path]

    def share_of_bytes(self, chosen: Sequence[str]) -> float:
        """The bytes of the file over those of the float file, both without needless names."""
        return int(compact(load(self.written(chosen))).ByteSize()) / float_bytes(self.source)

    def share_of_time(self) -> Callable[[Sequence[str]], float]:
        """What gives a choice's latency over the float model's."""
        import onnx

        assert self.context.latency is not None, "declared: needs latency"
        time_of = self.context.latency
        whole = time_of(self.state)

        def share(chosen: Sequence[str]) -> float:
            written = self.written(chosen)
            path = written.with_name("timed.onnx")
            onnx.save(compact(load(written)), path)
            return time_of(replace(self.state, form="onnx", model=path)) / whole

        return share

    def loss_of_quality(self) -> Callable[[Sequence[str]], float]:
        """What gives the points of accuracy that a choice loses (or the share by which the loss rises)."""
        from optlang.workload.data.tensors import leaves

        inputs, targets = self.data.held_out(
            int(self.settings["held_out"]), self.context.seed, int(self.settings["samples"])
        )

        if not leaves(targets):
            return self._disagreement(inputs)

        def quality(model: Path) -> tuple[float, bool]:
            given = answers(model, inputs, self.context.batch)
            metrics = self.data.task.metrics(given, targets)
            if "accuracy" in metrics:
                return metrics["accuracy"], True
            return float(self.data.task.loss(given, targets)), False

        whole, points = quality(self.source)

        def lost(chosen: Sequence[str]) -> float:
            value, _ = quality(self.written(chosen))
            return whole - value if points else (value - whole) / (abs(whole) or 1.0)

        return lost

    def _disagreement(self, inputs: Arrays) -> Callable[[Sequence[str]], float]:
        """What gives the share of samples that a choice answers otherwise than the float model, if these are classes,
        else how far its answers are from that model's, as a share of these."""
        from optlang.workload.data import ragged

        def given(model: Path) -> dict[str, Any]:
            return {name: ragged.padded(item) for name, item in answers(model, inputs, self.context.batch).items()}

        task, whole = self.data.task, given(self.source)
        classes = task.choices(whole)

        def lost(chosen: Sequence[str]) -> float:
            found = given(self.written(chosen))
            if classes is None:
                return float(10 ** (-sqnr(whole, found) / 20))
            mine = task.choices(found)
            assert mine is not None
            return float((mine != classes).double().mean())

        return lost


def _chosen(ranked: Sequence[str], settings: Mapping[str, Any], bench: _Bench) -> tuple[list[str], float]:
    """The layers to leave in float, out of `ranked` (worst first), and the value of the budget's measure then."""
    if settings["budget"] == "accuracy":
        return _fewest(ranked, bench.loss_of_quality(), float(settings["max_drop"]) + _ROUNDING)
    if settings["budget"] == "size":
        return _that_fit(ranked, bench.share_of_bytes, float(settings["share"]))
    return _most(ranked, bench.share_of_time(), float(settings["share"]))


def _fewest(ranked: Sequence[str], lost: Callable[[Sequence[str]], float], limit: float) -> tuple[list[str], float]:
    """The shortest beginning of `ranked` whose loss is within `limit`; at least one layer becomes int8."""
    seen: dict[int, float] = {}

    def holds(count: int) -> bool:
        if count not in seen:
            seen[count] = lost(ranked[:count])
        return seen[count] <= limit

    if holds(0):
        return [], seen[0]
    low, high = 0, len(ranked) - 1
    if not holds(high):
        # More in float may be worse by chance: nothing is said to be out of reach that was not looked at.
        high = next((count for count in range(1, high) if holds(count)), 0)
    if not high:
        best = min(seen, key=lambda count: (seen[count], count))
        raise Refusal(
            f"no choice of layers loses at most {limit:.2%}: the least that was reached is {seen[best]:.2%}, with "
            + (f"{', '.join(ranked[:best])} in float" if best else "every layer in int8"),
            help="a larger `max_drop`, or more calibration `samples`",
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return list(ranked[:high]), seen[high]


def _most(ranked: Sequence[str], share: Callable[[Sequence[str]], float], limit: float) -> tuple[list[str], float]:
    """The longest beginning of `ranked` whose share is within `limit`; at least one layer becomes int8."""
    seen: dict[int, float] = {}

    def holds(count: int) -> bool:
        if count not in seen:
            seen[count] = share(ranked[:count])
        return seen[count] <= limit

    low, high = 0, len(ranked)
    if not holds(low):
        # Where int8 is slower than float, less of it may do.
        halves = [count for step in range(high.bit_length()) if (count := (high - 1) >> step)]
        low = next((count for count in halves if holds(count)), 0)
        high = min((count for count in seen if count > low), default=high)
    if not holds(low):
        best = min(seen, key=lambda count: (seen[count], count))
        raise Refusal(
            f"no choice that was timed takes at most {limit:.1%} of the float model's time: the best takes "
            f"{seen[best]:.1%}, with " + (f"{', '.join(ranked[:best])} in float" if best else "every layer in int8"),
            help="a larger `share`, or fewer layers in `keep`",
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return list(ranked[:low]), seen[low]


def _that_fit(ranked: Sequence[str], share: Callable[[Sequence[str]], float], limit: float) -> tuple[list[str], float]:
    """The layers that fit into `limit`, each taken in its turn where it does; at least one layer becomes int8."""
    chosen: list[str] = []
    reached = share(chosen)
    if reached > limit:
        raise Refusal(
            f"with every layer in int8 the file has {reached:.1%} of the float file's bytes, and {limit:.1%} was asked "
            f"for; {ranked[0]} suffers most and is in int8 even so",
            help="a larger `share`, fewer layers in `keep`, or channels removed first",
        )
    for name in ranked:
        found = share([*chosen, name]) if len(chosen) + 1 < len(ranked) else 1.0
        if found <= limit:
            chosen, reached = [*chosen, name], found
    return chosen, reached
