"""INT8 through ONNX Runtime's quantizers, in the scheme that the target's runtime wants. Knows no runtime by name.

Static follows Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference (CVPR 2018): weights and activations in int8, biases in int32, ranges from calibration data.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.forms import Context, QuantWants, Refusal, Subject
from optlang.techniques.layers import chosen
from optlang.workload.compact import compact

if TYPE_CHECKING:
    import numpy

# Operators with weights; `all` of dynamic adds convolutions to the linear ones.
_LINEAR = ("MatMul", "Gemm")
_WITH_WEIGHTS = ("Conv", *_LINEAR)
# In a Transformer the products alone carry the cost; sums, masks and norms in int8 cost tens of points of accuracy.
_ATTENTION = ("LayerNormalization", "SkipLayerNormalization", "Attention", "Softmax")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear",
              "QLinearConv", "QLinearMatMul", "QGemm")
# Samples that run through the model at once while ranges are collected.
_BATCH = 32


def dynamic(subject: Subject, settings: Mapping[str, Any], context: Context) -> Subject:
    """Weights in int8; activations are quantized as they come. Notes: `quantize.weights`, the share in int8.

    Raises `Refusal` where no operator of the chosen kind has weights, or the file does not become smaller.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    wants = _wants(context)
    operators = _WITH_WEIGHTS if settings["operators"] == "all" else _LINEAR
    with _workshop(subject, context) as (source, prepared):
        graph = _load(prepared).graph
        nodes = _eligible(graph, operators, _kept(graph, subject, settings["keep"]))
        if not nodes:
            raise Refusal(
                f"no layer is left to quantize: the model has {_census(graph)}, and "
                + ("linear ones" if operators == _LINEAR else "linear ones and convolutions") + " were asked for",
                help="operators = all takes convolutions too" if operators == _LINEAR else "shorten `keep`",
            )
        kept = _excluded(graph, nodes)
        result = prepared.with_name("linear.onnx")
        quantize_dynamic(
            prepared, result, op_types_to_quantize=list(_LINEAR), nodes_to_exclude=kept,
            per_channel=wants.per_channel, weight_type=_type(wants.weights),
            extra_options={"WeightSymmetric": wants.symmetric_weights, "MatMulConstBOnly": True},
        )
        if operators == _WITH_WEIGHTS:
            # ConvInteger runs with unsigned weights of one scale only.
            prepared, result = result, prepared.with_name("all.onnx")
            quantize_dynamic(
                prepared, result, op_types_to_quantize=["Conv"], nodes_to_exclude=kept, weight_type=QuantType.QUInt8,
                extra_options={"WeightSymmetric": False},
            )
        return _finished(result, source, subject, context)


def static(subject: Subject, settings: Mapping[str, Any], context: Context) -> Subject:
    """Weights and activations in int8, biases in int32, ranges from `samples` of the calibration (else training) data.

    Notes: `quantize.weights`, the share of the weights in int8. Raises `Refusal` where no operator has weights, or the
    file does not become smaller.
    """
    wants = _wants(context)
    with _workshop(subject, context) as (source, prepared):
        graph = _load(prepared).graph
        kept = _kept(graph, subject, settings["keep"])
        operators = _operators(graph)
        if not _eligible(graph, _WITH_WEIGHTS, kept):
            raise Refusal(
                f"no layer is left to quantize: the model has {_census(graph)}",
                help="static int8 takes convolutions and linear layers; shorten `keep` if it holds all of them",
            )
        inputs = [item.name for item in graph.input]
        samples = context.data.bind(inputs).calibration(int(settings["samples"]), context.seed)
        ranges = _ranges(prepared, samples, operators, settings, wants)
        result = prepared.with_name("quantized.onnx")
        _quantize(prepared, result, operators, kept, ranges, wants)
        return _finished(result, source, subject, context)


def _wants(context: Context) -> QuantWants:
    if context.wants is None:
        raise Refusal("int8 was asked for without saying for which runtime")
    return context.wants


def _type(name: str) -> Any:
    from onnxruntime.quantization import QuantType

    return QuantType.QUInt8 if name == "uint8" else QuantType.QInt8


def _load(path: Path) -> Any:
    import onnx

    return onnx.load(path)


@contextlib.contextmanager
def _workshop(subject: Subject, context: Context) -> Iterator[tuple[Path, Path]]:
    """The float graph and, folded and with its shapes inferred, the one to quantize; gone when the work is done."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="quantize-") as name, _quiet():
        folder = Path(name)
        if subject.form == "onnx":
            source = Path(subject.model)
        elif subject.form == "module":
            from optlang.workload.onnx_export import export

            source = folder / "float.onnx"
            export(subject, context.data.bind(subject.model), source, context.study)
        else:
            raise Refusal(f"int8 is made from a module or an ONNX file, and the model is in the form {subject.form}")
        if any(node.op_type in _QUANTIZED for node in _load(source).graph.node):
            raise Refusal("the model is quantized already")
        prepared = folder / "prepared.onnx"
        try:
            quant_pre_process(source, prepared)
        except Exception:
            # Symbolic inference does not know every operator; shapes that stay open cost nothing but fusions.
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
        yield source, prepared


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizers print, log to the root logger and warn of what has been dealt with here."""
    root = logging.getLogger()
    disabled, root.disabled = root.disabled, True
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.disabled = disabled


def layer_of(node: str) -> str:
    """The module that a node of an exported graph comes from: "/layer1/layer1.0/conv1/Conv" is "layer1.0.conv1"."""
    parts: list[str] = []
    for part in node.strip("/").split("/")[:-1]:
        if parts and (part == parts[-1] or part.startswith(parts[-1] + ".")):
            parts[-1] = part  # a container's child repeats the container's name
        else:
            parts.append(part)
    return ".".join(parts)


def _kept(graph: Any, subject: Subject, patterns: Sequence[str]) -> list[str]:
    """The names of the nodes that `patterns` keep in float."""
    if not patterns:
        return []
    layers = {node.name: layer_of(node.name) for node in graph.node if node.name}
    names = set(layers.values())
    for layer in list(names):
        parts = layer.split(".")
        names.update(".".join(parts[:count]) for count in range(1, len(parts)))
    if subject.form == "module":
        names.update(name for name, _ in subject.model.named_modules())
    found = chosen(patterns, sorted(names))
    return [name for name, layer in layers.items() if layer in found]


def _weights(graph: Any) -> dict[str, int]:
    """Elements of the initializers that are matrices or larger, by name."""
    import math

    return {item.name: math.prod(item.dims) for item in graph.initializer if len(item.dims) > 1}


def _eligible(graph: Any, operators: Sequence[str], kept: Sequence[str]) -> list[str]:
    """The names of the nodes of these operators that have weights and are not kept."""
    weights = _weights(graph)
    excluded = set(kept)
    return [
        node.name for node in graph.node
        if node.op_type in operators and node.name not in excluded and any(name in weights for name in node.input)
    ]


def _excluded(graph: Any, nodes: Sequence[str]) -> list[str]:
    """The nodes that stay in float, also by the names that they get when a Gemm is split into a product and a sum."""
    chosen_ones = set(nodes)
    left = [node.name for node in graph.node if node.name not in chosen_ones]
    return left + [f"{name}_MatMul" for name in left]


def _census(graph: Any) -> str:
    kinds = sorted({node.op_type for node in graph.node})
    return ", ".join(kinds[:8]) + (", …" if len(kinds) > 8 else "") if kinds else "no operators"


def _operators(graph: Any) -> list[str]:
    """What to quantize: every operator that can be, and in a Transformer the products alone."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    present = {node.op_type for node in graph.node}
    known = set(QDQRegistry) | set(QLinearOpsRegistry)
    if present.intersection(_ATTENTION[:3]) or _has_attention(graph):
        known = set(_WITH_WEIGHTS)
    return sorted(present & known)


def _has_attention(graph: Any) -> bool:
    """Whether a softmax feeds a product: scores times values."""
    scores = {name for node in graph.node if node.op_type == "Softmax" for name in node.output}
    return any(node.op_type == "MatMul" and scores.intersection(node.input) for node in graph.node)


class _Reader:
    """Feeds calibration samples in batches (onnxruntime's CalibrationDataReader)."""

    def __init__(self, samples: Mapping[str, numpy.ndarray[Any, Any]]) -> None:
        count = len(next(iter(samples.values())))
        # Histograms want batches of one size, so that no odd one stays at the end.
        size = max(size for size in range(1, min(_BATCH, count) + 1) if count % size == 0)
        self._batches = iter(
            [{name: item[start : start + size] for name, item in samples.items()} for start in range(0, count, size)]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _ranges(
    model: Path, samples: Mapping[str, Any], operators: Sequence[str], settings: Mapping[str, Any], wants: QuantWants
) -> Any:
    """The range of every activation.

    The calibrators are called here and not through `quantize_static`, which passes no number of bins on.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    CalibrationDataReader.register(_Reader)
    options: dict[str, Any] = {"symmetric": wants.symmetric_activations}
    method = CalibrationMethod.MinMax
    if settings["calibrator"] == "entropy":
        method = CalibrationMethod.Entropy
        options["num_bins"] = int(settings["bins"])
    elif settings["calibrator"] == "percentile":
        method = CalibrationMethod.Percentile
        options["percentile"] = float(settings["percentile"])
    calibrator = create_calibrator(
        model, list(operators), augmented_model_path=str(model.with_name("augmented.onnx")), calibrate_method=method,
        extra_options=options,
    )
    if method == CalibrationMethod.Entropy:
        from optlang.techniques.entropy import EntropyCollector

        calibrator.collector = EntropyCollector(
            "entropy", options["symmetric"], options["num_bins"], calibrator.num_quantized_bins, calibrator.percentile,
            calibrator.scenario,
        )
    calibrator.collect_data(_Reader(samples))
    return calibrator.compute_data()


def _quantize(
    model: Path, result: Path, operators: Sequence[str], kept: Sequence[str], ranges: Any, wants: QuantWants
) -> None:
    from onnxruntime.quantization import QuantizationMode
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    loaded = load_model_with_shape_infer(model)
    options = {
        "ActivationSymmetric": wants.symmetric_activations, "WeightSymmetric": wants.symmetric_weights,
        "MatMulConstBOnly": True,
    }
    weights, activations = _type(wants.weights), _type(wants.activations)
    quantizer: Any
    if wants.format == "qdq":
        quantizer = QDQQuantizer(
            loaded, wants.per_channel, False, weights, activations, ranges, [], list(kept), list(operators), options
        )
    else:
        quantizer = ONNXQuantizer(
            loaded, wants.per_channel, False, QuantizationMode.QLinearOps, True, weights, activations, ranges, [],
            [*kept, *(f"{name}_MatMul" for name in kept)], list(operators), options,
        )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(result), False)


def _finished(result: Path, source: Path, subject: Subject, context: Context) -> Subject:
    """The compact file in the context's folder; `Refusal` where nothing was quantized or nothing was won."""
    import onnx

    model = _load(result)
    if not any(node.op_type in _QUANTIZED for node in model.graph.node):
        raise Refusal(f"the quantizer changed nothing: it knows none of {_census(model.graph)}")
    share = quantized_share(model.graph)
    if share == 0:
        raise Refusal(f"no weight became int8: the model has {_census(model.graph)}")
    compact(model)
    onnx.checker.check_model(model)
    path = context.folder / "model.onnx"
    context.folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    old, new = _float_bytes(source), path.stat().st_size
    if new >= old:
        path.unlink()
        raise Refusal(
            f"int8 makes this model larger: {new} bytes against {old} in float32",
            help="scales and zero points cost more than its few weights save",
        )
    return Subject("onnx", path, subject.factory, subject.edits, {**subject.notes, "quantize.weights": share})


def _float_bytes(path: Path) -> int:
    """The size of the float graph, made as compact: a file is not to win by shorter names."""
    return int(compact(_load(path)).ByteSize())


def quantized_share(graph: Any) -> float:
    """The share of the graph's weights (constants of two axes and more) that are 8-bit integers."""
    import math

    from onnx import TensorProto

    eight = total = 0
    for item in graph.initializer:
        if len(item.dims) > 1:
            total += math.prod(item.dims)
            eight += math.prod(item.dims) if item.data_type in (TensorProto.INT8, TensorProto.UINT8) else 0
    return eight / total if total else 0.0
