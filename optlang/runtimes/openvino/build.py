"""OpenVINO on the CPU. Knows its options and nothing of how the file came about.

It reads the same `.onnx` as ONNX Runtime: one QDQ file serves both, and is far smaller than OpenVINO's own files.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import Arrays, Artifact, ModelState, OptlangError, QuantWants, Refusal, Session, TargetSpec

if TYPE_CHECKING:
    import numpy

    from optlang.workload.data.dataset import Dataset

_HINTS = {"latency": "LATENCY", "throughput": "THROUGHPUT"}
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVino:
    """The artifact is `model.onnx`, or `model.xml` with `model.bin`.

    `settings["hint"]` is what the runtime schedules for, `settings["precision"]` what it calculates in,
    `settings["file"]` which file it is ("onnx" or "ir"), and `settings["int8"]` whether NNCF makes it int8 ("none",
    "nncf", or "accuracy": with as many layers in float as keep to `settings["max_drop"]`).
    """

    imports: ClassVar[tuple[str, ...]] = ("openvino",)
    """What `open` needs in memory first, so that the load time is the model's and not the library's."""

    def available(self) -> str | None:
        """None where openvino is installed."""
        return None if importlib.util.find_spec("openvino") else 'pip install "optlang-dsl[openvino]"'

    def wants(self) -> QuantWants:
        """The same as ONNX Runtime: the QDQ file made for it runs as fast here as one of OpenVINO's own tool."""
        from optlang.runtimes.shared.processor import overflows

        return QuantWants("uint8", "int8", False, True, True, reduced=overflows())

    def build(
        self, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset,
        study: Path,
    ) -> Artifact:
        """Write `model.onnx`, or OpenVINO's own `model.xml` and `model.bin`, in int8 by NNCF where that is asked for.

        OpenVINO's converter is not used: it is what reports to its makers, and reading a file does not.
        """
        from optlang.runtimes.openvino import files
        from optlang.runtimes.shared import onnx_file

        if target.device != "cpu":
            raise Refusal(f"this runtime is OpenVINO on the CPU; the target's device is {target.device}")
        own = settings.get("int8", "none") != "none" or settings.get("file", "onnx") == "ir"
        if not own:
            artifact = onnx_file.build(state, "openvino", folder, data, study)
        else:
            with tempfile.TemporaryDirectory(prefix="optlang-openvino-") as aside:
                onnx = onnx_file.build(state, "openvino", Path(aside), data, study)
                artifact = files.build(onnx, state, target, settings, folder, data)
        return replace(
            artifact, about={**artifact.about, "precision": _precision(settings), "hint": _hint(settings)}
        )

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """A compiled model with one stream of `target.threads` threads, for the target's batch size."""
        openvino: Any = importlib.import_module("openvino")
        precision = _precision(settings)
        if precision == "bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise Refusal(
                "this processor has no bfloat16 arithmetic",
                help="leave `precision` of the runtime openvino at float32, or measure on a processor that has it",
            )
        config = {
            "PERFORMANCE_HINT": _hint(settings),
            "INFERENCE_NUM_THREADS": target.threads,
            "NUM_STREAMS": 1,
            # The process that measures is pinned from outside; OpenVINO would choose cores of its own.
            "ENABLE_CPU_PINNING": False,
            # On processors with bfloat16 it would calculate in that without being asked; float32 means float32.
            "INFERENCE_PRECISION_HINT": precision,
            # Its generated kernels crash OpenVINO 2026.4 while a model of fixed shape is compiled: small products of
            # matrices on one thread, attention of 8 positions. What does without them is as fast, within a twentieth.
            "SNIPPETS_MODE": "DISABLE",
        }
        try:
            return _Open(openvino, artifact, target.batch, config)
        except RuntimeError as error:
            raise Refusal(f"OpenVINO does not load the model: {_last_line(error)}") from error


def _hint(settings: Mapping[str, Any]) -> str:
    chosen = str(settings.get("hint", "latency"))
    if chosen not in _HINTS:
        raise OptlangError(f"openvino has no hint '{chosen}'", help=f"one of {', '.join(_HINTS)}")
    return _HINTS[chosen]


def _precision(settings: Mapping[str, Any]) -> str:
    chosen = str(settings.get("precision", "float32"))
    if chosen not in _PRECISIONS:
        raise OptlangError(f"openvino has no precision '{chosen}'", help=f"one of {', '.join(_PRECISIONS)}")
    return _PRECISIONS[chosen]


def _last_line(error: BaseException) -> str:
    """OpenVINO's messages begin with the places in its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class _Open:
    """The target's batch size is compiled as a fixed shape, an eighth faster than a dynamic one for small models.

    Other batch sizes are answered by a second, dynamic model, compiled when the first of them comes.
    """

    def __init__(self, openvino: Any, artifact: Artifact, batch: int, config: Mapping[str, Any]) -> None:
        self._openvino = openvino
        self._file = str(artifact.folder / ("model.onnx" if artifact.format == "onnx" else "model.xml"))
        self._config = dict(config)
        self._outputs = artifact.outputs
        self._core = openvino.Core()
        self._batch = batch
        self._compiled: dict[int | None, Any] = {}
        self._dynamic = artifact.about.get("batch") is not None
        self._compile(None if self._dynamic else batch)

    def _compile(self, batch: int | None) -> Any:
        if batch not in self._compiled:
            model = self._core.read_model(self._file)
            if batch is not None:
                shapes = {}
                for item in model.inputs:
                    shape = item.partial_shape
                    shape[0] = batch
                    shapes[item.any_name] = shape
                model.reshape(shapes)
            self._compiled[batch] = self._core.compile_model(model, "CPU", self._config)
        return self._compiled[batch]

    def prepare(self, batch: Arrays) -> Any:
        import numpy

        size = len(next(iter(batch.values())))
        compiled = self._compile(self._batch if size == self._batch and not self._dynamic else None)
        request = compiled.create_infer_request()
        for item in compiled.inputs:
            # An input that is cast at once has the name of the cast too.
            name = next(name for name in item.names if name in batch)
            # A copy of our own: the request reads the memory at each run.
            request.set_tensor(item, self._openvino.Tensor(numpy.array(batch[name], order="C")))
        return request

    def run(self, prepared: Any) -> Any:
        return prepared.infer()

    def collect(self, result: Any) -> dict[str, numpy.ndarray[Any, Any]]:
        found = {}
        for item, value in result.items():
            for name in item.names:
                found[name] = value.copy()
        return {name: found[name] for name in self._outputs}

    def close(self) -> None:
        self._compiled.clear()
        del self._core
