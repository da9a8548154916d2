"""INT8 weights and activations through ONNX Runtime's static quantizer, in the scheme that the target's runtime wants.

Follows Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference (CVPR 2018): weights and activations in int8, biases in int32, ranges from calibration data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optlang.interfaces import Context, ModelState, Refusal
from optlang.techniques.quant.divisions import noted
from optlang.techniques.quant.embedding_tables import tables_of
from optlang.techniques.quant.onnx_graph import (
    RECURRENT,
    WEIGHTS,
    WITH_WEIGHTS,
    covered,
    eligible,
    left_float,
    load,
    operators_of,
)
from optlang.techniques.quant.ort_quantizer import (
    finished,
    ranges_of,
    wants_of,
    workshop,
    write,
    write_tables,
)
from optlang.techniques.shared.parametrizations import without_parametrizations
from optlang.workload.export.onnx_weights import census


def static(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Weights and activations in int8, biases in int32, ranges from `samples` of the calibration (else training) data.

    The declared calibrator is ONNX Runtime's, the bins are those of torch's HistogramObserver, and the percentile is in
    the middle of those that Wu et al. (Integer Quantization for Deep Learning Inference, 2020) compare.
    `granularity` says whether each output channel of a weight has a scale of its own (auto: as the runtime wants it).

    Notes: `quantize.weights`, the share of the weights in int8; `quantize.float`, the layers that stay in float though
    nobody asked for it (recurrent ones); `quantize.divided`, the layers whose arithmetic without weights stays in float
    because one answer is divided by another (linear attention); `quantize.corrected`, the number of layers whose bias
    `bias_correction` corrected. Raises `Refusal` where no operator has weights, more than half of the weights would
    stay in float (unless `only` names the layers), no bias can be corrected, or the file does not become smaller.
    """
    wants = wants_of(context, settings["granularity"])
    state = without_parametrizations(state, context.data, context.study)
    with workshop(state, context) as (source, prepared):
        graph = load(prepared).graph
        kept = left_float(graph, state, settings)
        operators = operators_of(graph, wants)
        products = eligible(graph, WITH_WEIGHTS, kept)
        if not products and not tables_of(graph, kept):
            raise Refusal(
                f"no layer is left to quantize: the model has {census(graph)}", depends="settings" if kept else "model",
                help="static int8 takes convolutions, linear layers and embedding tables; "
                "shorten `keep`, or name more in `only`",
            )
        nodes = eligible(graph, [item for item in operators if item in WEIGHTS and item != "Gather"], kept)
        notes = {**covered(graph, nodes, kept, settings, RECURRENT), **noted(graph, operators)}
        state = replace(state, notes={**state.notes, **notes})
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
