"""What one call of a module does with its layers: how often each is called, and who uses its weights and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from optlang.workload.model.call import call


@dataclass(slots=True)
class Calls:
    """The calls of one layer: their number, the arguments of the first one by position and by name, and its answer."""

    count: int = 0
    given: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    answer: Any = None


class LayerCalls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A call of `module` with `inputs`, watched operator by operator.

    `calls` are those of each layer, by the first of its names; `outside` has the layers whose parameters are used by
    code that is not their own forward (`functional(x, self.fc.weight)`), and `answers` what the module returned.
    """

    def __init__(self, module: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[str, Calls] = {}
        self.outside: set[str] = set()
        self.answers: Mapping[str, Tensor] = {}
        self._uses: dict[int, list[tuple[Any, str]]] = {}
        self._stack: list[str] = []
        # Of a tensor that is gone, another one may have the id.
        self._alive: list[Any] = []
        self._owners: dict[int, set[str]] = {}
        for name, layer in module.named_modules():
            for item in layer.parameters(recurse=False):
                self._owners.setdefault(id(item), set()).add(name)
        hooks = []
        for name, layer in module.named_modules():
            hooks.append(layer.register_forward_pre_hook(self._before(name), with_kwargs=True))
            hooks.append(layer.register_forward_hook(self._after(name)))
        try:
            with torch.no_grad(), self:
                self.answers = call(module, inputs)
        finally:
            for hook in hooks:
                hook.remove()

    def only_use(self, value: Any) -> tuple[Any, str] | None:
        """The operator that takes the tensor `value` and the layer that calls it, where nothing else does."""
        uses = self._uses.get(id(value), [])
        returned = any(item is value for item in self.answers.values())
        return uses[0] if len(uses) == 1 and not returned else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _tensors((args, kwargs or {}))
        answer = func(*args, **(kwargs or {}))
        self._alive += [given, answer]
        here = self._stack[-1] if self._stack else ""
        for item in given:
            self._uses.setdefault(id(item), []).append((func, here))
            owners = self._owners.get(id(item))
            if owners and not owners & set(self._stack):
                self.outside |= owners
        return answer

    def _before(self, name: str) -> Any:
        def enter(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._stack.append(name)
            seen = self.calls.setdefault(name, Calls())
            if not seen.count:
                seen.given, seen.named = given, named
            seen.count += 1

        return enter

    def _after(self, name: str) -> Any:
        def leave(_: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
            self._stack.pop()
            if self.calls[name].count == 1:
                self.calls[name].answer = answer

        return leave


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return [found for item in value for found in _tensors(item)]
    return []
