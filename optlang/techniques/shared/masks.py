"""Weights that pruning made zero, and that stay zero while the model is trained on.

Nothing is stored next to the weights: the notes name the parameters whose zeros are meant, and the zeros are the mask.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from optlang.interfaces import JSON, ModelState

if TYPE_CHECKING:
    from torch import Tensor, nn

NOTE = "prune.zeros"
"""The note that lists the names of the parameters whose exact zeros are meant."""


def masked(notes: Mapping[str, JSON]) -> tuple[str, ...]:
    """The names of the parameters whose zeros are to stay."""
    names = notes.get(NOTE, [])
    assert isinstance(names, list | tuple)
    return tuple(str(name) for name in names)


def with_masked(state: ModelState, names: Collection[str]) -> dict[str, JSON]:
    """The notes of `state`, with the zeros of these parameters meant too."""
    return {**state.notes, NOTE: sorted({*masked(state.notes), *names})}


class ZeroMasks:
    """The zeros of a module's parameters at one moment; `reapply` makes them zero again after a step of training."""

    def __init__(self, module: nn.Module, names: Collection[str]) -> None:
        parameters = dict(module.named_parameters())
        # A layer that was replaced or removed since has no zeros to hold.
        self._masks: list[tuple[Tensor, Tensor]] = [
            (parameters[name], parameters[name].detach() == 0) for name in names if name in parameters
        ]

    def reapply(self) -> None:
        """Set what was zero to zero."""
        import torch

        with torch.no_grad():
            for parameter, mask in self._masks:
                parameter.masked_fill_(mask, 0.0)
