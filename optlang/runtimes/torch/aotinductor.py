"""AOTInductor, on the CPU or a GPU: code that torch writes for the model and compiles once, in a file without Python.

Inductor's way (Ansel et al., 2024) without its first call: kernels are fused and compiled when the file is built, for
the processor and the number of threads there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import JSON, Array, Artifact, ModelState, QuantWants, Refusal, Session, TargetSpec
from optlang.workload import failures

if TYPE_CHECKING:
    from torch import Tensor

    from optlang.workload.data.axes import OpenAxis
    from optlang.workload.data.dataset import Dataset
    from optlang.workload.export.tracing import Proof

NAME = "model.pt2"


class AOTInductor:
    """The artifact is `model.pt2`, a shared library with the weights in it: inputs in order, a tuple of outputs.

    Its code takes any number of samples, has the target's number of threads and is for the processor that it was built
    on. Building takes seconds, the first time on a machine half a minute: what torch compiles for all models lies in
    its own folder of the system's temporary one (TORCHINDUCTOR_CACHE_DIR names another). That is time of the build, no
    part of the load time or of a latency. Of the load time some seconds are torch's own loader for Python, which first
    tries the processor's vector instructions; a C++ program has none of that. The file is not promised to be the same
    bytes again: torch and the compiler write names of their own.
    """

    imports: ClassVar[tuple[str, ...]] = ("torch", "torch._inductor.package")

    def available(self) -> str | None:
        """None where torch and a C++ compiler are installed."""
        from optlang.runtimes.torch.compiler import missing

        return missing()

    def missing(self, device: str, settings: Mapping[str, Any]) -> str | None:
        """None where torch computes on the device here, else what is missing."""
        from optlang.runtimes.shared import nvidia

        return nvidia.torch_missing() if device == "cuda" else None

    def wants(self) -> QuantWants:
        """What torch's own x86 kernels take; no int8 graph is built here: the declaration takes modules only."""
        return QuantWants("uint8", "int8", False, True, True)

    def build(
        self, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset,
        study: Path,
    ) -> Artifact:
        """Export, compile and write the model, proven with another number of samples than it was exported with.

        Raises `Refusal` for other forms, for what torch.export or Inductor cannot take, and where the file's answers
        are not the module's.
        """
        from optlang.runtimes.shared.artifact_files import described
        from optlang.runtimes.shared.torch_module import module_of
        from optlang.runtimes.torch import session
        from optlang.runtimes.torch.compiler import quiet
        from optlang.workload.export import tracing
        from optlang.workload.model import dtypes

        module = module_of(state, target, "aotinductor", devices=session.BOTH)
        if target.device == session.CUDA and (reason := self.missing(target.device, settings)) is not None:
            raise Refusal(f"AOTInductor compiles for the GPU that is there: {reason}")
        example = data.example(tracing.TRACED)
        with tracing.first_call(module, example, study, quiet()) as answers:
            _compile(module, example, folder / NAME, target, data.axes)
            for proof in tracing.proofs(module, data):
                _prove(module, proof, folder / NAME, target.device)
        about: dict[str, JSON] = {"stored": dtypes.stored(module)}
        if target.device == session.CUDA:
            about["tf32"] = session.tf32()
        return Artifact(folder, "pt2", described(folder, [NAME]), data.input_names, tuple(answers), about)

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """The library, loaded; it has the threads that it was built with, torch's own kernels those of the target."""
        import torch

        from optlang.runtimes.torch.compiler import quiet
        from optlang.runtimes.torch.session import GraphSession, threads

        with ExitStack() as stack:
            stack.enter_context(threads(target.threads))
            try:
                with quiet():
                    model = torch._inductor.aoti_load_package(str(artifact.folder / NAME))
            except (RuntimeError, ValueError) as error:
                raise Refusal(f"AOTInductor does not load the model: {str(error).splitlines()[0]}") from error
            return GraphSession(model, artifact.inputs, artifact.outputs, stack.pop_all(), device=target.device)


def _compile(
    module: Any, example: Mapping[str, Tensor], path: Path, target: TargetSpec, axes: Sequence[OpenAxis]
) -> None:
    import copy

    import torch

    from optlang.workload.export import torch_export

    if target.device != "cpu":
        # torch compiles for the device that the program's tensors lie on.
        module = copy.deepcopy(module).to(target.device)
        example = {name: item.to(target.device) for name, item in example.items()}
    program = torch_export.program(module, example, "AOTInductor", batch=torch.export.Dim("batch", min=1), axes=axes)
    # Left to itself, Inductor writes its loops for the number of threads that this process has now.
    options = {"cpp.threads": target.threads, "compile_threads": 1}
    with failures.refused("AOTInductor cannot compile the model", help="use the runtime torchscript"):
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


def _prove(module: Any, proof: Proof, path: Path, device: str) -> None:
    import torch

    from optlang.workload.data.tensors import array
    from optlang.workload.export import tracing

    def answer(_: list[str]) -> list[Array]:
        found = torch._inductor.aoti_load_package(str(path))(
            *(item.to(device) for item in proof.inputs.values())
        )
        return [array(item) for item in found]

    tracing.prove(module, proof, "the compiled model", answer)
