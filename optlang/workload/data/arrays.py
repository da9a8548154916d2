"""Splits that are arrays or tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from optlang.workload.data.content import hashed, names_of
from optlang.workload.data.mapped import checked, opened, parts, rows_of
from optlang.workload.data.split import Batch, Split
from optlang.workload.data.tensors import Tensors

_READ = 4096


class ArraySplit(Split):
    """Arrays or tensors that are in memory, or mapped into it: of the latter a batch is read at a time."""

    def __init__(self, name: str, inputs: Any, targets: Any) -> None:
        super().__init__(name)
        self.inputs = opened(inputs, f"the data's '{name}' inputs")
        self.targets = () if targets is None else opened(targets, f"the data's '{name}' targets")
        self._size = checked(name, self.inputs, self.targets)

    def known_targets(self) -> Iterator[Tensors]:
        """All of them."""
        for start in range(0, self._size, _READ):
            yield rows_of(self.targets, slice(start, start + _READ))

    def spread(self, count: int) -> Iterator[Batch]:
        """One sample: all have its shape."""
        return self.batches(1, torch.arange(1), 0)

    def size(self) -> int:
        """The number of samples."""
        return self._size

    def batches(self, batch: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        """Slices, or rows in `order`."""
        count = self._size if order is None else len(order)
        for start in range(0, count, batch):
            rows: Any = slice(start, start + batch) if order is None else order[start : start + batch]
            yield rows_of(self.inputs, rows), rows_of(self.targets, rows)

    def content(self) -> str:
        """A hash of all values, shapes and types."""
        digest = hashlib.sha256(f"{names_of(self.inputs)} {names_of(self.targets)}".encode())
        hashed((*parts(self.inputs), *parts(self.targets)), digest)
        return digest.hexdigest()
