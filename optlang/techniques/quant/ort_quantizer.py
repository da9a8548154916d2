"""The steps of ONNX Runtime's static quantizers: a float graph, ranges of its tensors, the int8 file.

Each part is a function of its own, so that techniques may put their own ranges or weights in between. It knows no
runtime by name; what int8 must look like comes as `QuantWants`.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, ModelState, QuantWants, Refusal
from optlang.techniques.quant.divisions import divided
from optlang.techniques.quant.einsum import as_products
from optlang.techniques.quant.embedding_tables import cover, tables_of
from optlang.techniques.quant.hard_swish import joined
from optlang.techniques.quant.idle_operators import without_idle
from optlang.techniques.quant.onnx_graph import (
    LINEAR,
    WITH_WEIGHTS,
    load,
    one_scale,
    refuse_less,
    scaled_joints,
    steady,
)
from optlang.workload import process_state
from optlang.workload.data import ragged
from optlang.workload.export import second_exporter
from optlang.workload.export.minify import compact
from optlang.workload.export.onnx_weights import census, is_quantized, shares
from optlang.workload.failures import FAILURES, exhausted
from optlang.workload.model.dtypes import module_types, refuse_others, types_of

if TYPE_CHECKING:
    import numpy

# The modules of ONNX Runtime's quantizers that print or log to the root logger.
_TALKATIVE = (
    "base_quantizer", "calibrate", "onnx_model", "onnx_quantizer", "qdq_quantizer", "quant_utils", "quantize",
)
# Samples that run through the model at once while ranges are collected.
_BATCH = 32


def wants_of(context: Context, granularity: str = "auto") -> QuantWants:
    """The scheme of the trial's runtime, with scales as `granularity` says; `Refusal` where no runtime is given."""
    if context.wants is None:
        raise Refusal("int8 was asked for without saying for which runtime")
    return context.wants if granularity == "auto" else replace(context.wants, per_channel=granularity == "channel")


def quant_type(name: str) -> Any:
    """ONNX Runtime's own value for "uint8" or "int8"."""
    from onnxruntime.quantization import QuantType

    return QuantType.QUInt8 if name == "uint8" else QuantType.QInt8


@contextlib.contextmanager
def workshop(state: ModelState, context: Context) -> Iterator[tuple[Path, Path]]:
    """The float graph and, folded and with its shapes inferred, the one to quantize; gone when the work is done.

    Raises `Refusal` for other forms, for a model that is quantized already, and for weights that are not in float32.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with _silent(), tempfile.TemporaryDirectory(prefix="quantize-") as name:
        folder = Path(name)
        if state.form == "onnx":
            source = Path(state.model)
        elif state.form == "module":
            from optlang.workload.export.onnx import export

            refuse_others(module_types(state.model))
            source = folder / "float.onnx"
            export(state, context.data.bind(state.model), source, context.study)
        else:
            raise Refusal(f"int8 is made from a module or an ONNX file, and the model is in the form {state.form}")
        graph = load(source).graph
        if is_quantized(graph):
            raise Refusal("the model is quantized already")
        refuse_others(types_of(graph))
        prepared = folder / "prepared.onnx"
        products = _products(source, folder / "products.onnx")
        quant_pre_process(_shaped(products, folder / "shaped.onnx"), prepared, skip_symbolic_shape=True)
        _tidied(prepared)
        yield source, prepared


def _products(source: Path, result: Path) -> Path:
    """`source` with its sums over indices as products of matrices, written to `result`; itself where it has none."""
    import onnx

    model = load(source)
    if not as_products(model):
        return source
    onnx.save(model, result)
    return result


def _tidied(file: Path) -> None:
    import onnx

    model = load(file)
    idle, swishes = without_idle(model), joined(model)
    if idle or swishes:
        onnx.save(model, file)


def _shaped(source: Path, result: Path) -> Path:
    """`source` with its shapes inferred in symbols, written to `result`; `source` itself where that is not possible.

    `quant_pre_process` would do the same, but leaves what it cannot finish in the current folder. Shapes that stay
    open cost only fusions.
    """
    import onnx
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    inference = SymbolicShapeInference(2**31 - 1, False, False, 0)
    begin, step, end = inference._preprocess, inference._infer_impl, inference._update_output_from_vi
    complete = False
    try:
        begin(load(source))
        while inference.run_:
            complete = step()
        end()
    except (*FAILURES, onnx.shape_inference.InferenceError) as error:  # at operators that it does not know
        if exhausted(error):
            raise
        return source
    if not complete:
        return source
    onnx.save(inference.out_mp_, result)
    return result


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The quantizers' remarks are kept off standard output and the root logger, theirs alone.

    They print, and log by the functions of `logging`, which also give the root logger a handler. In the block they log
    to "optlang.onnxruntime", which has no handler unless the caller adds one.
    """
    own = logging.getLogger("optlang.onnxruntime")
    own.propagate = False
    if not own.handlers:
        own.addHandler(logging.NullHandler())
    with contextlib.ExitStack() as stack:
        for name in _TALKATIVE:
            module = importlib.import_module(f"onnxruntime.quantization.{name}")
            words = {"logging": own, "print": lambda *words, **_: own.debug(" ".join(map(str, words)))}
            stack.enter_context(process_state.attributes(module, **words))
        yield


def session_of(model: Path | bytes) -> Any:
    """ONNX Runtime's session of a file or a serialized model, on the processor, without its warnings."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Reader:
    """Feeds samples in batches of one shape (onnxruntime's CalibrationDataReader), of `batch` samples where given."""

    def __init__(self, samples: Mapping[str, numpy.ndarray[Any, Any]], batch: int | None = None) -> None:
        self._batches = iter([
            {name: item[start : start + size] for name, item in group.items()}
            for places, group in ragged.groups(samples)
            for size in [batch or _even(len(places))] for start in range(0, len(places), size)
        ])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _even(count: int) -> int:
    """The largest size of batches of one size: histograms want no odd one at the end."""
    return max(size for size in range(1, min(_BATCH, count) + 1) if count % size == 0)


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
    if method != CalibrationMethod.MinMax:
        from optlang.techniques.quant.calibrators import Collector, EntropyCollector, SquaredErrorCollector

        kinds = {"mse": SquaredErrorCollector, "entropy": EntropyCollector, "percentile": Collector}
        calibrator.collector = kinds[settings["calibrator"]](
            "percentile" if method == CalibrationMethod.Percentile else "entropy", calibrator.symmetric,
            calibrator.num_bins, calibrator.num_quantized_bins, calibrator.percentile, calibrator.scenario,
        )
    calibrator.collect_data(Reader(samples))
    return calibrator.compute_data()


def write(
    model: Path, result: Path, operators: Sequence[str], kept: Sequence[str], ranges: Any, wants: QuantWants
) -> None:
    """Write `model` quantized by `ranges` to `result`; the nodes named in `kept` stay in float.

    So does what is divided, what is the same in each call, and a concatenation that is scaled next. Embedding tables
    become int8 with the rest.
    """
    from onnxruntime.quantization import QuantizationMode
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    loaded = load_model_with_shape_infer(model)
    # Their rows are rounded as they stand: the quantizer would give them the range of an activation.
    tables = [node.name for nodes in tables_of(loaded.graph, kept).values() for node in nodes]
    kept = [*kept, *tables, *divided(loaded.graph), *steady(loaded.graph), *scaled_joints(loaded.graph)]
    options = {
        "ActivationSymmetric": wants.symmetric_activations, "WeightSymmetric": wants.symmetric_weights,
        "MatMulConstBOnly": True, "QuantizeBias": wants.biases == "int32",
        "OpTypesToExcludeOutputQuantization": _float_outputs(operators, wants),
    }
    weights, activations = quant_type(wants.weights), quant_type(wants.activations)
    if wants.per_channel:
        one = {"quant_type": weights, "symmetric": wants.symmetric_weights, "reduce_range": wants.reduced}
        options["TensorQuantOverrides"] = {name: [dict(one)] for name in one_scale(loaded.graph)}
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
    if tables:
        write_tables(result, result, [name for name in kept if name not in tables], wants)


def _float_outputs(operators: Sequence[str], wants: QuantWants) -> list[str]:
    """The operators whose outputs are not rounded: those of products, where what lies behind them calculates in floats.

    Rounding there costs time and accuracy and wins nothing. A convolution's kernel wants its output rounded.
    """
    if wants.operators == "weighted":
        return list(operators)
    return [item for item in operators if item in LINEAR] if set(operators) <= set(WITH_WEIGHTS) else []


def write_tables(model: Path, result: Path, kept: Collection[str], wants: QuantWants) -> None:
    """Write `model` with its embedding tables in int8 to `result`; those that nodes in `kept` read stay in float."""
    import onnx

    written = load(model)
    cover(written, kept, **scheme(wants))
    onnx.save(written, result)


def scheme(wants: QuantWants | None) -> dict[str, bool]:
    """How embedding tables are stored for a runtime, as `tables.cover` takes it."""
    if wants is None:
        return {}
    return {"ahead": wants.tables == "ahead", "one_scale": not wants.per_channel}


def finished(
    result: Path, source: Path, state: ModelState, context: Context, asked: tuple[Any, Collection[str]] | None = None
) -> ModelState:
    """The compact file in the context's folder, with the share of its weights in int8 as the note `quantize.weights`,
    and `export.exporter` where torch's first exporter to ONNX could not take the module.

    `asked` is the float graph, with the nodes that were to stay in float. Raises `Refusal` where nothing was quantized,
    where less than `quantized_share.LEAST` was of the weights asked for, or the file is not smaller than `source`.
    """
    import onnx

    model = load(result)
    share, _ = shares(model.graph)
    if share == 0:
        raise Refusal(f"no weight became int8: the model has {census(model.graph)}")
    if asked is not None:
        refuse_less(asked[0], model.graph, asked[1])
    compact(model)
    notes: dict[str, JSON] = {**state.notes, "quantize.weights": share}
    if second := second_exporter.marked(load(source)):
        notes["export.exporter"] = second
        second_exporter.mark(model)
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
    return ModelState("onnx", path, state.factory, state.edits, notes)


def float_bytes(path: Path) -> int:
    """The size of the float graph, made as compact: a file is not to win by shorter names."""
    return int(compact(load(path)).ByteSize())
