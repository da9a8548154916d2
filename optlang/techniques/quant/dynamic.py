"""INT8 weights through ONNX Runtime's dynamic quantizer; activations are quantized when a call has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optlang.interfaces import Context, ModelState, QuantWants, Refusal
from optlang.techniques.quant.embedding_tables import tables_of
from optlang.techniques.quant.onnx_graph import (
    LINEAR,
    RECURRENT,
    WEIGHTS,
    WITH_WEIGHTS,
    covered,
    eligible,
    excluded,
    left_float,
    load,
    weights_of,
)
from optlang.techniques.quant.ort_quantizer import (
    finished,
    quant_type,
    wants_of,
    workshop,
    write_tables,
)
from optlang.techniques.quant.weight_only import round_weights, storages_of
from optlang.techniques.shared.parametrizations import without_parametrizations
from optlang.workload.export.onnx_weights import census

# What multiplies matrices.
_PRODUCTS = (*LINEAR, "LSTM")
# What becomes int8 with none of the settings.
_WITHOUT = ("GRU", "RNN", "ConvTranspose")
_CONVOLUTIONS = "operators = all takes convolutions too"


def dynamic(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Weights in int8; activations are quantized as they come. Linear layers and attention, LSTM, and convolutions.

    Embedding tables become int8 too: the rows that a call reads become floats, and nothing else is computed.

    `operators` "auto" takes convolutions only where they hold most of the weights: ONNX Runtime's advice is dynamic
    int8 for Transformers and recurrent nets, since convolutions in integers are rarely faster.
    An LSTM becomes com.microsoft's DynamicQuantizeLSTM. There is no such operator for a GRU. OpenVINO has none for any
    layer: its file has weights in integers alone, by which it multiplies rounded inputs in linear layers, and floats
    elsewhere.
    Notes: `quantize.weights`, the share of the weights in int8; `quantize.float`, the layers that stay in float though
    nobody asked for it. Raises `Refusal` where no operator of the chosen kind has weights, more than half of the
    weights would stay in float (unless `only` names the layers), or the file does not become smaller.
    """
    from onnxruntime.quantization import quantize_dynamic

    wants = wants_of(context)
    state = without_parametrizations(state, context.data, context.study)
    with workshop(state, context) as (source, prepared):
        graph = load(prepared).graph
        left = left_float(graph, state, settings)
        linear = settings["operators"] == "linear" or (
            settings["operators"] == "auto" and not _mostly_convolutions(graph, left)
        )
        operators = _PRODUCTS if linear else (*WITH_WEIGHTS, "LSTM")
        nodes = eligible(graph, operators, left)
        tables = tables_of(graph, left)
        if not nodes and not tables:
            raise Refusal(
                f"no layer is left to quantize: the model has {census(graph)}, and "
                + ("linear ones and LSTM" if operators == _PRODUCTS else "linear ones, LSTM and convolutions")
                + " were asked for",
                help=_CONVOLUTIONS if operators == _PRODUCTS else "shorten `keep`, or name more in `only`",
                depends="settings" if left or operators == _PRODUCTS else "model",
            )
        notes = covered(graph, nodes, left, settings, _way_out(graph, left, operators), _WITHOUT)
        kept = excluded(graph, nodes)
        result = prepared
        state = replace(state, notes={**state.notes, **notes})
        asked = None if settings["only"] else (graph, left)
        if wants.dynamic == "weights":
            return finished(_weights(prepared, nodes, left, wants), source, state, context, asked)
        present = {node.op_type for node in graph.node if node.name in nodes}
        for kinds, scheme in _schemes(wants):
            if present.intersection(kinds):
                given, result = result, prepared.with_name(f"{kinds[0]}.onnx")
                quantize_dynamic(given, result, op_types_to_quantize=list(kinds), nodes_to_exclude=kept, **scheme)
        if tables:
            given, result = result, prepared.with_name("tables.onnx")
            write_tables(given, result, left, wants)
        return finished(result, source, state, context, asked)


def _schemes(wants: QuantWants) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """The kinds of operators with what ONNX Runtime's quantizer is to do with them.

    An LSTM with a scale for each of its gates' outputs takes a sixth longer and answers no better. ConvInteger runs
    with unsigned weights of one scale only.
    """
    from onnxruntime.quantization import QuantType

    signed: dict[str, Any] = {
        "reduce_range": wants.reduced, "weight_type": quant_type(wants.weights),
        "extra_options": {"WeightSymmetric": wants.symmetric_weights, "MatMulConstBOnly": True},
    }
    unsigned = {"weight_type": QuantType.QUInt8, "extra_options": {"WeightSymmetric": False}}
    return [(LINEAR, {**signed, "per_channel": wants.per_channel}), (("LSTM",), signed), (("Conv",), unsigned)]


def _weights(prepared: Path, nodes: Collection[str], left: Collection[str], wants: QuantWants) -> Path:
    """The file whose weights of `nodes` and tables are integers, for a runtime that multiplies by them as they are."""
    import onnx

    model, result = load(prepared), prepared.with_name("weights.onnx")
    others = {node.name for node in model.graph.node if node.op_type != "Gather" and node.name not in nodes}
    skipped = others.union(left)
    storages, _ = storages_of(model.graph, skipped, wants)
    round_weights(model, storages, skipped, wants.symmetric_weights, wants)
    onnx.save(model, result)
    return result


def _way_out(graph: Any, left: Collection[str], operators: Sequence[str]) -> str:
    """What to do where `operators` hold too few of the weights; convolutions are named only where they would do."""
    kinds = {node.op_type for node in graph.node if node.name not in left}
    if "Conv" in kinds and "Conv" not in operators:
        try:
            covered(graph, eligible(graph, (*_PRODUCTS, "Conv"), left), left, {"only": ()}, "")
        except Refusal:
            pass
        else:
            return _CONVOLUTIONS
    if "ConvTranspose" in kinds:
        return "static and weight_only take transposed convolutions too; or name in `only` what is all that you want"
    return RECURRENT


def _mostly_convolutions(graph: Any, left: Collection[str]) -> bool:
    """Whether convolutions hold more weights than the other layers that become int8; nodes in `left` do not count."""
    elements = weights_of(graph)
    held = {True: 0, False: 0}
    for node in graph.node:
        if node.op_type in (*_PRODUCTS, "Conv") and node.name not in left:
            held[node.op_type == "Conv"] += sum(elements.get(node.input[index], 0) for index in WEIGHTS[node.op_type])
    return held[True] > held[False]
