"""torch.compile, on the CPU or a GPU: the module as it is, or on the CPU in int8, compiled when it is loaded."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import Artifact, ModelState, Refusal, Session, TargetSpec
from optlang.runtimes.torch.eager import Eager, EagerSession
from optlang.workload import failures

if TYPE_CHECKING:
    from optlang.workload.data.dataset import Dataset

NAME, _FORMAT = "model.pt2", "pt2"
_MODES = {
    # On a processor "reduce-overhead" does what "default" does: all it sets is CUDA graphs.
    "cpu": {
        "default": "default", "reduce_overhead": "reduce-overhead", "max_autotune": "max-autotune-no-cudagraphs",
    },
    "cuda": {"default": "default", "reduce_overhead": "reduce-overhead", "max_autotune": "max-autotune"},
}


class Inductor(Eager):
    """The artifact is eager's, rebuilt from its factory; `open` compiles it (Ansel et al., 2024).

    `settings["mode"]` is torch.compile's: "max_autotune" times several kernels for each product of matrices, and
    "reduce_overhead" replays a call from a CUDA graph, as "max_autotune" does on a GPU too;
    `settings["dynamic"]` compiles one program for any number of samples, otherwise it is for the target's batch alone
    and other numbers are cut into such. The whole of forward must compile: what torch would silently leave to Python
    is refused. Compilation is measured apart, as `compile_time`: half a minute the first time on a machine and seconds
    later; what was compiled before is found again in torch's own folder of the system's temporary one
    (TORCHINDUCTOR_CACHE_DIR names another).

    `static` and `dynamic` int8 are torchao's. Then the artifact is `model.pt2`, the quantized program, which `open`
    compiles with its weights as constants. It is saved as torch.export saves it, not as requests to replay on a new
    module: loading takes tenths of a second and no data, no float weights are stored next to the integers, the answers
    depend on no second calibration, and the file needs none of the model's Python. Of its parts torch would pickle the
    example inputs alone; they are left out, and a file with any pickle is refused.
    """

    name: ClassVar[str] = "inductor"
    imports: ClassVar[tuple[str, ...]] = (*Eager.imports, "torch._dynamo", "torch._inductor.compile_fx")

    def available(self) -> str | None:
        """None where torch, a C++ compiler and Python's headers are installed."""
        import sysconfig

        from optlang.runtimes.torch.compiler import missing

        header = Path(sysconfig.get_path("include")) / "Python.h"
        absent = None if header.is_file() else f"Python's headers were not found ({header}): apt install python3-dev"
        return missing() or absent

    def build(
        self, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset,
        study: Path,
    ) -> Artifact:
        """Write eager's file, or the program in int8; what inputs look like goes into `about`, for `open` to compile
        for them.

        Raises `Refusal` for other forms and devices; of int8 for what torch.export cannot capture, for settings that
        torchao's quantizer has not, and where most weights stay in float or the file does not become smaller.
        """
        from optlang.workload.data.tensors import describe

        mode, dynamic = str(settings.get("mode", "default")), bool(settings.get("dynamic", False))
        if state.form == "graph" and state.requests and target.device == "cpu":
            artifact = _in_integers(state, target, dynamic, folder, data, study)
        else:
            artifact = super().build(state, target, settings, folder, data, study)
        about = {
            **artifact.about, "mode": mode, "dynamic": dynamic, "example": describe(data.example(target.batch)),
            "batch": None if dynamic else target.batch,
            "open": {name: [axis for item in data.axes for place, axis in item.places if place == name]
                     for name in data.input_names},
        }
        return dataclasses.replace(artifact, about=about)

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """The module on `target.threads` threads, compiled for the target's batch. Raises `Refusal` where it cannot."""
        import torch

        from optlang.workload import imports
        from optlang.workload.data import tensors

        if artifact.format == _FORMAT:
            return _open_integers(artifact, target)
        session = super().open(artifact, target, settings, study)
        assert isinstance(session, EagerSession)
        about: Mapping[str, Any] = artifact.about
        given = {name: item.numpy() for name, item in tensors.imagined(about["example"]).items()}
        with ExitStack() as stack:
            stack.callback(session.close)
            prepared = session.prepare(given)
            with imports.user_code("running the model", study):
                session.run(prepared)
            _mark({**dict(zip(given, prepared[0], strict=False)), **prepared[1]}, about)
            session.call = torch.compile(
                session.call, mode=_MODES[target.device][about["mode"]], dynamic=about["dynamic"], fullgraph=True
            )
            session.compiled = _first_call(lambda: session.run(prepared))
            stack.pop_all()
        return session


def _mark(inputs: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Have one program compiled for any size of the open axes."""
    import torch

    for name, axes in (about.get("open") or {}).items():
        for axis in axes:
            torch._dynamo.mark_dynamic(inputs[name], axis)


def _first_call(call: Callable[[], Any]) -> float:
    """The seconds that a call takes which compiles; `Refusal` where torch does not compile the whole of it."""
    import torch

    from optlang.runtimes.torch.compiler import quiet

    start = time.perf_counter()
    with failures.refused(
        "torch.compile does not take the whole of forward",
        help="write that part of forward with torch's own operators, or use the runtime eager",
    ), quiet(), torch._inductor.config.patch(compile_threads=1):
        call()
    return time.perf_counter() - start


def _in_integers(
    state: ModelState, target: TargetSpec, dynamic: bool, folder: Path, data: Dataset, study: Path
) -> Artifact:
    """Write the program that torchao's quantizer makes of the module, and read it again: both give the same answers."""
    import safetensors.torch
    import torch

    from optlang.runtimes.shared.artifact_files import described, refuse_larger
    from optlang.runtimes.torch import pt2_archive, x86_quantizer
    from optlang.workload.export import torch_export, tracing
    from optlang.workload.model import dtypes, quantized_share
    from optlang.workload.model.weights import parameters

    x86_quantizer.refuse_unknown(state.requests)
    (request,) = state.requests
    module = state.model
    dtypes.refuse_others(dtypes.module_types(module))
    example = data.example(max(target.batch, tracing.TRACED) if dynamic else target.batch)
    shapes: dict[str, Any] = {"batch": torch.export.Dim("batch", min=1)} if dynamic else {"fixed": True}
    shapes["axes"] = data.axes
    with tracing.first_call(module, example, study, torch_export.quiet()) as answers:
        program = torch_export.program(module, example, "Inductor", **shapes)
        graph, int8 = x86_quantizer.quantized(program, module, example, request, data)
        pt2_archive.write(torch_export.again(graph, example, "Inductor", **shapes), folder / NAME)
        size = (folder / NAME).stat().st_size
        refuse_larger("int8", size, len(safetensors.torch.save(parameters(module))))
        given = data.example(tracing.CHECKED) if dynamic else example
        right, found = graph(*given.values()), pt2_archive.read(folder / NAME)(*given.values())
        wanted = {name: item.numpy() for name, item in zip(answers, right, strict=True)}
        tracing.agree(wanted, [item.numpy() for item in found], "the file", tracing.tolerance(module))
    return Artifact(folder, _FORMAT, described(folder, [NAME]), data.input_names, tuple(answers), {
        "int8": int8, "stored": quantized_share.stored(int8["all"]),
    })


def _open_integers(artifact: Artifact, target: TargetSpec) -> Session:
    """The program, compiled with its weights as constants; `Refusal` where a layer would run in float after all."""
    import importlib

    import torch
    import torch._inductor

    from optlang.runtimes.torch import pt2_archive, session, x86_quantizer
    from optlang.workload.data import tensors
    from optlang.workload.export import torch_export

    about: Mapping[str, Any] = artifact.about
    with torch_export.quiet():
        importlib.import_module(x86_quantizer.QUANTIZER)
        start = time.perf_counter()
        model = pt2_archive.read(artifact.folder / NAME)
    loaded = time.perf_counter() - start
    imagined = tensors.imagined(about["example"])
    _mark(imagined, about)
    given = tuple(imagined.values())
    made: list[int] = []
    with ExitStack() as stack:
        stack.enter_context(session.threads(target.threads))
        # For the whole process, as the threads are: torch asks for it before it looks at torch.compile's options, and
        # again where another number of samples is compiled.
        stack.enter_context(torch._inductor.config.patch(freezing=True))
        mode = _MODES[target.device][about["mode"]]
        compiled: Any = torch.compile(model, mode=mode, dynamic=about["dynamic"], fullgraph=True)

        def first_call(values: tuple[Any, ...]) -> float:
            before = x86_quantizer.kernels()
            seconds = _first_call(lambda: compiled(*values))
            made.append(x86_quantizer.kernels() - before)
            return seconds

        # oneDNN's packing of int8 weights is not known to inference mode.
        with torch.no_grad():
            seconds = first_call(given)
            if about["dynamic"]:
                # torch makes one program of a single sample, and another of all other numbers.
                others = {
                    name: item[:1] if len(item) > 1 else torch.cat([item, item]) for name, item in imagined.items()
                }
                _mark(others, about)
                seconds += first_call(tuple(others.values()))
        kernels, wanted = min(made), about["int8"]["kernels"]
        if kernels < wanted:
            raise Refusal(
                f"Inductor makes int8 kernels of {kernels} layers and leaves {wanted - kernels} in float, behind "
                "integers that it turns into floats in each call",
                help="keep those layers in float, or the runtime onnxruntime",
            )
        return session.GraphSession(
            compiled, artifact.inputs, artifact.outputs, stack.pop_all(), without_grad=torch.no_grad, loaded=loaded,
            compiled=seconds,
        )
