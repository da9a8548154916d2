"""Looks through data for the shapes that samples have, and keeps some samples of those that are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optlang.workload.data.axes import Observed, Shapes
from optlang.workload.data.split import Batch, Split
from optlang.workload.data.tensors import Tensors, joined, leaves, mapped

FEW = 8
"""Batches (of a map-style Dataset single samples) of each split that are looked at first: images take long to read."""

MANY = 4096
"""Those that are looked at where shapes differ, and where inputs are whole numbers: most texts may have one length."""

_KEPT = 16


class Survey:
    """What was seen of some splits: `observed`, and on request samples of one shape."""

    def __init__(self, splits: Sequence[Split], observed: Observed) -> None:
        self._splits = splits
        self.observed = observed
        self._known: dict[tuple[Shapes, int], Tensors] = {}

    @classmethod
    def of(cls, splits: Sequence[Split], *, differ: bool = False) -> Survey:
        """Look at `FEW` batches of each split, and at `MANY` where these or whole numbers are, or shapes `differ`."""
        counts: dict[Shapes, int] = {}
        for split in splits:
            found = _counted(split, FEW)
            if differ or len(found) > 1 or _whole_numbers(split):
                found = _counted(split, MANY)
            for shapes, count in found.items():
                counts[shapes] = counts.get(shapes, 0) + count
        return cls(splits, Observed(counts))

    def samples(self, count: int, shapes: Shapes) -> Tensors:
        """At most `count` inputs of these shapes, the first that there are; where there is none, of the usual ones."""
        if not self.observed.varied:
            return self._together(self._splits[0].first(count), count)
        if shapes not in self.observed.counts:
            shapes = self.observed.middle
        size = max(count, _KEPT)
        if (shapes, size) not in self._known:
            self._known[shapes, size] = self._found(size, shapes)
        return mapped(self._known[shapes, size], lambda item: item[:count])

    def _found(self, count: int, shapes: Shapes) -> Tensors:
        pieces: list[Batch] = []
        have = 0
        for split in self._splits:
            for inputs, targets in split.spread(MANY):
                if _shapes(inputs) == shapes:
                    pieces.append((inputs, targets))
                    have += len(leaves(inputs)[0])
                if have >= count:
                    return self._together(pieces, count)
        return self._together(pieces, count)

    @staticmethod
    def _together(pieces: Sequence[Batch], count: int) -> Tensors:
        return mapped(joined([inputs for inputs, _ in pieces]), lambda item: item[:count])


def _counted(split: Split, count: int) -> dict[Shapes, int]:
    found: dict[Shapes, int] = {}
    for inputs, _ in split.spread(count):
        shapes = _shapes(inputs)
        found[shapes] = found.get(shapes, 0) + len(leaves(inputs)[0])
    return found


def _whole_numbers(split: Split) -> bool:
    return any(
        not item.is_floating_point() and item.ndim > 1 for inputs, _ in split.spread(1) for item in leaves(inputs)
    )


def _shapes(inputs: Tensors) -> Shapes:
    return tuple(tuple(item.shape[1:]) for item in leaves(inputs))


def fitted(item: Tensor, axis: int, size: int) -> Tensor:
    """`item` cut or repeated along `axis` to `size`."""
    if item.shape[axis] == size:
        return item
    times = -(-size // item.shape[axis])
    return torch.cat([item] * times, dim=axis).narrow(axis, 0, size).contiguous()
