"""ONNX Runtime, on the CPU and through its providers for GPUs. Knows its options and no techniques."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import (
    JSON,
    Arrays,
    Artifact,
    ModelState,
    OptlangError,
    QuantWants,
    Refusal,
    Session,
    TargetSpec,
)
from optlang.workload import failures

if TYPE_CHECKING:
    import numpy

    from optlang.workload.data.dataset import Dataset

_LEVELS = {
    "off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL",
}
_LAYOUT = "NchwcTransformer"
# As workload/onnx_export.py has it, which may not be imported before a model is built.
_OPSET = 18
_PROVIDERS = {
    "cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider",
}
# What a session has besides its threads; an exported program opens the model with the same.
_DEFAULTS: Mapping[str, Any] = {
    "graph": "all", "arena": True, "execution": "sequential", "inter_threads": 1, "spinning": True, "provider": "cpu",
}


class OnnxRuntime:
    """The artifact is `model.onnx`, or with `format` ort `model.ort`, what mobile builds of ONNX Runtime load.

    `settings`: `opset` and `exporter` say how a module becomes a file (a file that comes in another opset is converted
    where one besides the default is asked for), `graph` how far the graph is changed when it is loaded, or before an
    ORT file is written. `arena`, `execution` with `inter_threads`, and `spinning` are the session's own.
    `provider` is what runs it: with cuda and tensorrt inputs and outputs stay on the GPU while a call is timed, cuda
    calculates float32 without TensorFloat-32, and what a provider has no kernel for runs on the CPU.
    """

    imports: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    """What `open` needs in memory first, so that the load time is the model's and not the library's."""

    def available(self) -> str | None:
        """None where onnxruntime is installed."""
        return None if importlib.util.find_spec("onnxruntime") else 'pip install "onnxruntime>=1.23,<1.33"'

    def wants(self) -> QuantWants:
        """Unsigned activations and symmetric signed weights by channel: what the VNNI kernels take.

        int8 activations, or uint8 weights by tensor, run three times slower on the same machine. Without VNNI the x86
        kernels add two products in 16 bits, which overflows in silence (6 points of accuracy of a small net) unless
        weights keep to seven bits; that costs no time. Arm's kernels take unsigned and signed activations alike, so an
        ORT file for a phone has the same scheme.
        """
        from optlang.runtimes.shared.processor import overflows

        return QuantWants("uint8", "int8", False, True, True, reduced=overflows())

    def build(
        self, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset,
        study: Path,
    ) -> Artifact:
        """Write the file. An ONNX file has no optimizations of the session in it: they fit one machine only.

        Raises `Refusal` where the device is not the provider's, for int8 on a GPU, which has no kernels for it here,
        and where the model cannot be exported or written as an ORT file.
        """
        from optlang.runtimes.shared import onnx_file

        provider = str(settings.get("provider", "cpu"))
        if state.form in ("module", "onnx"):
            _check_device(provider, target.device)
        opset = int(settings.get("opset", _OPSET))
        artifact = onnx_file.build(
            state, "onnxruntime", folder, data, study, opset=None if opset == _OPSET else opset,
            exporter=str(settings.get("exporter", "script")),
        )
        if provider != "cpu":
            _check_float(folder / onnx_file.NAME)
        session: dict[str, JSON] = {**_DEFAULTS, **{name: settings[name] for name in _DEFAULTS if name in settings}}
        about = {**artifact.about, "session": {**session, "threads": target.threads}}
        artifact = replace(artifact, about=about)
        if settings.get("format", "onnx") == "ort":
            return _as_ort(artifact, str(session["graph"]))
        return artifact

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """A session with `target.threads` threads inside an operator; operators one after the other, by default."""
        import onnxruntime

        known = {**_DEFAULTS, **settings}
        options = _options(known, target.threads)
        provider = str(known["provider"])
        _check_provider(provider, onnxruntime.get_available_providers())
        file = next(item.name for item in artifact.files if item.name in ("model.onnx", "model.ort"))
        # A layout of images is for convolutions alone; without them it ends the process (ONNX Runtime 1.32) where a
        # Transformer is in float16.
        skipped = [] if artifact.about.get("convolutions", True) else [_LAYOUT]
        with failures.refused("ONNX Runtime does not load the model"):
            session = onnxruntime.InferenceSession(
                str(artifact.folder / file), options, providers=_providers(provider), disabled_optimizers=skipped,
            )
        if provider == "cpu":
            return _Open(session, artifact.outputs)
        return _Bound(session, artifact.outputs, "cuda")


def _options(settings: Mapping[str, Any], threads: int) -> Any:
    import onnxruntime

    level, execution = str(settings["graph"]), str(settings["execution"])
    if level not in _LEVELS:
        raise OptlangError(f"onnxruntime has no graph level '{level}'", help=f"one of {', '.join(_LEVELS)}")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[level])
    options.intra_op_num_threads = threads
    parallel = execution == "parallel"
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


def _as_ort(artifact: Artifact, level: str) -> Artifact:
    """The ONNX file as `model.ort`, optimized as far as every machine can run it, in place of `model.onnx`."""
    import onnxruntime

    from optlang.runtimes.shared.artifact_files import described

    options = _options({**_DEFAULTS, "graph": level}, 1)
    options.optimized_model_filepath = str(artifact.folder / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    with failures.refused("ONNX Runtime does not write the model in its own format"):
        # As onnxruntime.tools.convert_onnx_models_to_ort does it: the layout of images is for x86 alone.
        onnxruntime.InferenceSession(
            str(artifact.folder / "model.onnx"), options, providers=["CPUExecutionProvider"],
            disabled_optimizers=[_LAYOUT],
        )
    for item in artifact.files:
        (artifact.folder / item.name).unlink()
    return replace(artifact, format="ort", files=described(artifact.folder, ["model.ort"]))


# ---- providers


def _check_device(provider: str, device: str) -> None:
    if provider == "cpu" and device == "cuda":
        raise Refusal(
            "this runtime is ONNX Runtime on the CPU; the target's device is cuda", help="provider = cuda or tensorrt"
        )
    if provider == "cpu" and device != "cpu":
        raise Refusal(f"this runtime is ONNX Runtime on the CPU; the target's device is {device}")
    if provider != "cpu" and device != "cuda":
        raise Refusal(f"provider = {provider} runs on a GPU; the target's device is {device}", help="device = cuda")


def _check_float(file: Path) -> None:
    import onnx

    for node in onnx.load(file, load_external_data=False).graph.node:
        if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"):
            raise Refusal(
                f"ONNX Runtime has no kernels on a GPU for int8 as it is fast on the CPU ({node.op_type} {node.name})",
                help="the runtime tensorrt has its own int8; half makes the model faster here",
            )


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


class _Bound:
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

    def collect(self, result: Any) -> dict[str, numpy.ndarray[Any, Any]]:
        return dict(zip(self._outputs, result.copy_outputs_to_cpu(), strict=True))

    def close(self) -> None:
        del self._session
