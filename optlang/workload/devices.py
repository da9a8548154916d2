"""What models are trained on: which of torch's devices `device` of `search { }` stands for, and whether it is there.

Nothing here says where a model is measured: that is its target's.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optlang.interfaces import JSON, OutsideError

if TYPE_CHECKING:
    from torch import nn

AUTO, CPU = "auto", "cpu"
_OTHERWISE = "set `device = auto` in search { }, which takes what is there, or `device = cpu`"


@dataclass(frozen=True, slots=True)
class Device:
    """A device of torch: `torch_name` ("cuda:1"), what it is called ("NVIDIA H200"), and its memory in bytes.

    `unused` says why a GPU that `auto` found is not taken; None where there is nothing to say.
    """

    torch_name: str
    called: str = ""
    memory: int | None = None
    unused: str | None = None

    @property
    def kind(self) -> str:
        """"cpu", "cuda" or "mps": what results depend on. Which of several GPUs it is changes nothing."""
        return self.torch_name.partition(":")[0]

    def facts(self) -> dict[str, JSON]:
        """The same as plain JSON."""
        return {"device": self.torch_name, "name": self.called or None, "memory": self.memory}

    def said(self) -> str | None:
        """A sentence for users; None where it is the processor, and nothing else was expected."""
        if self.unused is not None:
            return f"models are trained on the processor: {self.unused}"
        if self.kind == CPU:
            return None
        memory = f", {self.memory / 1e9:.0f} GB" if self.memory is not None else ""
        return f"models are trained on {self.torch_name}" + (f" ({self.called}{memory})" if self.called else "")


@functools.cache
def resolved(asked: str) -> Device:
    """The device that `asked` ("auto", "cpu", "cuda", "cuda:1", "mps") stands for in this process.

    Raises OutsideError where it is another than `auto` and torch cannot compute on it here.
    """
    if asked == CPU:
        return Device(CPU)
    if asked != AUTO:
        reason = _missing(asked) or _broken(asked)
        if reason is not None:
            raise OutsideError(f"`device = {_written(asked)}`: {reason}", help=_OTHERWISE)
        return _described(asked)
    for name in ("cuda", "mps"):
        if _missing(name) is None:
            reason = _broken(name)
            return _described(name) if reason is None else Device(CPU, unused=reason)
    return Device(CPU)


def _written(asked: str) -> str:
    return f'"{asked}"' if ":" in asked else asked


def _missing(name: str) -> str | None:
    """Why torch has no such device here; None where it has."""
    import torch

    kind, _, number = name.partition(":")
    if kind == "mps":
        return None if torch.backends.mps.is_available() else "torch finds no GPU of a Mac (MPS) here"
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return "torch was installed without CUDA (https://pytorch.org/get-started/locally has the command)"
    if not torch.cuda.is_available():
        return "torch finds no GPU here (torch.cuda.is_available() is false)"
    count = torch.cuda.device_count()
    if number and int(number) >= count:
        names = ", ".join(f'"cuda:{index}"' for index in range(count))
        return f"torch finds {count} GPU{'s' if count > 1 else ''} here: {names}"
    return None


def _broken(name: str) -> str | None:
    """Why torch cannot compute on a device that it has, say a GPU older than its kernels; None where it can."""
    import torch

    from optlang.workload.failures import message_of

    try:
        if float((torch.ones(2, device=name) @ torch.ones(2, device=name)).item()) == 2:
            return None
    except (RuntimeError, AssertionError) as error:
        return f"torch cannot compute on {name}: {message_of(error)}"
    return f"torch computes wrongly on {name}"


def _described(name: str) -> Device:
    import torch

    if name == "mps":
        return Device("mps", "Apple GPU")
    # Its index, so that the record says which one it was.
    number = int(name.partition(":")[2] or torch.cuda.current_device())
    about = torch.cuda.get_device_properties(number)
    return Device(f"cuda:{number}", about.name, int(about.total_memory))


@contextmanager
def placed(module: nn.Module, device: str) -> Iterator[nn.Module]:
    """The module on the device while the block runs, in place; then on the processor again, where results lie."""
    if device == CPU:
        yield module
        return
    try:
        yield module.to(device)
    finally:
        module.to(CPU)


LOST = 71
"""The exit code of a worker whose GPU does not compute any more."""


def out_of_memory(error: BaseException) -> str | None:
    """What to say of a GPU's memory that ran out, with a way out; None where that is not what happened.

    It may have happened in the user's code, whose error then comes from it.
    """
    found = next((item for item in _chain(error) if _is_out_of_memory(item)), None)
    if found is None:
        return None
    text = str(found)
    name = "the Mac's GPU" if "MPS" in text else "the GPU"
    tried = re.search(r"Tried to allocate ([0-9.]+ [A-Za-z]+)", text)
    asked = f" ({tried[1]} more were asked for)" if tried is not None else ""
    return f"out of memory on {name}{asked}: a smaller `batch` or `amp = bfloat16` in the step takes less"


def lost(error: BaseException) -> bool:
    """Whether an error of CUDA leaves a process in which nothing runs on the GPU any more, say a failed assertion.

    torch has a class of its own for those; memory that ran out is none of them.
    """
    torch = sys.modules.get("torch")
    return torch is not None and any(isinstance(item, torch.AcceleratorError) for item in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it was raised from or after."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    on_cuda = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return on_cuda or "MPS backend out of memory" in str(error)


def free_memory() -> None:
    """Give back what torch keeps of a GPU's memory for later: after a trial that ran out of it the next one runs."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
