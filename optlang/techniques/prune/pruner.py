"""Chooses the channels that go, by their scores, and removes the same ones from a fresh model again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Refusal
from optlang.techniques.shared import coupled
from optlang.techniques.shared.coupled import Group, drawn
from optlang.techniques.shared.cuts import cut, tie
from optlang.workload.failures import FAILURES

if TYPE_CHECKING:
    from torch import Tensor, nn

# Keeps 10 * (1 - 0.8) = 1.9999999999999996 from counting as one channel.
_ROUNDING = 1e-9


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Remove the same channels from `module`, a fresh model of the shape that it had before the pruning."""
    gone: dict[str, list[int]] = {name: list(channels) for name, _, channels in arguments["history"]}
    with drawn(module, dict(example)) as graph:
        groups = [coupled.moved(module, coupled.group_of(graph, name), arguments.get("routes", {})) for name in gone]
    cut(module, gone, groups)
    tie(module, arguments.get("ties", []))
    return module


@dataclass(frozen=True, slots=True)
class Ranked:
    """A group and the score of each of its channels; of each of `blocks` blocks as many go."""

    group: Group
    scores: Tensor
    blocks: int

    @property
    def size(self) -> int:
        """The channels of a block."""
        return self.group.channels // self.blocks

    @property
    def of_blocks(self) -> Tensor:
        """The mean score of the channels with one number in each block."""
        return self.scores.view(self.blocks, -1).mean(0)

    def least(self, count: int) -> list[int]:
        """The channels that go where `count` of each block do."""
        chosen = self.of_blocks.argsort()[: max(0, count)].tolist()
        return sorted(block * self.size + int(index) for block in range(self.blocks) for index in chosen)

    def step(self, round_to: int) -> int:
        """How many channels of a block are one multiple of `round_to` in all of them."""
        return round_to // math.gcd(round_to, self.blocks)

    def gone(self, count: int, share: float, round_to: int) -> int:
        """How many of a block go so that the nearest multiple is left, the smaller of two as near, and at least one.

        `count` of them would, without multiples: the whole number of channels without `share`.
        """
        step = self.step(round_to)
        remaining: float = self.size - count
        if remaining == int(self.size * (1 - share)):
            remaining = self.size * (1 - share)  # the share, before its fraction was cut off
        multiples = max(1, math.ceil(remaining / step - 0.5 - _ROUNDING))
        return max(0, self.size - multiples * step)


def chosen(
    ranked: Sequence[Ranked], ratio: float, ratios: Mapping[str, float], round_to: int, everywhere: bool
) -> list[JSON]:
    """The channels that go, each group's as `replay` takes them: those with the lowest scores.

    `ratios` hold for the groups of these roots in place of `ratio`; `everywhere` ranks across all others.
    """
    import torch

    threshold: float | None = None
    together = [item for item in ranked if everywhere and item.group.root not in ratios]
    if together:
        scores = torch.cat([item.of_blocks for item in together])
        count = _without(len(scores), ratio)
        threshold = float(scores.sort().values[count - 1]) if count else -math.inf
    history: list[JSON] = []
    for item in ranked:
        root = item.group.root
        share = ratios.get(root, ratio) - _ROUNDING
        if everywhere and root not in ratios:
            assert threshold is not None
            count = int((item.of_blocks <= threshold).sum())
        else:
            count = _without(item.size, ratios.get(root, ratio))
        gone = item.gone(count, share, round_to) if count else 0
        if gone:
            history.append([root, True, [*item.least(gone)]])
    return history


def _without(count: int, ratio: float) -> int:
    """How many of `count` go."""
    return count - int(count * (1 - (ratio - _ROUNDING)))


@contextmanager
def following() -> Iterator[None]:
    """Around torch-pruning's work on a whole model: what it cannot follow is a `Refusal`."""
    try:
        yield
    except FAILURES as error:
        raise Refusal(
            f"the channels of this model cannot be followed: {coupled.reason(error)}",
            help="magnitude and two_four remove single weights, and int8 makes all of them smaller", depends="model",
        ) from error
