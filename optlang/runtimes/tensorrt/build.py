"""NVIDIA's TensorRT and TensorRT-RTX: an ONNX file built into an engine.

Both take graphs whose types stand in the graph: what is float16 there is float16 in the engine, and int8 is what stands
between QuantizeLinear and DequantizeLinear. So the same file means the same on 10, 11 and RTX.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Array, Artifact, ModelState, OutsideError, QuantWants, Refusal, Session, TargetSpec

if TYPE_CHECKING:
    from optlang.workload.data.axes import OpenAxis
    from optlang.workload.data.dataset import Dataset

    Shapes = dict[str, dict[str, list[int]]]

NAME = "model.engine"
_PLAIN, _RTX = "tensorrt", "tensorrt_rtx"
_INSTALL = {_PLAIN: 'pip install "optlang-dsl[tensorrt]"', _RTX: 'pip install "optlang-dsl[tensorrt-rtx]"'}
_TOOLS = {_PLAIN: "trtexec", _RTX: "tensorrt_rtx"}


class TensorRT:
    """The artifact is `model.engine`; the folder also has the ONNX file that it was built from.

    `settings`: `library` and `compute` say what builds it and for which GPUs, `max_batch` is the end of the profile
    (its middle is the target's batch; open axes go from their smallest to their largest size), `level`, `workspace` in
    bytes, `tf32` and `sparse` are the builder's own, and with `cuda_graph` calls are replayed from a CUDA graph.
    `about` tells what it was built with, by which command of the library's own tool (`command`) from which file
    (`beside`), and in how many seconds. The builder may time kernels: a file is not promised to be the same bytes
    again.
    """

    imports: tuple[str, ...] = ("cuda.bindings.runtime",)

    def __init__(self) -> None:
        first = next((name for name in (_PLAIN, _RTX) if importlib.util.find_spec(name)), None)
        self.imports = (*TensorRT.imports, *([] if first is None else [first]))

    def available(self) -> str | None:
        """None where one of the libraries is installed: TensorRT-RTX builds without a GPU."""
        there = any(importlib.util.find_spec(name) for name in (_PLAIN, _RTX))
        return None if there else f"{_INSTALL[_RTX]}, or {_INSTALL[_PLAIN]}"

    def runs(self) -> str | None:
        """None where a driver, a GPU and cuda-bindings are here, else what is missing."""
        from optlang.runtimes.shared import nvidia
        from optlang.runtimes.tensorrt import cuda

        return nvidia.missing() or cuda.missing()

    def wants(self) -> QuantWants:
        """Signed and symmetric, biases in float, and only the inputs of what has weights.

        Zero points other than 0 and int32 biases are refused by the parser. Where the rest stays in float, the builder
        fuses a convolution with its sum and activation, and moves what it can into int8 itself: NVIDIA's advice for
        explicit quantization.
        """
        return QuantWants("int8", "int8", True, True, True, biases="float", operators="weighted", tables="ahead")

    def build(
        self, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset,
        study: Path,
    ) -> Artifact:
        """Write the ONNX file and the engine. On the GPU that it is for, a module's engine is proven against it.

        Raises `Refusal` for other forms and devices, for integers in another scheme than `wants`, for axes of a
        file besides the batch whose sizes nobody said, and where the parser or the builder refuses, with the operator.
        """
        from optlang.runtimes.shared import onnx_file
        from optlang.runtimes.shared.artifact_files import described

        if state.form in ("module", "onnx") and target.device != "cuda":
            raise Refusal(
                f"tensorrt runs on NVIDIA GPUs; the target's device is {target.device}", help="set device = cuda"
            )
        most = int(settings.get("max_batch", 64))
        if target.batch > most:
            raise Refusal(
                f"the target's batch is {target.batch}, and the engine takes {most} samples",
                help="set a larger max_batch",
            )
        compute = str(settings.get("compute", "current"))
        source = onnx_file.build(state, "tensorrt", folder, data, study)
        _check_integers(folder / onnx_file.NAME)
        module = _library(str(settings.get("library", "auto")), compute)
        started = time.monotonic()
        profile, about = _compile(module, folder, settings, compute, target.batch, most, data.axes)
        about |= {
            "batch": source.about["batch"], "seconds": time.monotonic() - started, "profile": profile,
            "command": _command(module, settings, compute, profile), "cuda_graph": settings.get("cuda_graph", True),
            "precision": _precision(folder / onnx_file.NAME), "beside": [asdict(item) for item in source.files],
            "stored": source.about["stored"],
        }
        artifact = replace(source, format="tensorrt", files=described(folder, [NAME]), about=about)
        if state.form == "module" and compute == "current":
            self._prove(state, artifact, target, settings, data, study)
        return artifact

    def _prove(
        self, state: ModelState, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], data: Dataset,
        study: Path,
    ) -> None:
        from optlang.workload.export import tracing

        session = self.open(artifact, target, settings, study)

        def answer(proof: tracing.Proof, outputs: list[str]) -> list[Array]:
            found = session.collect(session.run(session.prepare({k: v.numpy() for k, v in proof.inputs.items()})))
            return [found[name] for name in outputs]

        try:
            for proof in tracing.proofs(state.model, data):
                tracing.prove(state.model, proof, "the engine", functools.partial(answer, proof))
        finally:
            session.close()

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """The engine on the GPU, called by the library that built it."""
        from optlang.runtimes.tensorrt.session import TensorRTSession

        if (reason := self.runs()) is not None:
            raise OutsideError(f"the engine cannot run here: {reason}")
        profile: Any = artifact.about["profile"]
        most = next((shapes["max"][0] for shapes in profile.values()), None)
        return TensorRTSession(
            _imported(str(artifact.about["module"])), artifact.folder / NAME, artifact.outputs, most,
            graph=bool(settings.get("cuda_graph", True)),
        )


# ---- the library


def _library(library: str, compute: str) -> Any:
    """The module that builds for `compute`; raises where it is not installed or needs a GPU that is not here."""
    from optlang.runtimes.shared import nvidia

    name = {"tensorrt": _PLAIN, "rtx": _RTX}.get(library)
    if name is None:
        name = _PLAIN if compute == "current" and importlib.util.find_spec(_PLAIN) else _RTX
    if name == _PLAIN and compute != "current":
        raise Refusal(
            f"TensorRT builds for this machine's GPU, not for {compute}", help="library = rtx builds for any GPU"
        )
    if compute == "current" and (reason := nvidia.missing()) is not None:
        raise Refusal(
            f"an engine for this machine's GPU cannot be built: {reason}",
            help="library = rtx builds without one for the GPUs that `compute` names: portable, sm89, …",
        )
    return _imported(name)


def _imported(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise OutsideError(f"{name} is not installed", help=_INSTALL[name])
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise OutsideError(f"{name} is installed and does not load: {error}", help=_INSTALL[name]) from error


# ---- the file


def _check_integers(file: Path) -> None:
    """Raise `Refusal` where integers are not what the parser takes; its own words name no way out."""
    import numpy
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(file).graph
    stored = {item.name: item for item in graph.initializer}
    for node in graph.node:
        if node.op_type in ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM"):
            raise Refusal(f"TensorRT has no {node.op_type} ({node.name})", help="static or qat, instead of dynamic")
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        point = stored.get(node.input[2]) if len(node.input) > 2 else None
        if point is None:
            continue
        kind = onnx.TensorProto.DataType.Name(point.data_type).lower()
        if kind not in ("int8", "int4") or numpy.any(numpy_helper.to_array(point)):
            said = f"in {kind}" if kind not in ("int8", "int4") else "asymmetric"
            raise Refusal(
                f"TensorRT needs signed integers with zero point 0, and {node.input[0]} is {said}",
                help="quantize the float model for this runtime; weight_only with symmetric = true",
            )


def _precision(file: Path) -> str:
    """The types of the matrices that the graph stores, the narrowest first: "int8, float32"."""
    import onnx

    names = onnx.TensorProto.DataType
    order = ("int4", "int8", "float16", "float32")
    kinds = {
        {"float": "float32"}.get(kind := names.Name(item.data_type).lower(), kind)
        for item in onnx.load(file, load_external_data=False).graph.initializer if len(item.dims) > 1
    }
    return ", ".join(kind for kind in order if kind in kinds) or "float32"


# ---- the engine


def _compile(
    module: Any, folder: Path, settings: Mapping[str, Any], compute: str, batch: int, most: int,
    axes: Sequence[OpenAxis],
) -> tuple[Shapes, dict[str, JSON]]:
    """Write the engine; gives the shapes of its profile, empty where all are fixed, and what it was built with."""
    from optlang.runtimes.shared import onnx_file
    from optlang.runtimes.tensorrt.session import listener

    lines: list[str] = []
    logger = listener(module, lines)
    builder = module.Builder(logger)
    # Without this flag TensorRT 10 chooses types itself; since 11, and in RTX, it says what is always so.
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = module.OnnxParser(network, logger)
    if not parser.parse_from_file(str(folder / onnx_file.NAME)):
        raise _refused(parser, lines)
    profile = _profile(network, batch, most, axes)
    engine = builder.build_serialized_network(network, _config(module, builder, settings, compute, profile))
    if engine is None:
        raise Refusal(f"TensorRT does not build the engine: {_first(lines)}")
    (folder / NAME).write_bytes(engine)
    return profile, {"module": module.__name__, "version": module.__version__, "compute": _gpu(compute)}


def _config(module: Any, builder: Any, settings: Mapping[str, Any], compute: str, profile: Shapes) -> Any:
    config = builder.create_builder_config()
    if profile:
        made = builder.create_optimization_profile()
        for name, shapes in profile.items():
            made.set_shape(name, shapes["min"], shapes["opt"], shapes["max"])
        config.add_optimization_profile(made)
    config.builder_optimization_level = int(settings.get("level", 3))
    if workspace := int(settings.get("workspace", 0)):
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace)
    for flag, wanted in (("TF32", settings.get("tf32", False)), ("SPARSE_WEIGHTS", settings.get("sparse", False))):
        (config.set_flag if wanted else config.clear_flag)(getattr(module.BuilderFlag, flag))
    if module.__name__ == _RTX and compute != "portable":
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(module.ComputeCapability, compute.upper()), 0)
    return config


def _refused(parser: Any, lines: Sequence[str]) -> Refusal:
    # What the parser tells goes when the parser goes.
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        where = error.node_name() or "a node without a name"
        said = error.desc().strip().splitlines()
        # Of what it knows and cannot do it says no more than "false".
        why = said[-1] if said and " " in said[-1] else _first(lines)
        return Refusal(
            f"TensorRT does not take the operator {error.node_operator()} of {where}: {why}",
            help="keep that layer out of the graph, or use the runtime onnxruntime",
        )
    return Refusal(f"TensorRT does not read the graph: {_first(lines)}")


def _first(lines: Sequence[str]) -> str:
    return lines[0].strip().splitlines()[0] if lines else "it gives no reason"


def _profile(network: Any, batch: int, most: int, axes: Sequence[OpenAxis]) -> Shapes:
    """The shapes that the engine takes: open axes from their smallest to their largest size, best at the usual one."""
    opened = {place: item for item in axes for place in item.places}
    shapes: Shapes = {}
    for index in range(network.num_inputs):
        given = network.get_input(index)
        sizes = tuple(given.shape)
        ends: dict[str, list[int]] = {"min": [], "opt": [], "max": []}
        for axis, size in enumerate(sizes):
            item = opened.get((given.name, axis))
            if size < 0 and axis > 0 and item is None:
                raise Refusal(
                    f"the input {given.name} has an axis without a fixed length besides the batch: {list(sizes)}",
                    help=f'say its sizes in the target: dynamic = ["{given.name}:{axis} = 8..512"]',
                )
            wanted = (1, batch, most) if axis == 0 else (item.low, item.usual, item.high) if item else (size,) * 3
            for end, value in zip(ends, wanted if size < 0 else (size,) * 3, strict=True):
                ends[end].append(value)
        if min(sizes, default=0) < 0:
            shapes[given.name] = ends
    return shapes


def _gpu(compute: str) -> str:
    """The compute capability that an engine is for; "portable" is 8.6 and newer."""
    if compute != "current":
        return compute
    from optlang.runtimes.tensorrt.cuda import Stream

    stream = Stream()
    try:
        return stream.compute()
    finally:
        stream.close()


def _command(module: Any, settings: Mapping[str, Any], compute: str, profile: Shapes) -> str:
    """The line of a shell that builds the engine again, in the artifact's folder."""
    from optlang.runtimes.shared import onnx_file

    tool = _TOOLS[module.__name__]
    words = [tool, f"--onnx={onnx_file.NAME}", f"--saveEngine={NAME}", "--skipInference"]
    words += ["--stronglyTyped"] if module.__name__ == _PLAIN else []
    for end in ("min", "opt", "max") if profile else ():
        shapes = ",".join(f"{_quoted(name)}:{'x'.join(map(str, item[end]))}" for name, item in profile.items())
        words.append(f"--{end}Shapes={shapes}")
    words.append(f"--builderOptimizationLevel={int(settings.get('level', 3))}")
    if workspace := int(settings.get("workspace", 0)):
        words.append(f"--memPoolSize=workspace:{workspace}B")
    words += [] if settings.get("tf32", False) else ["--noTF32"]
    words += ["--sparsity=enable"] if settings.get("sparse", False) else []
    if module.__name__ == _RTX and compute != "portable":
        words.append("--useGpu" if compute == "current" else f"--computeCapabilities={compute.removeprefix('sm')}")
    return shlex.join(words)


def _quoted(name: str) -> str:
    """As the tools want names that hold their own separators."""
    return f"'{name}'" if re.search(r"[:,]", name) else name
