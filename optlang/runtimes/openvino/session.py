"""A model that OpenVINO has compiled: its options and its calls."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from optlang.interfaces import Array, Arrays, Artifact, Refusal, Session, TargetSpec
from optlang.workload import failures

HINTS = {"latency": "LATENCY", "throughput": "THROUGHPUT"}
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def opened(artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any]) -> Session:
    """Compile the model. Raises `Refusal` where it cannot be loaded, or the processor has no bfloat16."""
    openvino: Any = importlib.import_module("openvino")
    arithmetic = PRECISIONS[settings.get("precision", "float32")]
    if arithmetic == "bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise Refusal(
            "this processor has no bfloat16 arithmetic",
            help="leave `precision` of the runtime openvino at float32, or measure on a processor that has it",
        )
    config = {
        "PERFORMANCE_HINT": HINTS[settings.get("hint", "latency")],
        "INFERENCE_NUM_THREADS": target.threads,
        "NUM_STREAMS": 1,
        # The process that measures is pinned from outside; OpenVINO would choose cores of its own.
        "ENABLE_CPU_PINNING": False,
        # On processors with bfloat16 it would calculate in that without being asked; float32 means float32.
        "INFERENCE_PRECISION_HINT": arithmetic,
        # Its generated kernels crash OpenVINO 2026.4 while a model of fixed shape is compiled: small products of
        # matrices on one thread, attention of 8 positions. What does without them is as fast, within a twentieth.
        "SNIPPETS_MODE": "DISABLE",
    }
    try:
        return OpenVinoSession(openvino, artifact, target.batch, config)
    except RuntimeError as error:
        raise Refusal(
            f"OpenVINO does not load the model: {failures.last_line(error)}",
            help="the runtime onnxruntime takes such files; in int8, keep leaves the layer in float that is at fault",
        ) from error


class OpenVinoSession:
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

    def collect(self, result: Any) -> dict[str, Array]:
        found = {}
        for item, value in result.items():
            for name in item.names:
                found[name] = value.copy()
        return {name: found[name] for name in self._outputs}

    def close(self) -> None:
        self._compiled.clear()
        del self._core
