"""The session of torch graphs that take their inputs in order and give a tuple of outputs. Knows no file format."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from optlang.interfaces import Arrays

if TYPE_CHECKING:
    import numpy
    from torch import Tensor

_HALVES = (torch.bfloat16, torch.float16)


class Open:
    """`model` is called with the inputs in order; closing gives the process its `threads` back.

    `without_grad` is how gradients are switched off, `ended` what is called in the end; `loaded` and `compiled` are the
    seconds that these took, of graphs that are compiled before their first call.
    """

    def __init__(
        self, model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...], threads: int, *,
        without_grad: Callable[[], Any] = torch.inference_mode, ended: Callable[[], None] | None = None,
        loaded: float | None = None, compiled: float | None = None,
    ) -> None:
        self._model = model
        self._inputs = inputs
        self._outputs = outputs
        self._threads = threads
        self._without_grad = without_grad
        self._ended = ended
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

    def collect(self, result: tuple[Tensor, ...]) -> dict[str, numpy.ndarray[Any, Any]]:
        """The answers by name."""
        return {name: item.numpy(force=True) for name, item in zip(self._outputs, single(result), strict=True)}

    def close(self) -> None:
        """Let the graph go, on as many threads as there were before."""
        torch.set_num_threads(self._threads)
        del self._model
        if self._ended is not None:
            self._ended()


def single(answers: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """In float32 what numpy has no type for, or what is measured in float32 everywhere."""
    return tuple(item.float() if item.dtype in _HALVES else item for item in answers)
