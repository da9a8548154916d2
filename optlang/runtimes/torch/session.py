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


CUDA = "cuda"
BOTH = ("cpu", CUDA)
"""The devices that torch's runtimes run on."""


def tf32() -> dict[str, bool]:
    """Whether torch computes float32 in TensorFloat-32 on GPUs that can: torch's own settings, which are left as they
    are. They keep ten bits of each number's fraction, in convolutions unless it is set otherwise."""
    return {"matmul": torch.backends.cuda.matmul.allow_tf32, "convolutions": torch.backends.cudnn.allow_tf32}


def finished(device: str) -> None:
    """Wait until the GPU has done what it was given; a call on it returns before."""
    if device == CUDA:
        torch.cuda.synchronize()


def durations(call: Callable[[], Any], seconds: float, calls: int, skip: int) -> list[int]:
    """Nanoseconds of each call by the GPU's own clock, between two CUDA events; see `interfaces.Session`.

    From the moment at which the GPU, idle, may begin to the end of its last kernel: what Python takes to start the
    kernels counts where the GPU waits for it, as it does in use.
    """
    for _ in range(skip):
        call()
    torch.cuda.synchronize()
    found: list[int] = []
    left = int(seconds * 1e9)
    while left > 0 or len(found) < calls:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
        end.synchronize()
        found.append(int(start.elapsed_time(end) * 1e6))
        left -= max(1, found[-1])
    return found


class GraphSession:
    """`model` is called with the inputs in order; closing leaves `settings`, those of the process that it runs under.

    `without_grad` is how gradients are switched off; `loaded` and `compiled` are the seconds that these took, of graphs
    that are compiled before their first call. On a `device` that is a GPU inputs and answers lie there while a call
    runs, and it is timed by the GPU's clock.
    """

    def __init__(
        self, model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...], settings: ExitStack, *,
        without_grad: Callable[[], Any] = torch.inference_mode, loaded: float | None = None,
        compiled: float | None = None, device: str = "cpu",
    ) -> None:
        self._device = device
        self._model = model
        self._inputs = inputs
        self._outputs = outputs
        self._settings = settings
        self._without_grad = without_grad
        self.compiled = compiled
        if loaded is not None:
            self.loaded = loaded
        if device == CUDA:
            self.durations = self._durations

    def prepare(self, batch: Arrays) -> tuple[Tensor, ...]:
        """The inputs in order, as tensors of their own."""
        return tuple(torch.tensor(batch[name], device=self._device) for name in self._inputs)

    def run(self, prepared: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Call the graph once, until its device has finished it."""
        with self._without_grad():
            answers: tuple[Tensor, ...] = self._model(*prepared)
        finished(self._device)
        return answers

    def _durations(self, prepared: tuple[Tensor, ...], seconds: float, calls: int, skip: int) -> list[int]:
        with self._without_grad():
            return durations(lambda: self._model(*prepared), seconds, calls, skip)

    def collect(self, result: tuple[Tensor, ...]) -> dict[str, Array]:
        """The answers by name."""
        return {name: array(item) for name, item in zip(self._outputs, result, strict=True)}

    def close(self) -> None:
        """Let the graph go, and give the process its settings back."""
        del self._model
        self._settings.close()
