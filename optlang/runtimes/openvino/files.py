"""What OpenVINO loads beside `.onnx`: its own files, and int8 by its makers' tool (NNCF). Runs nothing that is timed.

NNCF puts its FakeQuantize where OpenVINO's kernels fuse it. OpenVINO runs the QDQ file that `static` makes just as
fast, and that file serves other runtimes too. NNCF's accuracy control takes layers back to float until a metric holds.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Artifact, ModelState, OptlangError, Refusal, TargetSpec
from optlang.workload import process_state

if TYPE_CHECKING:
    import numpy

    from optlang.workload.data.dataset import Dataset

    Sample = dict[str, numpy.ndarray[Any, Any]]

NAME = "model.xml"
WEIGHTS = "model.bin"
WAYS = ("none", "nncf", "accuracy")
SEED = 0
"""Which training samples calibrate: the same ones in every trial, since the runtime has no seed of its own."""
HELD_OUT = 2048
"""Training samples, none of them for calibration, that the accuracy control measures on, at most."""

_BATCH = 32
_INTEGERS = ("i8", "u8", "i4", "u4")
_MADE = re.compile(r"[A-Z]\w*_\d+")


def build(
    onnx: Artifact, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset
) -> Artifact:
    """Write `model.xml` and `model.bin` into `folder`, from the ONNX file that was made of `state`.

    Weights keep their precision. Raises `Refusal` where int8 is asked for and the model is no float model any more, or
    nothing in it was quantized; OptlangError where NNCF is missing.
    """
    from optlang.runtimes.shared import onnx_file
    from optlang.runtimes.shared.artifact_files import described
    from optlang.workload.model import dtypes

    stored = onnx.about["stored"]
    way = str(settings.get("int8", "none"))
    if way not in WAYS:
        raise OptlangError(f"openvino has no int8 '{way}'", help=f"one of {', '.join(WAYS)}")
    # Converters report to their makers too; reading a file does not.
    model = _openvino().Core().read_model(str(onnx.folder / onnx_file.NAME))
    if way != "none":
        if state.form != "module":
            raise Refusal(
                f"NNCF quantizes a float model; what openvino is given here is in the form {state.form} already",
                help="one of the two: the step before, or `int8` of the runtime openvino",
            )
        dtypes.refuse_others(dtypes.module_types(state.model))
        model = _quantized(model, way, target, settings, data.bind(onnx.inputs))
        stored = _stored(model, onnx.folder / onnx_file.NAME, way)
    _rename(model)
    _openvino().save_model(model, str(folder / NAME), compress_to_fp16=False)
    about: dict[str, JSON] = {"batch": onnx.about["batch"], "int8": way, "stored": stored}
    return Artifact(folder, "openvino", described(folder, [NAME, WEIGHTS]), onnx.inputs, onnx.outputs, about)


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


def _openvino() -> Any:
    # Its own names come and go with its build: none of them is in its types.
    return importlib.import_module("openvino")


def _rename(model: Any) -> None:
    """Give operators that have no name of their own one that is the same each time, not the next of this process."""
    for index, item in enumerate(model.get_ordered_ops()):
        if _MADE.fullmatch(item.get_friendly_name()):
            item.set_friendly_name(f"{item.get_type_name()}.{index}")


def _quantized(model: Any, way: str, target: TargetSpec, settings: Mapping[str, Any], data: Dataset) -> Any:
    if importlib.util.find_spec("nncf") is None:
        raise OptlangError("int8 by OpenVINO's own tool needs NNCF", help='pip install "optlang-dsl[nncf]"')
    with _quiet_nncf() as nncf:
        samples = int(settings.get("samples", 300))
        given = data.calibration(samples, SEED)
        batches = list(_batches(given))
        calibration = nncf.Dataset(batches)
        # All of the batches: NNCF counts in what it is given, not in samples.
        common = {"target_device": nncf.TargetDevice.CPU, "subset_size": len(batches)}
        try:
            if way == "nncf":
                found = nncf.quantize(model, calibration, **common)
            else:
                found = _kept_accurate(nncf, model, calibration, common, target, settings, data)
        except (nncf.errors.NNCFError, RuntimeError, ValueError) as error:
            raise Refusal(f"NNCF cannot quantize the model: {str(error).strip().splitlines()[0]}") from error
    if not any(item.get_type_name() == "FakeQuantize" for item in found.get_ops()):
        raise Refusal("NNCF quantized nothing: the model has no layer that OpenVINO runs in int8")
    return found


def _kept_accurate(
    nncf: Any, model: Any, calibration: Any, common: Mapping[str, Any], target: TargetSpec,
    settings: Mapping[str, Any], data: Dataset,
) -> Any:
    """Int8 with as many layers in float as the metric needs, on training samples that set no range.

    They are answered in calls of the target's batch: OpenVINO's int8 is wrong for some others.
    """
    inputs, targets = data.held_out(HELD_OUT, SEED, int(settings.get("samples", 300)))
    quality = _quality(inputs, targets, target.batch, data)
    drop = float(settings.get("max_drop", 0.01))
    whole, points = quality(_openvino().Core().compile_model(model, "CPU"))

    def measure(compiled: Any, _: Iterable[Any]) -> tuple[float, None]:
        return quality(compiled)[0], None

    return nncf.quantize_with_accuracy_control(
        model, calibration, nncf.Dataset(list(_batches(inputs))), measure,
        # A loss has no scale of its own: what may be lost is a share of it.
        max_drop=drop if points else drop * abs(whole), drop_type=nncf.DropType.ABSOLUTE, **common,
    )


def _quality(inputs: Sample, targets: Any, batch: int, data: Dataset) -> Callable[[Any], tuple[float, bool]]:
    """What says how good a compiled model is (more is better), and whether that is an accuracy."""
    import numpy

    count = len(next(iter(inputs.values())))

    def quality(compiled: Any) -> tuple[float, bool]:
        # A copy: the next answer is written to the same memory.
        pieces = [[numpy.array(item) for item in compiled(call).values()] for call in _batches(inputs, batch)]
        outputs = {
            item.any_name: numpy.concatenate([piece[index] for piece in pieces])[:count]
            for index, item in enumerate(compiled.outputs)
        }
        metrics = data.task.metrics(outputs, targets)
        if "accuracy" in metrics:
            return float(metrics["accuracy"]), True
        return -float(data.task.loss(outputs, targets)), False

    return quality


def _batches(inputs: Sample, batch: int = 0) -> Iterator[Sample]:
    """In calls of so many samples, the last one filled up with the first of them; or of up to `_BATCH`."""
    import numpy

    count, size = len(next(iter(inputs.values()))), batch or _BATCH
    for start in range(0, count, size):
        places = numpy.arange(start, start + size) % count
        if not batch:
            places = places[: count - start]
        yield {name: item[places] for name, item in inputs.items()}


@contextmanager
def _quiet_nncf() -> Iterator[Any]:
    # While this is in the environment, NNCF reports nothing to its makers; it looks when it is imported.
    with process_state.environment(NNCF_CI="1"):
        import nncf
    with process_state.quiet(("nncf",)):
        yield nncf
