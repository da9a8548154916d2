"""A layer without parameters whose copies take its calls in turn, so that each use has a layer of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn


class InTurn(nn.Module):
    """`count` copies of `layer`, the next of which takes each call; after the last one comes the first again.

    Where a forward calls the layer as often as there are copies, a capture of the model sees each of them once. Another
    number of calls changes no answer, since the copies are alike and hold no state. What the model's code asks of the
    layer's attributes, the first copy says.
    """

    def __init__(self, layer: nn.Module, count: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList([copy.deepcopy(layer) for _ in range(count)])
        self.training = layer.training
        # In a list: a capture takes attributes that a forward sets for a model's state.
        self._next = [0]

    def forward(self, *given: Any, **named: Any) -> Any:
        turn = self._next[0]
        self._next[0] = (turn + 1) % len(self.copies)
        return self.copies[turn](*given, **named)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "copies":
                raise
            return getattr(self.copies[0], name)


def in_turn(module: nn.Module, turns: Mapping[str, int]) -> None:
    """Replace each of these layers by so many copies of it, in place."""
    for name, count in turns.items():
        parent, _, key = name.rpartition(".")
        module.get_submodule(parent)._modules[key] = InTurn(module.get_submodule(name), count)
