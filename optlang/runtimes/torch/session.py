"""The session of torch graphs that take their inputs in order and give a tuple of outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from optlang.interfaces import Array, Arrays
from optlang.workload.data.tensors import array

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch's kernels on so many threads: it has one number for the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class GraphSession:
    """`model` is called with the inputs in order; closing leaves `settings`, those of the process that it runs under.

    `without_grad` is how gradients are switched off; `loaded` and `compiled` are the seconds that these took, of graphs
    that are compiled before their first call.
    """

    def __init__(
        self, model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...], settings: ExitStack, *,
        without_grad: Callable[[], Any] = torch.inference_mode, loaded: float | None = None,
        compiled: float | None = None,
    ) -> None:
        self._model = model
        self._inputs = inputs
        self._outputs = outputs
        self._settings = settings
        self._without_grad = without_grad
        self.compiled = compiled
        if loaded is not None:
            self.loaded = loaded

    def prepare(self, batch: Arrays) -> tuple[Tensor, ...]:
        """The inputs in order, as tensors of their own."""
        return tuple(torch.tensor(batch[name]) for name in self._inputs)

    def run(self, prepared: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Call the graph once."""
        with self._without_grad():
            answers: tuple[Tensor, ...] = self._model(*prepared)
            return answers

    def collect(self, result: tuple[Tensor, ...]) -> dict[str, Array]:
        """The answers by name."""
        return {name: array(item) for name, item in zip(self._outputs, result, strict=True)}

    def close(self) -> None:
        """Let the graph go, and give the process its settings back."""
        del self._model
        self._settings.close()
