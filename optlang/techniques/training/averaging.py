"""Weights that are kept next to those in training: their moving average, and the best of them.

torch's AveragedModel averages whole numbers too (of BatchNorm's 5 batches it counts 1), and copies the whole module:
its hooks with what they hold, while a module that keeps a computed tensor cannot be copied. Here tensors are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def state(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of `module` themselves, each once."""
    return {name: item.detach() for name, item in (*module.named_parameters(), *module.named_buffers())}


def copied(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters and buffers."""
    return {name: item.clone() for name, item in state(module).items()}


def filled(module: nn.Module, kept: dict[str, Tensor]) -> None:
    """Write `kept` into the parameters and buffers of `module`."""
    for name, item in state(module).items():
        item.copy_(kept[name])


class Average:
    """The exponential moving average of a module's weights and buffers over its steps, as in torch's swa_utils.

    The first step's weights begin it; each later step has the share 1 - `decay`. Whole numbers are the last ones.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._kept: dict[str, Tensor] = {}

    @property
    def kept(self) -> dict[str, Tensor]:
        """The average so far; empty before the first step."""
        return self._kept

    def go_on(self, kept: dict[str, Tensor]) -> None:
        """Average on from `kept`."""
        self._kept = kept

    def update(self, module: nn.Module) -> None:
        """Take in the weights after a step."""
        if not self._kept:
            self._kept = copied(module)
            return
        for name, item in state(module).items():
            if item.is_floating_point():
                self._kept[name].lerp_(item, 1 - self._decay)
            else:
                self._kept[name].copy_(item)

    def fill(self, module: nn.Module) -> None:
        """Write the average into `module`."""
        filled(module, self._kept)
