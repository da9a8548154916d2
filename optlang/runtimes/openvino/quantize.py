"""INT8 for OpenVINO by its makers' tool (NNCF): which samples calibrate, and which layers stay in float.

NNCF puts its FakeQuantize where OpenVINO's kernels fuse it. OpenVINO runs the QDQ file that `static` makes just as
fast, and that file serves other runtimes too. NNCF's accuracy control takes layers back to float until a metric holds.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Array, ModelState, OptlangError, Refusal, TargetSpec
from optlang.workload import process_state
from optlang.workload.failures import FAILURES, exhausted, first_line

if TYPE_CHECKING:
    from optlang.workload.data.dataset import Dataset

    Sample = dict[str, Array]

SEED = 0
"""Which training samples calibrate: the same ones in every trial, since the runtime has no seed of its own."""
HELD_OUT = 2048
"""Training samples, none of them for calibration, that the accuracy control measures on, at most."""

_BATCH = 32
_INTEGERS = ("i8", "u8", "i4", "u4")


def quantized(
    model: Any, source: Path, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], data: Dataset
) -> tuple[Any, JSON]:
    """`model`, which was read from the ONNX file `source` of `state`, in int8, and which shares of its weights are.

    Raises `Refusal` where the model is no float model, or too little of it was quantized; OptlangError without NNCF.
    """
    from optlang.workload.model import dtypes

    if state.form != "module":
        raise Refusal(
            f"NNCF quantizes float models; this model is in the form {state.form} already",
            help="remove the step before, or set int8 = none on the runtime openvino",
        )
    dtypes.refuse_others(dtypes.module_types(state.model))
    way = settings["int8"]
    model = _by_nncf(model, way, target, settings, data)
    return model, _stored(model, source, way)


def _by_nncf(model: Any, way: str, target: TargetSpec, settings: Mapping[str, Any], data: Dataset) -> Any:
    if importlib.util.find_spec("nncf") is None:
        raise OptlangError("openvino's setting int8 needs NNCF", help='pip install "optlang-dsl[nncf]"')
    from optlang.workload.data import ragged

    with _quiet_nncf() as nncf:
        samples = int(settings.get("samples", 300))
        given = data.calibration(samples, SEED)
        batches = list(ragged.batches(given, _BATCH))
        calibration = nncf.Dataset(batches)
        # All of the batches: NNCF counts in what it is given, not in samples.
        common = {"target_device": nncf.TargetDevice.CPU, "subset_size": len(batches)}

        def made() -> Any:
            if way == "nncf":
                return nncf.quantize(model, calibration, **common)
            return _kept_accurate(nncf, model, calibration, common, target, settings, data)

        try:
            try:
                found = made()
            except KeyError:
                # NNCF 3.4 does not find a table again that constants are taken from (biases by relative position).
                _fold(model)
                found = made()
        except _failures(nncf) as error:
            if exhausted(error):
                raise
            raise Refusal(
                f"NNCF cannot quantize the model: {first_line(error)}",
                help="int8 = none on openvino, and the technique static, whose file it runs as fast",
            ) from error
    if not any(item.get_type_name() == "FakeQuantize" for item in found.get_ops()):
        raise Refusal("NNCF quantized nothing: the model has no layer that OpenVINO runs in int8")
    return found


def _fold(model: Any) -> None:
    """Compute what no input changes, in place."""
    passes: Any = importlib.import_module("openvino.passes")
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)


def _failures(nncf: Any) -> tuple[type[Exception], ...]:
    """What it raises of a model: exceptions of its own, which have nothing in common, and Python's."""
    own = [item for item in vars(nncf.errors).values() if isinstance(item, type) and issubclass(item, Exception)]
    return (*FAILURES, *own)


def _kept_accurate(
    nncf: Any, model: Any, calibration: Any, common: Mapping[str, Any], target: TargetSpec,
    settings: Mapping[str, Any], data: Dataset,
) -> Any:
    """Int8 with as many layers in float as the metric needs, on training samples that set no range.

    They are answered in calls of the target's batch: OpenVINO's int8 is wrong for some others.
    """
    from optlang.workload.data import ragged

    inputs, targets = data.held_out(HELD_OUT, SEED, int(settings.get("samples", 300)))
    quality = _quality(inputs, targets, target.batch, data)
    drop = float(settings.get("max_drop", 0.01))
    whole, points = quality(importlib.import_module("openvino").Core().compile_model(model, "CPU"))

    def measure(compiled: Any, _: Iterable[Any]) -> tuple[float, None]:
        return quality(compiled)[0], None

    return nncf.quantize_with_accuracy_control(
        model, calibration, nncf.Dataset(list(ragged.batches(inputs, _BATCH))), measure,
        # A loss has no scale of its own: what may be lost is a share of it.
        max_drop=drop if points else drop * abs(whole), drop_type=nncf.DropType.ABSOLUTE, **common,
    )


def _quality(inputs: Sample, targets: Any, batch: int, data: Dataset) -> Callable[[Any], tuple[float, bool]]:
    """What says how good a compiled model is (more is better), and whether that is a share, as an accuracy is.

    Without labels it is how far answers agree with those of the model that is asked about first: on which share of the
    samples they name its class, else 1 less the difference as a share of its answers.
    """
    import numpy

    from optlang.workload.data import ragged
    from optlang.workload.data.tensors import leaves

    known: list[dict[str, Any]] = []

    def agreement(outputs: dict[str, Any]) -> float:
        if not known:
            known.append(outputs)
        classes, wanted = data.task.choices(outputs), data.task.choices(known[0])
        if classes is not None and wanted is not None:
            return float((classes == wanted).double().mean())
        errors = [
            float(numpy.linalg.norm(item - known[0][name]) / (numpy.linalg.norm(known[0][name]) or 1.0))
            for name, item in outputs.items()
        ]
        return 1 - max(errors)

    def quality(compiled: Any) -> tuple[float, bool]:
        names = [item.any_name for item in compiled.outputs]
        pieces = []
        for places, call in ragged.calls(inputs, batch):
            # A copy: the next answer is written to the same memory.
            found = [numpy.array(item)[: len(places)] for item in compiled(call).values()]
            pieces.append((places, dict(zip(names, found, strict=True))))
        outputs = {name: ragged.padded(item) for name, item in ragged.in_order(pieces).items()}
        if not leaves(targets):
            return agreement(outputs), True
        metrics = data.task.metrics(outputs, targets)
        if "accuracy" in metrics:
            return float(metrics["accuracy"]), True
        return -float(data.task.loss(outputs, targets)), False

    return quality


def _stored(model: Any, source: Path, way: str) -> JSON:
    """The share of the weights in `source` that are integers in `model`; `Refusal` where NNCF left most of them.

    With "accuracy" it may leave as many as the metric needs.
    """
    import onnx

    from optlang.workload.export import onnx_weights
    from optlang.workload.model import quantized_share

    graph = onnx.load(source, load_external_data=False).graph
    total = sum(elements for elements, _ in onnx_weights.bits_of(graph).values())
    made: list[tuple[str, int]] = []
    rest: list[tuple[str, int]] = []
    for item in model.get_ops():
        if item.get_type_name() != "Constant" or len(item.get_output_shape(0)) < 2:
            continue
        size = (item.get_friendly_name(), math.prod(item.get_output_shape(0)))
        (made if item.get_element_type().get_type_name() in _INTEGERS else rest).append(size)
    # A table that two operators read may be written twice.
    share = min(1.0, sum(size for _, size in made) / total) if total else 0.0
    if way != "accuracy" and share < quantized_share.LEAST:
        names = [name for name, _ in sorted(rest, key=lambda item: -item[1])[:4]]
        raise Refusal(
            f"only {share:.0%} of the weights became int8 by NNCF: not {', '.join(names)}",
            help="int8 = none on openvino, and the techniques dynamic or weight_only, which take layers of more kinds",
        )
    return quantized_share.stored(share)


@contextmanager
def _quiet_nncf() -> Iterator[Any]:
    # While this is in the environment, NNCF reports nothing to its makers; it looks when it is imported.
    with process_state.environment(NNCF_CI="1"):
        import nncf
    with process_state.quiet(("nncf",)):
        yield nncf
