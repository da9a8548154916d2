"""ONNX Runtime, on the CPU and through its providers for GPUs."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import JSON, Artifact, ModelState, QuantWants, Refusal, Session, TargetSpec
from optlang.runtimes.onnxruntime import session
from optlang.workload import failures

if TYPE_CHECKING:

    from optlang.workload.data.dataset import Dataset

# As workload/export/onnx.py has it, which may not be imported before a model is built.
_OPSET = 18


class OnnxRuntime:
    """The artifact is `model.onnx`, or with `format` ort `model.ort`, what mobile builds of ONNX Runtime load.

    `settings`: `opset` and `exporter` say how a module becomes a file (a file that comes in another opset is converted
    where one besides the default is asked for), `graph` how far the graph is changed when it is loaded, or before an
    ORT file is written. `arena`, `execution` with `inter_threads`, and `spinning` are the session's own.
    `provider` is what runs it: with cuda and tensorrt inputs and outputs stay on the GPU while a call is timed, cuda
    calculates float32 without TensorFloat-32, and what a provider has no kernel for runs on the CPU.
    """

    imports: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def available(self) -> str | None:
        """None where onnxruntime is installed."""
        return None if importlib.util.find_spec("onnxruntime") else 'pip install "onnxruntime>=1.23,<1.33"'

    def missing(self, device: str, settings: Mapping[str, Any]) -> str | None:
        """None where the provider for the device is here, else what is missing."""
        from optlang.runtimes.shared import nvidia

        if device != "cuda":
            return None
        if not _installed("onnxruntime-gpu"):
            return "onnxruntime is the one for processors (pip uninstall onnxruntime && pip install onnxruntime-gpu)"
        return nvidia.missing()

    def wants(self) -> QuantWants:
        """Unsigned activations and symmetric signed weights by channel: what the VNNI kernels take.

        int8 activations, or uint8 weights by tensor, run three times slower on the same machine. Without VNNI the x86
        kernels add two products in 16 bits, which overflows silently (a small net lost 6 points of accuracy) unless
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
            exporter=str(settings.get("exporter", "auto")),
        )
        if provider != "cpu":
            _check_float(folder / onnx_file.NAME)
        own: dict[str, JSON] = {name: settings.get(name, default) for name, default in session.DEFAULTS.items()}
        about = {**artifact.about, "session": {**own, "threads": target.threads}}
        artifact = replace(artifact, about=about)
        if settings.get("format", "onnx") == "ort":
            return _as_ort(artifact, str(own["graph"]))
        return artifact

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """A session with `target.threads` threads inside an operator; operators one after the other, by default."""
        return session.opened(artifact, target, settings)


def _as_ort(artifact: Artifact, level: str) -> Artifact:
    """The ONNX file as `model.ort`, optimized as far as every machine can run it, in place of `model.onnx`."""
    import onnxruntime

    from optlang.runtimes.shared.artifact_files import described

    options = session.options({**session.DEFAULTS, "graph": level}, 1)
    options.optimized_model_filepath = str(artifact.folder / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    with failures.refused("ONNX Runtime does not write the model in its own format"):
        # As onnxruntime.tools.convert_onnx_models_to_ort does it: the layout of images is for x86 alone.
        onnxruntime.InferenceSession(
            str(artifact.folder / "model.onnx"), options, providers=["CPUExecutionProvider"],
            disabled_optimizers=[session.LAYOUT],
        )
    for item in artifact.files:
        (artifact.folder / item.name).unlink()
    return replace(artifact, format="ort", files=described(artifact.folder, ["model.ort"]))


def _installed(distribution: str) -> bool:
    from importlib import metadata

    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _check_device(provider: str, device: str) -> None:
    if provider == "cpu" and device == "cuda":
        raise Refusal(
            "this runtime is ONNX Runtime on the CPU; the target's device is cuda",
            help="set provider = cuda or tensorrt",
        )
    if provider == "cpu" and device != "cpu":
        raise Refusal(f"this runtime is ONNX Runtime on the CPU; the target's device is {device}")
    if provider != "cpu" and device != "cuda":
        raise Refusal(f"provider = {provider} runs on a GPU; the target's device is {device}", help="set device = cuda")


def _check_float(file: Path) -> None:
    import onnx

    for node in onnx.load(file, load_external_data=False).graph.node:
        if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"):
            raise Refusal(
                f"ONNX Runtime has no GPU kernels for int8 ({node.op_type} {node.name})",
                help="use the runtime tensorrt for int8, or the technique half",
            )


