"""A model that ONNX Runtime has loaded: its options, its providers and its calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optlang.interfaces import Array, Arrays, Artifact, Refusal, Session, TargetSpec
from optlang.workload import failures

_LEVELS = {
    "off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL",
}
LAYOUT = "NchwcTransformer"
_PROVIDERS = {
    "cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider",
}
# What a session has besides its threads; an exported program opens the model with the same.
DEFAULTS: Mapping[str, Any] = {
    "graph": "all", "arena": True, "execution": "sequential", "inter_threads": 1, "spinning": True, "provider": "cpu",
}


def opened(artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any]) -> Session:
    """Load the artifact. Raises `Refusal` where the provider is not there, or the file cannot be loaded."""
    import onnxruntime

    known = {**DEFAULTS, **settings}
    chosen = options(known, target.threads)
    provider = str(known["provider"])
    _check_provider(provider, onnxruntime.get_available_providers())
    file = next(item.name for item in artifact.files if item.name in ("model.onnx", "model.ort"))
    # A layout of images is for convolutions alone; without them it ends the process (ONNX Runtime 1.32) where a
    # Transformer is in float16.
    skipped = [] if artifact.about.get("convolutions", True) else [LAYOUT]
    with failures.refused("ONNX Runtime does not load the model"):
        session = onnxruntime.InferenceSession(
            str(artifact.folder / file), chosen, providers=_providers(provider), disabled_optimizers=skipped,
        )
    if provider == "cpu":
        return OnnxRuntimeSession(session, artifact.outputs)
    return GpuSession(session, artifact.outputs, "cuda")


def options(settings: Mapping[str, Any], threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[settings["graph"]])
    options.intra_op_num_threads = threads
    parallel = settings["execution"] == "parallel"
    options.inter_op_num_threads = int(settings.get("inter_threads") or 1) if parallel else 1
    modes = onnxruntime.ExecutionMode
    options.execution_mode = modes.ORT_PARALLEL if parallel else modes.ORT_SEQUENTIAL
    options.log_severity_level = 3
    if not settings["arena"]:
        options.enable_cpu_mem_arena = False
    if not settings["spinning"]:
        for pool in ("intra_op", "inter_op"):
            options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    return options


def _check_provider(provider: str, there: Sequence[str]) -> None:
    if _PROVIDERS[provider] not in there:
        found = ", ".join(name.removesuffix("ExecutionProvider") for name in there)
        raise Refusal(
            f"this build of ONNX Runtime has no provider {provider}: it has {found}",
            help="pip uninstall onnxruntime && pip install onnxruntime-gpu, with CUDA"
            + (" and TensorRT" if provider == "tensorrt" else ""),
        )


def _providers(provider: str) -> list[Any]:
    """The providers in their order; those after the first take what it has no kernels for."""
    cuda = ("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"})
    first: dict[str, list[Any]] = {"cpu": [], "cuda": [cuda], "tensorrt": ["TensorrtExecutionProvider", cuda]}
    return [*first[provider], "CPUExecutionProvider"]


class OnnxRuntimeSession:
    def __init__(self, session: Any, outputs: tuple[str, ...]) -> None:
        self._session = session
        self._run = session.run
        self._inputs = tuple(item.name for item in session.get_inputs())
        self._outputs = list(outputs)

    def prepare(self, batch: Arrays) -> dict[str, Array]:
        import numpy

        return {name: numpy.ascontiguousarray(batch[name]) for name in self._inputs}

    def run(self, prepared: dict[str, Array]) -> list[Array]:
        answers: list[Array] = self._run(self._outputs, prepared)
        return answers

    def collect(self, result: list[Array]) -> dict[str, Array]:
        return dict(zip(self._outputs, result, strict=True))

    def close(self) -> None:
        del self._run, self._session


class GpuSession:
    """Inputs and outputs lie on `device` while a call runs, so that no copy between it and the host is timed."""

    def __init__(self, session: Any, outputs: tuple[str, ...], device: str) -> None:
        self._session = session
        self._outputs = outputs
        self._device = device

    def prepare(self, batch: Arrays) -> Any:
        import numpy
        import onnxruntime

        binding = self._session.io_binding()
        for item in self._session.get_inputs():
            array = numpy.ascontiguousarray(batch[item.name])
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array, self._device, 0)
            binding.bind_ortvalue_input(item.name, value)
        for name in self._outputs:
            binding.bind_output(name, self._device, 0)
        binding.synchronize_inputs()
        return binding

    def run(self, prepared: Any) -> Any:
        self._session.run_with_iobinding(prepared)
        prepared.synchronize_outputs()
        return prepared

    def collect(self, result: Any) -> dict[str, Array]:
        return dict(zip(self._outputs, result.copy_outputs_to_cpu(), strict=True))

    def close(self) -> None:
        del self._session
