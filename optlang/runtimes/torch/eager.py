"""PyTorch as it is: the module itself, called in float32 or with layers in int8."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import (
    Array,
    Arrays,
    Artifact,
    Edit,
    Factory,
    ModelState,
    QuantWants,
    Refusal,
    Session,
    TargetSpec,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.workload.data.dataset import Dataset

WEIGHTS = "model.safetensors"


class Eager:
    """The artifact is the safetensors file; the module is rebuilt from the factory and its edits.

    `static` and `dynamic` int8 are edits too: layers are replaced by those of `int8_layers`, which torch's own integer
    kernels compute, and the file has their integers and ranges.
    """

    name: ClassVar[str] = "eager"
    imports: ClassVar[tuple[str, ...]] = ("torch", "safetensors.torch", "optlang.workload.model.make")

    def available(self) -> str | None:
        """None where torch is installed."""
        return None if importlib.util.find_spec("torch") else 'pip install "torch>=2.10,<2.14"'

    def missing(self, device: str, settings: Mapping[str, Any]) -> str | None:
        """None where torch computes on the device here, else what is missing."""
        from optlang.runtimes.shared import nvidia

        return nvidia.torch_missing() if device == "cuda" else None

    def wants(self) -> QuantWants:
        """What torch's own x86 kernels take; eager runs no int8 graph, and makes int8 layers of its own."""
        return QuantWants("uint8", "int8", False, True, True)

    def build(
        self, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset,
        study: Path,
    ) -> Artifact:
        """Write the weights; the factory and the edits go into `about`.

        Raises `Refusal` for other forms and devices; of int8 for settings that eager has not, and where most weights
        stay in float or the file does not become smaller.
        """
        import safetensors.torch
        import torch

        from optlang.runtimes.shared.artifact_files import described
        from optlang.runtimes.shared.torch_module import module_of
        from optlang.runtimes.torch import session
        from optlang.workload import imports
        from optlang.workload.model import dtypes
        from optlang.workload.model.call import call, in_mode
        from optlang.workload.model.weights import parameters

        module = module_of(state, target, self.name, ("module", "graph"), session.BOTH)
        if state.requests:
            _refuse_integers(target, self.name)
            return _in_integers(self, state, target, folder, data, study)
        with in_mode(module, False), torch.no_grad(), imports.user_code("running the model", study):
            outputs = tuple(call(module, data.example(1)))
        safetensors.torch.save_file(parameters(module), folder / WEIGHTS)
        return Artifact(
            folder, "safetensors", described(folder, [WEIGHTS]), data.input_names, outputs,
            {
                "factory": asdict(state.factory), "edits": [asdict(item) for item in state.edits],
                "stored": dtypes.stored(module),
                **({"tf32": session.tf32()} if target.device == session.CUDA else {}),
            },
        )

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """The module with its weights, on `target.threads` threads (torch's own setting, for the whole process).

        On a GPU where that is the target's device.
        """
        import safetensors.torch

        from optlang.runtimes.torch.session import threads
        from optlang.workload.model.make import rebuild
        from optlang.workload.model.weights import fill

        about: Mapping[str, Any] = artifact.about
        with ExitStack() as stack:
            stack.enter_context(threads(target.threads))
            module = rebuild(Factory(**about["factory"]), tuple(Edit(**item) for item in about["edits"]), study)
            # The file holds weights that share memory once.
            fill(module, safetensors.torch.load_file(artifact.folder / WEIGHTS), "the artifact's weights")
            if "int8" in about:
                from optlang.runtimes.torch import int8_layers
                from optlang.workload.export import tracing

                # Kernels of whole encoder layers take weights past the layers, and there are none in float.
                stack.enter_context(tracing.plain_attention())
                int8_layers.ready(module)
            module = module.eval().requires_grad_(False).to(target.device)
            return EagerSession(module, artifact.inputs, stack.pop_all(), target.device)


def _refuse_integers(target: TargetSpec, runtime: str) -> None:
    if target.device != "cpu":
        raise Refusal(
            f"{runtime} makes int8 for processors alone; this target's device is {target.device}",
            help="use half there, or the runtime tensorrt for static int8",
        )


def _in_integers(
    runtime: Eager, state: ModelState, target: TargetSpec, folder: Path, data: Dataset, study: Path
) -> Artifact:
    """Write the module with layers in int8, open the file again and compare the answers of both."""
    import safetensors.torch

    from optlang.runtimes.shared.artifact_files import described, refuse_larger
    from optlang.runtimes.torch import eager_int8, int8_layers
    from optlang.workload.export import tracing
    from optlang.workload.model import dtypes, quantized_share
    from optlang.workload.model.weights import parameters

    eager_int8.refuse_unknown(state.requests)
    (request,) = state.requests
    module: Any = state.model
    dtypes.refuse_others(dtypes.module_types(module))
    example = data.example(tracing.TRACED)
    with tracing.first_call(module, example, study) as answers:
        smaller, edit, int8 = eager_int8.quantized(module, example, request, data)
        safetensors.torch.save_file(parameters(smaller), folder / WEIGHTS)
        size = (folder / WEIGHTS).stat().st_size
        refuse_larger("int8", size, len(safetensors.torch.save(parameters(module))))
        artifact = Artifact(
            folder, "safetensors", described(folder, [WEIGHTS]), data.input_names, tuple(answers),
            {
                "factory": asdict(state.factory), "edits": [asdict(item) for item in (*state.edits, edit)],
                "int8": int8, "stored": quantized_share.stored(int8["all"]),
            },
        )
        int8_layers.ready(smaller)
        given = data.example(tracing.CHECKED)
        session = runtime.open(artifact, target, {}, study)
        found = session.collect(session.run(session.prepare({name: item.numpy() for name, item in given.items()})))
        session.close()
        tracing.agree(tracing.answers_of(smaller, given), list(found.values()), "the file", tracing.tolerance(module))
    return artifact


class EagerSession:
    """A module to call; `call` is what `run` calls, at first the module itself, and `compiled` the seconds that its
    compilation took (None where it was not compiled). On a `device` that is a GPU inputs and answers lie there while a
    call runs, and it is timed by the GPU's clock."""

    def __init__(
        self, module: nn.Module, inputs: tuple[str, ...], settings: ExitStack, device: str = "cpu"
    ) -> None:
        import torch

        from optlang.runtimes.torch import session

        self._torch, self._of_torch, self._device = torch, session, device
        if device == session.CUDA:
            self.durations = self._durations
        self._module = module
        self.call: Any = module
        self.compiled: float | None = None
        self._inputs = inputs
        self._settings = settings

    def prepare(self, batch: Arrays) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        from optlang.workload.model.call import arguments

        given = {name: self._torch.tensor(batch[name], device=self._device) for name in self._inputs}
        return arguments(self._module, given)

    def run(self, prepared: tuple[tuple[Tensor, ...], dict[str, Tensor]]) -> Any:
        positional, named = prepared
        with self._torch.inference_mode():
            answer = self.call(*positional, **named)
        self._of_torch.finished(self._device)
        return answer

    def _durations(
        self, prepared: tuple[tuple[Tensor, ...], dict[str, Tensor]], seconds: float, calls: int, skip: int
    ) -> list[int]:
        positional, named = prepared
        with self._torch.inference_mode():
            return self._of_torch.durations(lambda: self.call(*positional, **named), seconds, calls, skip)

    def collect(self, result: Any) -> dict[str, Array]:
        from optlang.workload.data.tensors import array, flat_outputs

        return {name: array(item) for name, item in flat_outputs(result).items()}

    def close(self) -> None:
        del self._module, self.call
        self._settings.close()
