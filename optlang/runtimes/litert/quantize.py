"""INT8 and 16 bits for LiteRT, by ai-edge-quantizer, which rewrites a float file by a recipe.

Static int8 is the scheme of Jacob et al. (CVPR 2018) with symmetric weights by output channel and asymmetric int8
activations; the inputs and outputs of the file stay float32, with operators that quantize and dequantize them.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Array, Refusal, Request
from optlang.runtimes.litert import tflite
from optlang.runtimes.shared.torch_module import refuse_techniques
from optlang.workload import failures, process_state
from optlang.workload.export import torch_export

if TYPE_CHECKING:
    from torch import nn

SIGNATURE = "serving_default"
_KNOWN = ("static", "dynamic", "weight_only", "half")
# XNNPACK has no int8 kernel for these: the graph would fall apart around the interpreter's own, many times slower.
_SLOW = ("HARD_SWISH",)
_REMARKS: tuple[process_state.Remark, ...] = ((r".*experimental_preserve_all_tensors", UserWarning),)
_CONVOLUTIONS = "operators = all takes convolutions too"
_SENSITIVE = "sensitive = false casts the last layer too; or name in `only` what is all that you want"
_FEWER = "LiteRT has kernels for convolutions, linear layers and products; name in `only` what is all that you want"


def refuse_unknown(requests: Sequence[Request]) -> None:
    """`Refusal` for what the quantizer or LiteRT's kernels have not: names the setting and what is there instead."""
    refuse_techniques("litert", requests, _KNOWN)
    for request in requests:
        settings = request.settings
        if settings.get("calibrator", "minmax") != "minmax":
            raise Refusal(
                f"ai-edge-quantizer has no calibrator = {settings['calibrator']} for activations",
                help="set calibrator = minmax",
            )
        if settings.get("bias_correction"):
            raise Refusal("ai-edge-quantizer does not correct biases: set bias_correction = false")
        if settings.get("symmetric") is False:
            raise Refusal("LiteRT's kernels support symmetric weights only: set symmetric = true")
        if settings.get("bits", 8) != 8:
            raise Refusal(
                "LiteRT stores 4-bit weights by channel or with 8-bit activations, not in groups with float inputs",
                help="set bits = 8",
            )
        if settings.get("dtype", "float16") != "float16":
            raise Refusal(f"LiteRT has no kernels for {settings['dtype']} weights", help="set dtype = float16")


def quantized(
    content: bytes, graph: tflite.Graph, module: nn.Module, request: Request, samples: Sequence[Mapping[str, Array]]
) -> tuple[bytes, dict[str, Any]]:
    """The file in fewer bits, and what became of its weights: their share, and the layers that stay in float.

    `samples` are inputs by the file's own names, a batch each; ranges are the least and the largest value seen, where
    the quantizer by itself takes a moving average that depends on their order. In a Transformer products alone are
    quantized. Raises `Refusal` where no layer is left, or most weights stay in float.
    """
    settings = request.settings
    if not any(item.weights is not None for item in _wanted(graph, module, request)):
        torch_export.mostly(graph.weights(content), module, settings, "int8", _FEWER)
    # Bars of progress, and its words about its own way to calibrate.
    with (
        contextlib.redirect_stderr(io.StringIO()), process_state.quiet(("absl",), _REMARKS),
        failures.refused("ai-edge-quantizer does not take the model"),
    ):
        answer = _rewritten(content, graph, module, request, samples)
    found = graph.weights(answer)
    left = request.technique == "dynamic" and any(
        item.kind == "convolution" and not item.quantized for item in found
    )
    if request.technique == "half":
        way_out = _SENSITIVE if settings["sensitive"] else _FEWER
        return answer, torch_export.mostly(found, module, settings, "float16", way_out)
    return answer, torch_export.mostly(found, module, settings, "int8", _CONVOLUTIONS if left else _FEWER)


def _rewritten(
    content: bytes, graph: tflite.Graph, module: nn.Module, request: Request, samples: Sequence[Mapping[str, Array]]
) -> bytes:
    from ai_edge_quantizer import calibrator, quantizer
    from ai_edge_quantizer.utils import qsv_utils

    work = quantizer.Quantizer(content)
    _recipe(work, graph, module, request)
    ranges = None
    if work.need_calibration:
        seen = calibrator.Calibrator(content, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
        seen.calibrate({SIGNATURE: list(samples)}, work._recipe_manager)
        ranges = seen.get_model_qsvs()
    result = work.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model or b"")


def _recipe(work: Any, graph: tflite.Graph, module: nn.Module, request: Request) -> None:
    """Everything that is supported, then without what shall stay in float, which the later line of a recipe says."""
    from ai_edge_quantizer.qtyping import QuantGranularity, TFLOperationName
    from ai_edge_quantizer.quantizer import AlgorithmName

    settings, every = request.settings, TFLOperationName.ALL_SUPPORTED
    tensor = settings.get("granularity") == "tensor"
    granularity = QuantGranularity.TENSORWISE if tensor else QuantGranularity.CHANNELWISE
    if request.technique == "static":
        work.add_static_config(".*", every, 8, 8, granularity)
    elif request.technique == "dynamic":
        work.add_dynamic_config(".*", every, 8)
    elif request.technique == "weight_only":
        work.add_weight_only_config(".*", every, 8)
    else:
        work.add_weight_only_config(
            ".*", every, 16, QuantGranularity.TENSORWISE, AlgorithmName.FLOAT_CASTING
        )
    for operation in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
        work.update_quantization_recipe(".*", operation, None, AlgorithmName.NO_QUANTIZE)
    if request.technique == "static":
        # A table has no range to calibrate: its rows become floats as they are looked up.
        work.add_weight_only_config(".*", TFLOperationName.EMBEDDING_LOOKUP, 8)
    wanted = {item.scope for item in _wanted(graph, module, request)}
    for item in graph.operators:
        if item.scope not in wanted:
            work.update_quantization_recipe(f"^{re.escape(item.scope)}$", every, None, AlgorithmName.NO_QUANTIZE)


def _wanted(graph: tflite.Graph, module: nn.Module, request: Request) -> Iterator[tflite.Operator]:
    settings = request.settings
    chosen = [item for item in graph.operators if torch_export.chosen_layer(item.layer, module, settings)]
    multiplying = [item for item in chosen if item.kind in tflite.PLACES]
    if request.technique == "static":
        quick = [item for item in chosen if item.kind not in _SLOW]
        return iter(multiplying if _products_alone(graph, module) else quick)
    if request.technique == "dynamic" and not _with_convolutions(multiplying, settings):
        return (item for item in multiplying if item.kind in (*tflite.LINEAR, *tflite.TABLES))
    if request.technique == "half" and settings["sensitive"]:
        # Norms are folded away or have no weights to multiply by; of the list of torch.amp the last layer is left.
        last = _last(graph)
        return (item for item in multiplying if item.weights != last)
    return iter(multiplying)


def _last(graph: tflite.Graph) -> str | None:
    """The weights of the last layer, unless it shares them with another."""
    names = [item.weights for item in graph.operators if item.weights is not None]
    return names[-1] if names and names.count(names[-1]) == 1 else None


def _products_alone(graph: tflite.Graph, module: nn.Module) -> bool:
    """Whether there is attention, a norm of tokens or a recurrent layer: sums, masks, norms and gates in int8 cost tens
    of points there, or more bytes and time than they save. A softmax at the very end is a classifier's.
    """
    from torch import nn

    return any(isinstance(item, (nn.RNNBase, nn.RNNCellBase)) for item in module.modules()) or any(
        item.kind == "RSQRT" or (item.kind == "SOFTMAX" and item is not graph.operators[-1]) for item in graph.operators
    )


def _with_convolutions(multiplying: Sequence[tflite.Operator], settings: Mapping[str, Any]) -> bool:
    """Whether dynamic takes convolutions: asked for, or (auto) where they hold more weights than linear layers."""
    if settings["operators"] != "auto":
        return bool(settings["operators"] == "all")
    held = {True: 0, False: 0}
    for item in multiplying:
        held["CONV" in item.kind] += item.elements
    return held[True] > held[False]
