"""The way through ONNX Runtime's static quantizers: a float graph, ranges of its tensors, the int8 file.

Each part is a function of its own, so that techniques may put their own ranges or weights in between. It knows no
runtime by name; what int8 must look like comes as `QuantWants`.
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
from optlang.techniques.nodes import QUANTIZED, census, load, quantized_share
from optlang.workload.compact import compact

if TYPE_CHECKING:
    import numpy

# Samples that run through the model at once while ranges are collected.
_BATCH = 32


def wants_of(context: Context) -> QuantWants:
    """The scheme of the trial's runtime; `Refusal` where nobody said it."""
    if context.wants is None:
        raise Refusal("int8 was asked for without saying for which runtime")
    return context.wants


def quant_type(name: str) -> Any:
    """ONNX Runtime's own value for "uint8" or "int8"."""
    from onnxruntime.quantization import QuantType

    return QuantType.QUInt8 if name == "uint8" else QuantType.QInt8


@contextlib.contextmanager
def workshop(subject: Subject, context: Context) -> Iterator[tuple[Path, Path]]:
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
        if any(node.op_type in QUANTIZED for node in load(source).graph.node):
            raise Refusal("the model is quantized already")
        prepared = folder / "prepared.onnx"
        try:
            # What it cannot finish it leaves in the current folder, under a name of its own.
            with contextlib.chdir(folder):
                quant_pre_process(source.resolve(), prepared)
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


class Reader:
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


def ranges_of(
    model: Path, samples: Mapping[str, Any], operators: Sequence[str], settings: Mapping[str, Any], wants: QuantWants
) -> Any:
    """The range of every input and output of `operators`, as ONNX Runtime's `TensorsData`, by `calibrator`.

    `samples` are inputs by name, first axis the sample; settings are `calibrator` and with it `bins` or `percentile`.
    The calibrators are called here and not through `quantize_static`, which passes no number of bins on.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    CalibrationDataReader.register(Reader)
    options: dict[str, Any] = {"symmetric": wants.symmetric_activations}
    method = CalibrationMethod.MinMax
    if settings["calibrator"] in ("entropy", "mse"):
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
        from optlang.techniques.mse import SquaredErrorCollector

        kind = SquaredErrorCollector if settings["calibrator"] == "mse" else EntropyCollector
        calibrator.collector = kind(
            "entropy", options["symmetric"], options["num_bins"], calibrator.num_quantized_bins, calibrator.percentile,
            calibrator.scenario,
        )
    calibrator.collect_data(Reader(samples))
    return calibrator.compute_data()


def write(
    model: Path, result: Path, operators: Sequence[str], kept: Sequence[str], ranges: Any, wants: QuantWants
) -> None:
    """Write `model` quantized by `ranges` to `result`; the nodes named in `kept` stay in float."""
    from onnxruntime.quantization import QuantizationMode
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    loaded = load_model_with_shape_infer(model)
    options = {
        "ActivationSymmetric": wants.symmetric_activations, "WeightSymmetric": wants.symmetric_weights,
        "MatMulConstBOnly": True, "QuantizeBias": wants.biases == "int32",
        "OpTypesToExcludeOutputQuantization": list(operators) if wants.operators == "weighted" else [],
    }
    weights, activations = quant_type(wants.weights), quant_type(wants.activations)
    quantizer: Any
    if wants.format == "qdq":
        quantizer = QDQQuantizer(
            loaded, wants.per_channel, wants.reduced, weights, activations, ranges, [], list(kept), list(operators),
            options,
        )
    else:
        quantizer = ONNXQuantizer(
            loaded, wants.per_channel, wants.reduced, QuantizationMode.QLinearOps, True, weights, activations, ranges,
            [], [*kept, *(f"{name}_MatMul" for name in kept)], list(operators), options,
        )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(result), False)


def finished(result: Path, source: Path, subject: Subject, context: Context) -> Subject:
    """The compact file in the context's folder, with the share of its weights in int8 as the note `quantize.weights`.

    Raises `Refusal` where nothing was quantized, or the file is not smaller than the float `source`.
    """
    import onnx

    model = load(result)
    if not any(node.op_type in QUANTIZED for node in model.graph.node):
        raise Refusal(f"the quantizer changed nothing: it knows none of {census(model.graph)}")
    share = quantized_share(model.graph)
    if share == 0:
        raise Refusal(f"no weight became int8: the model has {census(model.graph)}")
    compact(model)
    onnx.checker.check_model(model)
    path = context.folder / "model.onnx"
    context.folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    old, new = float_bytes(source), path.stat().st_size
    if new >= old:
        path.unlink()
        raise Refusal(
            f"int8 makes this model larger: {new} bytes against {old} in float32",
            help="scales and zero points cost more than its few weights save",
        )
    return Subject("onnx", path, subject.factory, subject.edits, {**subject.notes, "quantize.weights": share})


def float_bytes(path: Path) -> int:
    """The size of the float graph, made as compact: a file is not to win by shorter names."""
    return int(compact(load(path)).ByteSize())
