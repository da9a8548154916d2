"""Follows what one layer gives to the layer that takes it, through functions too. Changes no module.

One run with gradients on shows it: autograd's graph names every operation between the two.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(slots=True)
class Trace:
    """`made`: the layer that gave the answer of a node of autograd's graph. `taken`: each call in order, of which layer
    and with the nodes that its inputs come from (None: not calculated). Nodes live as long as `answers`."""

    made: dict[Any, nn.Module] = field(default_factory=dict)
    taken: list[tuple[nn.Module, list[Any]]] = field(default_factory=list)
    answers: Any = None

    def calls(self, layer: nn.Module) -> int:
        return sum(1 for item, _ in self.taken if item is layer)


def trace(module: nn.Module, example: Mapping[str, Tensor], kinds: tuple[type[nn.Module], ...]) -> Trace:
    """Run a copy of `module`, and see what its layers of `kinds` take and give; the layers are those of `module`."""
    import torch

    from optlang.workload.model.call import call

    found = Trace()
    twin = copy.deepcopy(module)

    def watch(layer: nn.Module, copied: nn.Module) -> None:
        def before(_: nn.Module, values: tuple[Any, ...], named: dict[str, Any]) -> None:
            given = [item for item in (*values, *named.values()) if isinstance(item, torch.Tensor)]
            found.taken.append((layer, [item.grad_fn for item in given]))

        def after(_: nn.Module, __: Any, answer: Any) -> None:
            if isinstance(answer, torch.Tensor):
                found.made[answer.grad_fn] = layer

        copied.register_forward_pre_hook(before, with_kwargs=True)
        copied.register_forward_hook(after)

    for layer, copied in zip(module.modules(), list(twin.modules()), strict=True):
        if isinstance(layer, kinds):
            watch(layer, copied)
    for item in twin.parameters():
        item.requires_grad_(item.is_floating_point())
    with torch.enable_grad():
        found.answers = call(twin, example)
    return found


def origin(node: Any, found: Trace, through: re.Pattern[str]) -> tuple[nn.Module | None, str]:
    """The layer that gave what `node` comes from, through operations that `through` matches by autograd's name.

    Else None and what ends the path, for messages.
    """
    while node is not None and node not in found.made:
        name = type(node).__name__
        if not through.fullmatch(name):
            return None, re.sub(r"Backward\d*$", "", name).replace("Hardtanh", "ReLU6 (Hardtanh)")
        ahead = [item for item, _ in node.next_functions if item is not None]
        if len(ahead) != 1:
            return None, "the model's input"
        node = ahead[0]
    return (found.made[node], "") if node is not None else (None, "the model's input")
