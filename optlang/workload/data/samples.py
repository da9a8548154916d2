"""Splits whose samples are read one by one: map-style Datasets, and streams."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from optlang.interfaces import OptlangError
from optlang.workload import generators
from optlang.workload.data.content import hashed, names_of
from optlang.workload.data.mapped import checked
from optlang.workload.data.pairs import parted
from optlang.workload.data.split import Batch, Split
from optlang.workload.data.tensors import leaves, nested
from optlang.workload.imports import user_code
from optlang.workload.seeds import Stream

_READ = 64
"""Samples of a Dataset that its fingerprint is made of."""

_SAMPLE = "each sample is a pair (inputs, target), or inputs alone"
_END = object()


class DatasetSplit(Split):
    """A map-style data set: `len(items)` and `items[index] -> (inputs, target)`, or inputs alone."""

    def __init__(self, name: str, items: Any, study: Path, labels: bool = True) -> None:
        super().__init__(name)
        self._items = items
        self._study = study
        self._labels = labels
        with user_code(f"the length of the data's '{name}'", study):
            self._size = len(items)
        if self._size == 0:
            raise OptlangError(f"the data's '{name}' is empty", help="every split needs at least one sample")

    def size(self) -> int:
        """The number of samples."""
        return self._size

    def _read(self, indices: list[int]) -> list[tuple[Any, Any]]:
        with user_code(f"reading the data's '{self.name}'", self._study):
            read = [self._items[index] for index in indices]
        return [parted(item, self._labels, f"a sample of the data's '{self.name}'", _SAMPLE) for item in read]

    def _batch(self, indices: list[int]) -> Batch:
        return _collated(self.name, self._read(indices))

    def _add(self, index: int, digest: Any) -> None:
        """Add a sample to what is hashed."""
        inputs, targets = self._batch([index])
        digest.update(f"{names_of(inputs)} {names_of(targets)}".encode())
        hashed((*leaves(inputs), *leaves(targets)), digest)

    def batches(self, batch: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        """Samples read one by one, those that draw random numbers from a stream of `seed`.

        Only samples of equal shapes are in one batch. Where shapes differ a batch comes when so many of a shape were
        read, and what is left of each shape at the end: nothing is padded, since only the user knows with what.
        """
        return by_shape(self.name, self._samples(batch, order, seed), batch)

    def _samples(self, batch: int, order: Tensor | None, seed: int) -> Iterator[tuple[Any, Any]]:
        stream = Stream(seed, generators.of(self._items))
        indices = list(range(self._size)) if order is None else [int(index) for index in order]
        for start in range(0, len(indices), batch):
            with stream:
                read = self._read(indices[start : start + batch])
            yield from read

    def spread(self, count: int) -> Iterator[Batch]:
        """Single samples, evenly spread."""
        few = min(count, self._size)
        return self.batches(1, torch.arange(few) * self._size // few, 0)

    def content(self) -> str:
        """The set's own `fingerprint`, else a hash of its length and of samples read twice."""
        said = getattr(self._items, "fingerprint", None)
        if said is not None:
            with user_code(f"the fingerprint of the data's '{self.name}'", self._study):
                said = said() if callable(said) else said
            return hashlib.sha256(f"said {said}".encode()).hexdigest()
        spread = [index * self._size // min(_READ, self._size) for index in range(min(_READ, self._size))]
        stream = Stream(0)
        reads = []
        for _ in range(2):
            digest = hashlib.sha256(f"{self._size}".encode())
            with stream:
                for index in spread:
                    self._add(index, digest)
            reads.append(digest.hexdigest())
        if reads[0] != reads[1]:
            raise OptlangError(
                f"the data's '{self.name}' returns different samples each time it is read, so it has no fingerprint",
                help="give the Dataset an attribute `fingerprint`, or return one from the data factory, "
                "that changes whenever the data does",
            )
        return reads[0]


class StreamSplit(Split):
    """Samples in an order of their own: an IterableDataset, or a function that returns an iterator for each pass."""

    keeps_order = True

    def __init__(self, name: str, source: Any, study: Path, labels: bool = True) -> None:
        super().__init__(name)
        self._source, self._study, self._labels = source, study, labels

    @functools.cached_property
    def _counted(self) -> int:
        count = None
        if hasattr(self._source, "__len__"):
            # An IterableDataset of torch has a length that raises TypeError where it knows none.
            with contextlib.suppress(TypeError), user_code(f"the length of the data's '{self.name}'", self._study):
                count = len(self._source)
        return sum(1 for _ in self._samples(0)) if count is None else count

    def size(self) -> int:
        """The number of samples: what the source says, else counted in a pass."""
        if self._counted == 0:
            raise OptlangError(f"the data's '{self.name}' is empty", help="every split needs at least one sample")
        return self._counted

    def _samples(self, seed: int) -> Iterator[tuple[Any, Any]]:
        stream = Stream(seed, generators.of(self._source))
        what = f"reading the data's '{self.name}'"
        with stream, user_code(what, self._study):
            source = iter(self._source if hasattr(self._source, "__iter__") else self._source())
        while True:
            with stream, user_code(what, self._study):
                item = next(source, _END)
            if item is _END:
                return
            yield parted(item, self._labels, f"a sample of the data's '{self.name}'", _SAMPLE)

    def batches(self, batch: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        """Samples as they come, those of equal shapes together; random numbers are from a stream of `seed`."""
        return by_shape(self.name, self._samples(seed), batch)

    def chosen(self, indices: Tensor) -> list[Batch]:
        """As many samples as there are `indices`, the first ones: it cannot choose."""
        return self.first(len(indices))

    def content(self) -> str:
        """The source's own `fingerprint`."""
        return hashlib.sha256(said_fingerprint(self.name, self._source, self._study).encode()).hexdigest()


def said_fingerprint(name: str, source: Any, study: Path) -> str:
    """The fingerprint that a stream says that it has."""
    said = getattr(source, "fingerprint", None)
    if said is None:
        raise OptlangError(
            f"the data's '{name}' is a stream, which has no fingerprint of its own",
            help="give it an attribute `fingerprint`, or return one from the data factory, that changes whenever the "
            "data do",
        )
    with user_code(f"the fingerprint of the data's '{name}'", study):
        return str(said() if callable(said) else said)


def by_shape(name: str, samples: Iterable[tuple[Any, Any]], batch: int) -> Iterator[Batch]:
    """Batches of samples of equal shapes: one when so many of a shape were read, and what is left at the end."""
    waiting: dict[Any, list[tuple[Any, Any]]] = {}
    for item in samples:
        group = waiting.setdefault(_signature(item), [])
        group.append(item)
        if len(group) == batch:
            yield _collated(name, group)
            group.clear()
    for group in waiting.values():
        if group:
            yield _collated(name, group)


def _signature(value: Any) -> Any:
    """The shapes of a sample, nested as it is: samples of one signature can be stacked."""
    if isinstance(value, Mapping):
        return tuple((key, _signature(item)) for key, item in value.items())
    if isinstance(value, tuple | list):
        # A list of numbers, say of tokens, is a shape too.
        return tuple(_signature(item) for item in value) if any(map(_has_shape, value)) else len(value)
    return tuple(value.shape) if hasattr(value, "shape") else ()


def _has_shape(value: Any) -> bool:
    return hasattr(value, "shape") or isinstance(value, Mapping | tuple | list)


def _collated(name: str, samples: list[tuple[Any, Any]]) -> Batch:
    wanted = [item[1] for item in samples]
    if any(item is None for item in wanted):
        if not all(item is None for item in wanted):
            raise OptlangError(
                f"some samples of the data's '{name}' have a target, and some have none",
                help='return inputs alone, or "labels": False from the data factory',
            )
        wanted = []
    try:
        inputs, targets = default_collate([item[0] for item in samples]), default_collate(wanted) if wanted else None
    except (TypeError, RuntimeError, KeyError) as error:
        raise OptlangError(
            f"samples of the data's '{name}' cannot be stacked: {error}",
            help="return samples of tensors, arrays or numbers, or a DataLoader with your own collate_fn",
        ) from error
    return pair(name, inputs, targets)


def pair(name: str, inputs: Any, targets: Any) -> Batch:
    what = f"the data's '{name}'"
    wanted = () if targets is None else nested(_tuples(targets), f"{what} targets")
    made = nested(_tuples(inputs), f"{what} inputs"), wanted
    checked(name, *made)
    return made


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) and value and isinstance(value[0], Tensor) else value
