"""A file that ExecuTorch has loaded: its method `forward` and its calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Array, Arrays, Artifact, Refusal

if TYPE_CHECKING:
    from torch import Tensor

NAME = "model.pte"


class ExecuTorchSession:
    def __init__(self, artifact: Artifact) -> None:
        self._outputs = artifact.outputs
        self._inputs = artifact.inputs
        try:
            self._method = method_of(artifact.folder / NAME)
        except RuntimeError as error:
            raise Refusal(f"ExecuTorch does not load the model: {error}") from error
        self._execute = self._method.execute

    def prepare(self, batch: Arrays) -> tuple[Tensor, ...]:
        import torch

        return tuple(torch.tensor(batch[name]) for name in self._inputs)

    def run(self, prepared: tuple[Tensor, ...]) -> Any:
        return self._execute(prepared)

    def collect(self, result: Any) -> dict[str, Array]:
        from optlang.workload.data.tensors import array

        return {name: array(item) for name, item in zip(self._outputs, result, strict=True)}

    def close(self) -> None:
        del self._execute, self._method


def method_of(source: Path | bytes) -> Any:
    """The method `forward` of a file, or of its content, which must live as long as the method: it is read in place."""
    from executorch.runtime import Runtime, Verification

    runtime = Runtime.get()
    program = runtime.load_program(source, verification=Verification.Minimal)
    return program.load_method("forward")
