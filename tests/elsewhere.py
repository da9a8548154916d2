"""A device that is not there: tensors of the processor that say that they lie on a GPU, and refuse to meet others.

With it the placement of every tensor is proven on machines without a GPU. Values are those of the processor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

NAME = "cuda:0"
_DEVICE = torch.device(NAME)
# These take tensors of both sides on a real device too: copies, and indices.
_MEETING = {torch.Tensor.copy_, torch.Tensor.__getitem__, torch.Tensor.__setitem__}
_MOVES = {torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda}
# A real tensor of a GPU has no array.
_ARRAYS = {torch.Tensor.numpy, torch.Tensor.__array__}


class Far(torch.Tensor):
    """A tensor that lies elsewhere."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [item for item in tree_leaves((args, kwargs or {})) if isinstance(item, torch.Tensor)]
        if func not in _MEETING and any(not isinstance(item, Far) and item.ndim for item in tensors):
            raise RuntimeError(f"Expected all tensors to be on the same device: {func}")
        if func in _ARRAYS and not (kwargs or {}).get("force"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        result = super().__torch_function__(func, types, args, kwargs or {})
        # What autograd has written there is a plain tensor.
        return result.as_subclass(cls) if func == torch.Tensor.grad.__get__ and result is not None else result

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied = self.detach().clone().requires_grad_(self.requires_grad)
            copied._is_param = getattr(self, "_is_param", False)
            memo[id(self)] = copied
        return memo[id(self)]


class Elsewhere(TorchFunctionMode):
    """While it is active, "cuda:0" is such a device. `moves` counts the tensors that came to it."""

    def __init__(self) -> None:
        super().__init__()
        self.moves = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return _DEVICE if isinstance(args[0], Far) else func(*args)
        if func is torch._has_compatible_shallow_copy_type:
            return True
        if func == torch.Tensor.data.__set__:  # type: ignore[attr-defined]
            _take(*args)
            return None
        if func in _MOVES:
            return self._moved(func, args, kwargs)
        far = _names(kwargs.get("device"))
        if far is None:
            return func(*args, **kwargs)
        made = func(*args, **{**kwargs, "device": "cpu"})
        return made.as_subclass(Far) if far else made

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensor, *rest = args
        named = [item for item in map(_names, (*rest, kwargs.get("device"))) if item is not None]
        to_far = False if func is torch.Tensor.cpu else named[0] if named else None
        rest = ["cpu" if _names(item) is not None else item for item in rest]
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        moved = tensor if func is not torch.Tensor.to else func(tensor, *rest, **kwargs)
        if to_far is None or to_far is isinstance(tensor, Far):
            return moved
        self.moves += to_far
        # Another tensor, as it is on a real device.
        with torch._C.DisableTorchFunctionSubclass():
            return moved.clone().as_subclass(Far if to_far else torch.Tensor)


def _take(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """A module that moves keeps its parameters as objects."""
    parameter = isinstance(tensor, torch.nn.Parameter)
    with torch._C.DisableTorchFunction():
        tensor.data = values
    if isinstance(values, Far):
        tensor.__class__ = Far
        tensor._is_param = parameter
    else:
        tensor.__class__ = torch.nn.Parameter if parameter else torch.Tensor


def _names(item: Any) -> bool | None:
    """Whether an argument names the other device; None where it names none."""
    if isinstance(item, torch.Tensor):
        return isinstance(item, Far)
    if isinstance(item, str | torch.device):
        return torch.device(item).type == _DEVICE.type
    return None
