"""ONNX Runtime on the CPU. Knows its options and nothing of how the file came about."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.forms import Arrays, Artifact, OptlangError, QuantWants, Refusal, Session, Subject, TargetSpec

if TYPE_CHECKING:
    import numpy

    from optlang.workload.data import Data

_LEVELS = {
    "off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL",
}
_LAYOUT = "NchwcTransformer"


class OnnxRuntime:
    """The artifact is `model.onnx`; `settings["graph"]` is how far the session may change the graph when it loads."""

    imports: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    """What `open` needs in memory first, so that the load time is the model's and not the library's."""

    def available(self) -> str | None:
        """None where onnxruntime is installed."""
        return None if importlib.util.find_spec("onnxruntime") else 'pip install "onnxruntime>=1.23,<2"'

    def wants(self) -> QuantWants:
        """Unsigned activations and symmetric signed weights by channel: what the VNNI kernels take.

        int8 activations, or uint8 weights by tensor, run three times slower on the same machine. Without VNNI the x86
        kernels add two products in 16 bits, which overflows in silence (6 points of accuracy of a small net) unless
        weights keep to seven bits; that costs no time.
        """
        from optlang.runtimes.processor import overflows

        return QuantWants("uint8", "int8", False, True, True, reduced=overflows())

    def build(
        self, subject: Subject, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Data, study: Path
    ) -> Artifact:
        """Write the ONNX file. The session's own optimizations are not written into it: they fit one machine only."""
        from optlang.runtimes import graph

        if target.device != "cpu":
            raise Refusal(f"this runtime is ONNX Runtime on the CPU; the target's device is {target.device}")
        return graph.build(subject, "onnxruntime", folder, data, study)

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """A session with `target.threads` threads inside an operator, operators one after the other."""
        import onnxruntime

        level = str(settings.get("graph", "all"))
        if level not in _LEVELS:
            raise OptlangError(f"onnxruntime has no graph level '{level}'", help=f"one of {', '.join(_LEVELS)}")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[level])
        options.intra_op_num_threads = target.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        # A layout of images is for convolutions alone; without them it ends the process (ONNX Runtime 1.32) where a
        # Transformer is in float16.
        skipped = [] if artifact.about.get("convolutions", True) else [_LAYOUT]
        try:
            session = onnxruntime.InferenceSession(
                str(artifact.folder / "model.onnx"), options, providers=["CPUExecutionProvider"],
                disabled_optimizers=skipped,
            )
        except Exception as error:  # its exceptions have no common base of their own
            raise Refusal(f"ONNX Runtime does not load the model: {_first_line(error)}") from error
        return _Open(session, artifact.outputs)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _Open:
    def __init__(self, session: Any, outputs: tuple[str, ...]) -> None:
        self._session = session
        self._run = session.run
        self._inputs = tuple(item.name for item in session.get_inputs())
        self._outputs = list(outputs)

    def prepare(self, batch: Arrays) -> dict[str, numpy.ndarray[Any, Any]]:
        import numpy

        return {name: numpy.ascontiguousarray(batch[name]) for name in self._inputs}

    def run(self, prepared: dict[str, numpy.ndarray[Any, Any]]) -> list[numpy.ndarray[Any, Any]]:
        answers: list[numpy.ndarray[Any, Any]] = self._run(self._outputs, prepared)
        return answers

    def collect(self, result: list[numpy.ndarray[Any, Any]]) -> dict[str, numpy.ndarray[Any, Any]]:
        return dict(zip(self._outputs, result, strict=True))

    def close(self) -> None:
        del self._run, self._session
