"""All that a training may change in a module, taken out as plain values and tensors, and put back.

Besides parameters and buffers these are plain values that layers keep as attributes (their mode, a counter, a running
mean that is no buffer), and generators of random numbers. What a layer keeps in objects of other kinds is not seen.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from optlang.techniques.training.averaging import state

if TYPE_CHECKING:
    from torch import Tensor, nn

Attributes: TypeAlias = "dict[str, dict[str, Any]]"
"""By the name of the layer and of the attribute."""

_PLAIN = (bool, int, float, str, type(None))
# What belongs to torch; parameters and buffers are taken for themselves.
_OF_TORCH = frozenset({"_parameters", "_buffers", "_modules"})


class ModuleState:
    """Takes and puts back the state of `module`, which stands now as its training will always find it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        # Attributes that no training changes need not be kept: they come with the module.
        self._before = {
            layer: {name: _own(item) for name, item in named.items()} for layer, named in _attributes(module).items()
        }

    def taken(self) -> dict[str, Any]:
        """The state, in tensors of the module itself: to be written before the training goes on."""
        changed: Attributes = {}
        for layer, named in _attributes(self._module).items():
            before = self._before.get(layer, {})
            for name, item in named.items():
                if name not in before or not _same(before[name], item):
                    changed.setdefault(layer, {})[name] = _own(item)
        return {"tensors": state(self._module), "attributes": changed, "generators": _generators(self._module)}

    def put_back(self, kept: Mapping[str, Any]) -> None:
        """Have the module in the state that was taken. Parameters stay the objects that they are."""
        import torch

        with torch.no_grad():
            _fill(self._module, kept["tensors"])
        layers = dict(self._module.named_modules())
        for layer, named in kept["attributes"].items():
            for name, item in named.items():
                layers[layer].__dict__[name] = _moved(item, self._module)
        for layer, own in kept["generators"].items():
            for name, item in own.items():
                layers[layer].__dict__.setdefault(name, torch.Generator()).set_state(item)


def _fill(module: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Write the tensors into the module's own; a buffer that has changed its shape in training is replaced."""
    known = state(module)
    for name, item in kept.items():
        if name in known and known[name].shape == item.shape and known[name].dtype == item.dtype:
            known[name].copy_(item)
            continue
        path, _, own = name.rpartition(".")
        layer = module.get_submodule(path)
        layer._buffers[own] = _moved(item, module)
    for name in known.keys() - kept.keys():
        path, _, own = name.rpartition(".")
        module.get_submodule(path)._buffers[own] = None


def _attributes(module: nn.Module) -> Attributes:
    """The attributes of each layer that are plain values, tensors, or made of such; not views of its weights."""
    import torch

    weights = {item.untyped_storage().data_ptr() for item in state(module).values() if _strided(item)}
    return {
        layer: {
            name: item for name, item in vars(part).items() if name not in _OF_TORCH and _plain(item)
            and not (isinstance(item, torch.Tensor) and item.untyped_storage().data_ptr() in weights)
        }
        for layer, part in module.named_modules()
    }


def _strided(item: Tensor) -> bool:
    """Whether it has a storage of values: sparse tensors have several or none, those of the meta device no values."""
    import torch

    return item.layout == torch.strided and not item.is_meta


def _generators(module: nn.Module) -> dict[str, dict[str, Tensor]]:
    import torch

    found = {
        layer: {name: item.get_state() for name, item in vars(part).items() if isinstance(item, torch.Generator)}
        for layer, part in module.named_modules()
    }
    return {layer: named for layer, named in found.items() if named}


def _plain(value: Any) -> bool:
    import torch

    if isinstance(value, dict):
        return type(value) is dict and all(_plain(key) and _plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(_plain, value))
    return type(value) in _PLAIN or (type(value) is torch.Tensor and _strided(value))


def _own(value: Any) -> Any:
    """A copy that the training does not change, outside of autograd's graph."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _own(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_own, value))
    return copy.copy(value)


def _same(one: Any, other: Any) -> bool:
    import torch

    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(item, other[key]) for key, item in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _moved(value: Any, module: nn.Module) -> Any:
    """The value with its tensors where the module's are."""
    import torch

    if isinstance(value, torch.Tensor):
        device = next((item.device for item in module.parameters()), value.device)
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, module) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, module) for item in value)
    return value
