"""The splits of a data set (train, validation, …) as users give them: arrays, Datasets, DataLoaders, streams.

None is read whole: of arrays that are mapped into memory a batch at a time, of the rest what the user's own object
returns.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import hashlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from optlang.interfaces import OptlangError
from optlang.workload.data.pairs import parted
from optlang.workload.data.tensors import Tensors, leaves, mapped, nested, tensor
from optlang.workload.imports import user_code
from optlang.workload.seeds import Stream

Batch: TypeAlias = "tuple[Tensors, Tensors]"

_READ = 64
_AT_ONCE = 2**24
"""Bytes of a mapped array that are hashed at once."""

_SHAPE = (
    "a split is inputs or a pair (inputs, targets), of arrays or tensors, a Dataset, a DataLoader, or a function that "
    "returns an iterator over samples"
)
_SAMPLE = "each sample is a pair (inputs, target), or inputs alone"
_BATCHES = "each batch is a pair (inputs, targets), or inputs alone"


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


def split_of(name: str, value: Any, study: Path, labels: bool = True) -> Split:
    """The split that a data factory returned; without `labels` its targets are left out.

    Raises OptlangError where it has none of the forms that a split may have.
    """
    if isinstance(value, DataLoader):
        return LoaderSplit(name, value, study, labels)
    if isinstance(value, TensorDataset) and len(value.tensors) <= 2:
        value = value.tensors
    if isinstance(value, numpy.ndarray | Tensor | Mapping) or (isinstance(value, tuple | list) and len(value) == 2):
        return ArraySplit(name, *parted(value, labels, f"the data's '{name}'", _SHAPE))
    if isinstance(value, tuple) and len(value) == 1:
        return ArraySplit(name, value[0], None)
    what = f"the data's '{name}' is a {type(value).__name__}"
    if isinstance(value, str | tuple):
        raise OptlangError(what, help=_SHAPE)
    if isinstance(value, Iterator):
        raise OptlangError(
            f"{what}, which can be read only once",
            help="return the function that makes it: it is called for each pass over the data",
        )
    stream = isinstance(value, IterableDataset)
    if not stream and hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return DatasetSplit(name, value, study, labels)
    if stream or hasattr(value, "__iter__") or (callable(value) and not hasattr(value, "__getitem__")):
        return StreamSplit(name, value, study, labels)
    raise OptlangError(what + (" that has no length" if hasattr(value, "__getitem__") else ""), help=_SHAPE)


def _checked(name: str, inputs: Any, targets: Any) -> int:
    """The number of samples, which must be that of all arrays."""
    sizes = {len(item) if item.ndim else -1 for item in (*_parts(inputs), *_parts(targets))}
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


def _hashed(items: Sequence[Any], digest: Any) -> None:
    """Add types, shapes and values of tensors, and of mapped arrays as the tensors that they are read as."""
    for item in items:
        count = len(item) if isinstance(item, Tensor) else max(1, _AT_ONCE * len(item) // max(1, item.nbytes))
        digest.update(f"{_read(item, slice(0, 1)).dtype}{tuple(item.shape)}".encode())
        for start in range(0, len(item), max(1, count)):
            dense = _read(item, slice(start, start + count)).contiguous()
            digest.update(dense.flatten().view(torch.uint8).numpy().data if dense.numel() else b"")


def _hashed_sample(item: Any, digest: Any) -> None:
    """Add a sample of a form that only the user's `collate_fn` knows: numbers, texts, arrays, images, nested.

    Raises OptlangError for anything else.
    """
    if isinstance(item, Mapping):
        digest.update(f"{{{'|'.join(map(str, item))}}}".encode())
        item = list(item.values())
    if isinstance(item, str | bytes | bool | int | float | None):
        digest.update(repr(item).encode())
    elif isinstance(item, tuple | list):
        digest.update(f"[{len(item)}]".encode())
        for part in item:
            _hashed_sample(part, digest)
    else:
        array = numpy.asarray(item)
        if array.dtype.hasobject:
            raise OptlangError(
                f"a sample contains an object of the type {type(item).__name__}, whose content cannot be hashed",
                help="give the Dataset an attribute `fingerprint` that changes whenever the data does",
            )
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())


def _names(value: Any) -> str:
    if isinstance(value, dict):
        return "|".join(value)
    return "tuple" if isinstance(value, tuple) else "Tensor"


class ArraySplit(Split):
    """Arrays or tensors that are in memory, or mapped into it: of the latter a batch is read at a time."""

    def __init__(self, name: str, inputs: Any, targets: Any) -> None:
        super().__init__(name)
        self.inputs = _opened(inputs, f"the data's '{name}' inputs")
        self.targets = () if targets is None else _opened(targets, f"the data's '{name}' targets")
        self._size = _checked(name, self.inputs, self.targets)

    def known_targets(self) -> Iterator[Tensors]:
        """All of them."""
        for start in range(0, self._size, _READ * _READ):
            yield _rows(self.targets, slice(start, start + _READ * _READ))

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
            yield _rows(self.inputs, rows), _rows(self.targets, rows)

    def content(self) -> str:
        """A hash of all values, shapes and types."""
        digest = hashlib.sha256(f"{_names(self.inputs)} {_names(self.targets)}".encode())
        _hashed((*_parts(self.inputs), *_parts(self.targets)), digest)
        return digest.hexdigest()


def _opened(value: Any, what: str) -> Any:
    """Tensors, nested as `value` is; arrays that are mapped into memory stay as they are: a tensor would be a copy."""
    mapped_in = [item for item in _parts(value) if isinstance(item, numpy.memmap)]
    if not mapped_in:
        return nested(value, what)
    # One sample tells what is wrong with any.
    nested(_each(value, lambda item: item[:1]), what)
    return _each(value, lambda item: item if isinstance(item, numpy.memmap) else tensor(item, what))


def _parts(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Mapping):
        return tuple(value.values())
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return {str(name): change(item) for name, item in value.items()}
    return tuple(map(change, value)) if isinstance(value, tuple | list) else change(value)


def _rows(value: Any, rows: Any) -> Tensors:
    """Those samples of what `_opened` returned, as tensors."""
    found: Tensors = _each(value, lambda item: _read(item, rows))
    return found


def _read(item: Any, rows: Any) -> Tensor:
    if isinstance(item, Tensor):
        return item[rows]
    return tensor(item[rows if isinstance(rows, slice) else rows.numpy()], "a mapped array")


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
        digest.update(f"{_names(inputs)} {_names(targets)}".encode())
        _hashed((*leaves(inputs), *leaves(targets)), digest)

    def batches(self, batch: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        """Samples read one by one, those that draw random numbers from a stream of `seed`.

        Only samples of equal shapes are in one batch. Where shapes differ a batch comes when so many of a shape were
        read, and what is left of each shape at the end: nothing is padded, since only the user knows with what.
        """
        return _by_shape(self.name, self._samples(batch, order, seed), batch)

    def _samples(self, batch: int, order: Tensor | None, seed: int) -> Iterator[tuple[Any, Any]]:
        stream = Stream(seed)
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


def _by_shape(name: str, samples: Iterable[tuple[Any, Any]], batch: int) -> Iterator[Batch]:
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
    return _pair(name, inputs, targets)


def _pair(name: str, inputs: Any, targets: Any) -> Batch:
    what = f"the data's '{name}'"
    wanted = () if targets is None else nested(_tuples(targets), f"{what} targets")
    made = nested(_tuples(inputs), f"{what} inputs"), wanted
    _checked(name, *made)
    return made


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) and value and isinstance(value[0], Tensor) else value


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
        stream = Stream(seed)
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
        return _by_shape(self.name, self._samples(seed), batch)

    def chosen(self, indices: Tensor) -> list[Batch]:
        """As many samples as there are `indices`, the first ones: it cannot choose."""
        return self.first(len(indices))

    def content(self) -> str:
        """The source's own `fingerprint`."""
        return hashlib.sha256(_said(self.name, self._source, self._study).encode()).hexdigest()


_END = object()


def _said(name: str, source: Any, study: Path) -> str:
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


class _RawSamples(DatasetSplit):
    """The samples of a loader that makes batches of them by a function of its user's: only that knows their form."""

    def _add(self, index: int, digest: Any) -> None:
        with user_code(f"reading the data's '{self.name}'", self._study):
            _hashed_sample(self._items[index], digest)


class LoaderSplit(Split):
    """The user's DataLoader, which keeps its own batch size and order."""

    keeps_order = True

    def __init__(self, name: str, loader: DataLoader[Any], study: Path, labels: bool = True) -> None:
        super().__init__(name)
        self._loader = loader
        self._labels = labels
        self._study = study
        self._counted: int | None = None
        self._begun: Batch | None = None

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
            yield _pair(self.name, *parted(item, self._labels, f"a batch of the data's '{self.name}'", _BATCHES))

    def first(self, count: int) -> list[Batch]:
        """See `Split.first`; the first batch is kept, since each pass may start worker processes."""
        if self._begun is None:
            self._begun = next(self.batches(1, None, 0), None)
        if self._begun is not None and len(leaves(self._begun[0])[0]) >= count:
            inputs, targets = (mapped(item, lambda item: item[:count]) for item in self._begun)
            return [(inputs, targets)]
        return super().first(count)

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
            kind = DatasetSplit if self._loader.collate_fn is default_collate else _RawSamples
            inner = kind(self.name, dataset, self._study, self._labels).content()
        else:
            inner = _said(self.name, dataset, self._study)
        about = (self._loader.batch_size, self._loader.drop_last, type(self._loader.sampler).__name__)
        return hashlib.sha256(f"{inner} {about}".encode()).hexdigest()
