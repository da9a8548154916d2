"""The splits of a data set (train, validation, …) as users give them: arrays, a Dataset or a DataLoader."""

from __future__ import annotations

import abc
import hashlib
import itertools
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate

from optlang.interfaces import OptlangError
from optlang.workload.data.tensors import Tensors, leaves, mapped, nested
from optlang.workload.imports import user_code
from optlang.workload.seeds import Stream

Batch: TypeAlias = "tuple[Tensors, Tensors]"

_READ = 64
_SHAPE = "a split is a pair (inputs, targets) of arrays or tensors, a map-style Dataset, or a DataLoader"


class Split(abc.ABC):
    """One split of a data set (`name`: train, validation, …): samples as (inputs, targets)."""

    keeps_order = False
    """Whether the samples come in an order that cannot be chosen."""

    def __init__(self, name: str) -> None:
        self.name = name

    def in_memory(self) -> Batch | None:
        """All samples, where they are in memory anyhow."""
        return None

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
                inputs, targets = (mapped(item, lambda item: item[: count - have]) for item in (inputs, targets))  # noqa: B023
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


def split_of(name: str, value: Any, study: Path) -> Split:
    """The split that a data factory returned; OptlangError where it has none of the forms that a split may have."""
    if isinstance(value, DataLoader):
        return LoaderSplit(name, value, study)
    if isinstance(value, TensorDataset) and len(value.tensors) == 2:
        return ArraySplit(name, value.tensors[0], value.tensors[1])
    if isinstance(value, tuple | list) and len(value) == 2:
        return ArraySplit(name, value[0], value[1])
    if isinstance(value, numpy.ndarray | Tensor | Mapping | str | tuple):
        raise OptlangError(f"the data's '{name}' is a {type(value).__name__}", help=_SHAPE)
    if hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return DatasetSplit(name, value, study)
    raise OptlangError(
        f"the data's '{name}' is a {type(value).__name__}"
        + (" that has no length" if hasattr(value, "__iter__") else ""),
        help=_SHAPE,
    )


def _checked(name: str, inputs: Tensors, targets: Tensors) -> int:
    sizes = {len(item) if item.ndim else -1 for item in (*leaves(inputs), *leaves(targets))}
    if -1 in sizes:
        raise OptlangError(f"the data's '{name}' holds a single number", help="the first axis is the samples")
    if len(sizes) > 1:
        raise OptlangError(
            f"the data's '{name}' has inputs and targets of different lengths: {', '.join(map(str, sorted(sizes)))}",
            help="the first axis of each array is the samples",
        )
    if sizes == {0}:
        raise OptlangError(f"the data's '{name}' is empty", help="every split needs at least one sample")
    return sizes.pop()


def _hashed(items: tuple[Tensor, ...], digest: Any) -> None:
    for item in items:
        dense = item.contiguous()
        digest.update(f"{dense.dtype}{tuple(dense.shape)}".encode())
        digest.update(dense.flatten().view(torch.uint8).numpy().data if dense.numel() else b"")


def _names(value: Tensors) -> str:
    return "|".join(value) if isinstance(value, dict) else type(value).__name__


class ArraySplit(Split):
    """Arrays or tensors that are in memory."""

    def __init__(self, name: str, inputs: Any, targets: Any) -> None:
        super().__init__(name)
        self.inputs = nested(inputs, f"the data's '{name}' inputs")
        self.targets = nested(targets, f"the data's '{name}' targets")
        self._size = _checked(name, self.inputs, self.targets)

    def in_memory(self) -> Batch:
        """All samples."""
        return self.inputs, self.targets

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
            yield mapped(self.inputs, lambda item: item[rows]), mapped(self.targets, lambda item: item[rows])  # noqa: B023

    def content(self) -> str:
        """A hash of all values, shapes and types."""
        digest = hashlib.sha256(f"{_names(self.inputs)} {_names(self.targets)}".encode())
        _hashed((*leaves(self.inputs), *leaves(self.targets)), digest)
        return digest.hexdigest()


class DatasetSplit(Split):
    """A map-style data set: `len(items)` and `items[index] -> (inputs, target)`."""

    def __init__(self, name: str, items: Any, study: Path) -> None:
        super().__init__(name)
        self._items = items
        self._study = study
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
        for item in read:
            _check_pair(item, f"a sample of the data's '{self.name}'", "each sample is a pair (inputs, target)")
        return [(item[0], item[1]) for item in read]

    def _batch(self, indices: list[int]) -> Batch:
        return _collated(self.name, self._read(indices))

    def batches(self, batch: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        """Samples read one by one, those that draw random numbers from a stream of `seed`.

        Only samples of equal shapes are in one batch. Where shapes differ a batch comes when so many of a shape were
        read, and what is left of each shape at the end: nothing is padded, since only the user knows with what.
        """
        stream = Stream(seed)
        indices = list(range(self._size)) if order is None else [int(index) for index in order]
        waiting: dict[Any, list[tuple[Any, Any]]] = {}
        for start in range(0, len(indices), batch):
            with stream:
                read = self._read(indices[start : start + batch])
            for item in read:
                group = waiting.setdefault(_signature(item), [])
                group.append(item)
                if len(group) == batch:
                    yield _collated(self.name, group)
                    group.clear()
        for group in waiting.values():
            if group:
                yield _collated(self.name, group)

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
                    inputs, targets = self._batch([index])
                    digest.update(f"{_names(inputs)} {_names(targets)}".encode())
                    _hashed((*leaves(inputs), *leaves(targets)), digest)
            reads.append(digest.hexdigest())
        if reads[0] != reads[1]:
            raise OptlangError(
                f"the data's '{self.name}' returns different samples each time it is read, so it has no fingerprint",
                help="give the Dataset an attribute `fingerprint`, or return one from the data factory, "
                "that changes whenever the data does",
            )
        return reads[0]


def _check_pair(item: Any, what: str, help: str) -> None:
    if not isinstance(item, tuple | list) or len(item) != 2:
        given = f"{len(item)} things" if isinstance(item, tuple | list) else f"a {type(item).__name__}"
        raise OptlangError(f"{what} is {given}", help=help)


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
    try:
        inputs, targets = default_collate([item[0] for item in samples]), default_collate([item[1] for item in samples])
    except (TypeError, RuntimeError, KeyError) as error:
        raise OptlangError(
            f"samples of the data's '{name}' cannot be stacked: {error}",
            help="return samples of tensors, arrays or numbers, or a DataLoader with your own collate_fn",
        ) from error
    return _pair(name, inputs, targets)


def _pair(name: str, inputs: Any, targets: Any) -> Batch:
    what = f"the data's '{name}'"
    made = nested(_tuples(inputs), f"{what} inputs"), nested(_tuples(targets), f"{what} targets")
    _checked(name, *made)
    return made


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) and value and isinstance(value[0], Tensor) else value


class LoaderSplit(Split):
    """The user's DataLoader, which keeps its own batch size and order."""

    keeps_order = True

    def __init__(self, name: str, loader: DataLoader[Any], study: Path) -> None:
        super().__init__(name)
        self._loader = loader
        self._study = study
        self._counted: int | None = None

    def size(self) -> int:
        """The number of samples that one pass gives; counted by reading where the loader cannot say."""
        if self._counted is None:
            sampler = getattr(self._loader, "sampler", None)
            per_batch = self._loader.batch_size
            if per_batch is not None and hasattr(sampler, "__len__"):
                count = len(sampler)  # type: ignore[arg-type]
                self._counted = count - count % per_batch if self._loader.drop_last else count
            else:
                self._counted = sum(len(leaves(inputs)[0]) for inputs, _ in self.batches(1, None, 0))
            if self._counted == 0:
                raise OptlangError(f"the data's '{self.name}' is empty", help="every split needs at least one sample")
        return self._counted

    def batches(self, batch: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        """The loader's own batches; what it leaves open is drawn from a stream of `seed`."""
        stream = Stream(seed)
        what = f"reading the data's '{self.name}'"
        with stream, user_code(what, self._study):
            source = iter(self._loader)
        while True:
            with stream, user_code(what, self._study), self._stacked(), warnings.catch_warnings():
                # Pinned memory without an accelerator is the loader's own business.
                warnings.filterwarnings("ignore", message=".*pin_memory.*")
                item = next(source, None)
            if item is None:
                return
            _check_pair(item, f"a batch of the data's '{self.name}'", "each batch is a pair (inputs, targets)")
            yield _pair(self.name, item[0], item[1])

    @contextmanager
    def _stacked(self) -> Iterator[None]:
        """Says what to do where torch's own collate function is given samples of different shapes."""
        try:
            yield
        except RuntimeError as error:
            if "stack expects each tensor to be equal size" not in str(error):
                raise
            said = str(error).rpartition("stack expects each tensor to be equal size, but ")[2].strip()
            raise OptlangError(
                f"the DataLoader of the data's '{self.name}' cannot stack samples of different shapes: {said}",
                help="give it a collate_fn that pads a batch to its longest sample, or return its Dataset: samples are "
                "then batched by equal shape, without padding",
            ) from error

    def chosen(self, indices: Tensor) -> list[Batch]:
        """As many samples as there are `indices`, in the loader's own order: it cannot choose."""
        return self.first(len(indices))

    def content(self) -> str:
        """The fingerprint of its data set, with its batch size and sampler."""
        dataset: Any = self._loader.dataset
        if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
            inner = DatasetSplit(self.name, dataset, self._study).content()
        elif getattr(dataset, "fingerprint", None) is not None:
            said = dataset.fingerprint
            inner = str(said() if callable(said) else said)
        else:
            raise OptlangError(
                f"the data's '{self.name}' is a stream, which has no fingerprint of its own",
                help="give the Dataset an attribute `fingerprint`, or return one from the data factory",
            )
        about = (self._loader.batch_size, self._loader.drop_last, type(self._loader.sampler).__name__)
        return hashlib.sha256(f"{inner} {about}".encode()).hexdigest()
