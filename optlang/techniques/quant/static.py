"""INT8 through ONNX Runtime's quantizers, in the scheme that the target's runtime wants. Knows no runtime by name.

Static follows Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference (CVPR 2018): weights and activations in int8, biases in int32, ranges from calibration data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optlang.interfaces import Context, ModelState, Refusal
from optlang.techniques.quant.onnx_graph import (
    LINEAR,
    RECURRENT,
    WEIGHTS,
    WITH_WEIGHTS,
    census,
    covered,
    eligible,
    excluded,
    left_float,
    load,
    operators_of,
    weights_of,
)
from optlang.techniques.quant.ort_quantizer import (
    finished,
    quant_type,
    ranges_of,
    wants_of,
    workshop,
    write,
    write_tables,
)
from optlang.techniques.quant.tables import tables_of
from optlang.techniques.shared.baked import baked

# What multiplies matrices.
_PRODUCTS = (*LINEAR, "LSTM")
_FEWER = "shorten `keep`, or name more in `only`"
_CONVOLUTIONS = "operators = all takes convolutions too"


def dynamic(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Weights in int8; activations are quantized as they come. Linear layers and attention, LSTM, and convolutions.

    Embedding tables become int8 too: the rows that a call reads become floats, and nothing else is computed.

    `operators` "auto" takes convolutions only where they hold most of the weights: ONNX Runtime's advice is dynamic
    int8 for Transformers and recurrent nets, since convolutions in integers are rarely faster.
    An LSTM becomes com.microsoft's DynamicQuantizeLSTM, which OpenVINO reads too. There is no such operator for a GRU.
    Notes: `quantize.weights`, the share of the weights in int8; `quantize.float`, the layers that stay in float though
    nobody asked for it. Raises `Refusal` where no operator of the chosen kind has weights, more than half of the
    weights would stay in float (unless `only` names the layers), or the file does not become smaller.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    wants = wants_of(context)
    state = baked(state, context.data, context.study)
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
                help=_CONVOLUTIONS if operators == _PRODUCTS else _FEWER,
                depends="settings" if left or operators == _PRODUCTS else "model",
            )
        notes = covered(graph, nodes, left, settings, _way_out(graph, left, operators))
        kept = excluded(graph, nodes)
        result = prepared
        if nodes:
            result = prepared.with_name("linear.onnx")
            quantize_dynamic(
                prepared, result, op_types_to_quantize=list(_PRODUCTS), nodes_to_exclude=kept,
                per_channel=wants.per_channel, reduce_range=wants.reduced, weight_type=quant_type(wants.weights),
                extra_options={"WeightSymmetric": wants.symmetric_weights, "MatMulConstBOnly": True},
            )
        if nodes and operators != _PRODUCTS:
            # ConvInteger runs with unsigned weights of one scale only.
            prepared, result = result, prepared.with_name("all.onnx")
            quantize_dynamic(
                prepared, result, op_types_to_quantize=["Conv"], nodes_to_exclude=kept, weight_type=QuantType.QUInt8,
                extra_options={"WeightSymmetric": False},
            )
        if tables:
            prepared, result = result, prepared.with_name("tables.onnx")
            write_tables(prepared, result, left, wants)
        state = replace(state, notes={**state.notes, **notes})
        return finished(result, source, state, context, None if settings["only"] else (graph, left))


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


def static(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Weights and activations in int8, biases in int32, ranges from `samples` of the calibration (else training) data.

    The declared calibrator is ONNX Runtime's, the bins are those of torch's HistogramObserver, and the percentile is in
    the middle of those that Wu et al. (Integer Quantization for Deep Learning Inference, 2020) compare.
    `granularity` says whether each output channel of a weight has a scale of its own (auto: as the runtime wants it).
    Notes: `quantize.weights`, the share of the weights in int8; `quantize.float`, the layers that stay in float though
    nobody asked for it (recurrent ones); `quantize.corrected`, the number of layers whose bias `bias_correction`
    corrected. Raises `Refusal` where no operator has weights, more than half of the weights would stay in float (unless
    `only` names the layers), no bias can be corrected, or the file does not become smaller.
    """
    wants = wants_of(context)
    if settings["granularity"] != "auto":
        wants = replace(wants, per_channel=settings["granularity"] == "channel")
    state = baked(state, context.data, context.study)
    with workshop(state, context) as (source, prepared):
        graph = load(prepared).graph
        kept = left_float(graph, state, settings)
        operators = operators_of(graph, wants)
        products = eligible(graph, WITH_WEIGHTS, kept)
        if not products and not tables_of(graph, kept):
            raise Refusal(
                f"no layer is left to quantize: the model has {census(graph)}", depends="settings" if kept else "model",
                help=f"static int8 takes convolutions, linear layers and embedding tables; {_FEWER}",
            )
        nodes = eligible(graph, [item for item in operators if item in WEIGHTS and item != "Gather"], kept)
        state = replace(state, notes={**state.notes, **covered(graph, nodes, kept, settings, RECURRENT)})
        result = prepared.with_name("quantized.onnx")
        if not products:
            write_tables(prepared, result, kept, wants)
            return finished(result, source, state, context)
        inputs = [item.name for item in graph.input]
        samples = context.data.bind(inputs).calibration(int(settings["samples"]), context.seed)
        ranges = ranges_of(prepared, samples, operators, settings, wants)
        write(prepared, result, operators, kept, ranges, wants)
        if settings["bias_correction"]:
            from optlang.techniques.quant.bias import correct

            corrected = prepared.with_name("corrected.onnx")
            count = correct(prepared, result, kept, samples, corrected)
            write(corrected, result, operators, kept, ranges, wants)
            state = replace(state, notes={**state.notes, "quantize.corrected": count})
        return finished(result, source, state, context, None if settings["only"] else (graph, kept))
