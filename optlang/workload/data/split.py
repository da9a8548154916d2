"""A split of a data set, whatever form it has: how many samples there are, and batches of them."""

from __future__ import annotations

import abc
import functools
import itertools
from collections.abc import Iterator
from operator import itemgetter
from typing import TypeAlias

from torch import Tensor

from optlang.workload.data.tensors import Tensors, leaves, mapped

Batch: TypeAlias = "tuple[Tensors, Tensors]"


class Split(abc.ABC):
    """One split of a data set (`name`: train, validation, …): samples as (inputs, targets).

    Without labels the targets are an empty tuple.
    """

    keeps_order = False
    """Whether the samples come in an order that cannot be chosen."""

    def __init__(self, name: str) -> None:
        self.name = name

    @functools.cached_property
    def labeled(self) -> bool:
        """Whether there are targets."""
        return bool(leaves(self.first(1)[0][1]))

    def known_targets(self) -> Iterator[Tensors]:
        """Targets that can be looked at without reading inputs: all of arrays, of the rest the first ones."""
        yield self.first(1)[0][1]

    @abc.abstractmethod
    def size(self) -> int:
        """The number of samples."""

    @abc.abstractmethod
    def batches(self, batch: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        """Batches of at most `batch` samples, in `order` (int64 indices; None: as they stand)."""

    @abc.abstractmethod
    def content(self) -> str:
        """What the split contains, as a hash."""

    def first(self, count: int) -> list[Batch]:
        """The first `count` samples, or all where there are fewer, in batches."""
        pieces: list[Batch] = []
        have = 0
        for inputs, targets in self.batches(min(count, 256), None, 0):
            size = len(leaves(inputs)[0])
            if have + size > count:
                inputs, targets = (mapped(item, itemgetter(slice(count - have))) for item in (inputs, targets))
            pieces.append((inputs, targets))
            have += size
            if have >= count:
                break
        return pieces

    def chosen(self, indices: Tensor) -> list[Batch]:
        """The samples at `indices`, as far as the split can choose, in batches."""
        return list(self.batches(256, indices, 0))

    def spread(self, count: int) -> Iterator[Batch]:
        """Batches that stand for all, to see what shapes there are: about `count` of them, or of single samples."""
        return itertools.islice(self.batches(1, None, 0), count)
