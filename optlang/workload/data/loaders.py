"""Splits that are the user's own DataLoaders."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from optlang.interfaces import OptlangError
from optlang.workload import generators
from optlang.workload.data.content import hashed_sample
from optlang.workload.data.pairs import parted
from optlang.workload.data.samples import DatasetSplit, pair, said_fingerprint
from optlang.workload.data.split import Batch, Split
from optlang.workload.data.tensors import leaves, mapped
from optlang.workload.imports import user_code
from optlang.workload.seeds import Stream

_BATCHES = "each batch is a pair (inputs, targets), or inputs alone"


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
        """The loader's own batches: what it and its data set draw at random is from a stream of `seed`.

        So a pass is the same however many were made before it, in this process or in another.
        """
        stream = Stream(seed, generators.of(self._loader))
        what = f"reading the data's '{self.name}'"
        with stream, user_code(what, self._study):
            self._end_workers()
            source = iter(self._loader)
        while True:
            with stream, user_code(what, self._study), self._stacked(), warnings.catch_warnings():
                # Pinned memory without an accelerator is the loader's own business.
                warnings.filterwarnings("ignore", message=".*pin_memory.*")
                item = next(source, None)
            if item is None:
                return
            yield pair(self.name, *parted(item, self._labels, f"a batch of the data's '{self.name}'", _BATCHES))

    def _end_workers(self) -> None:
        """End worker processes that are to serve several passes (`persistent_workers`): in them random numbers would go
        on from the pass before."""
        if getattr(self._loader, "_iterator", None) is not None:
            self._loader._iterator = None

    def first(self, count: int) -> list[Batch]:
        """See `Split.first`; the first batch is kept, since each pass may start worker processes."""
        if self._begun is None:
            self._begun = next(self.batches(1, None, 0), None)
        if self._begun is not None and len(leaves(self._begun[0])[0]) >= count:
            inputs, targets = (mapped(item, lambda item: item[:count]) for item in self._begun)
            return [(inputs, targets)]
        return super().first(count)

    def spread(self, count: int) -> Iterator[Batch]:
        """Single samples, evenly spread, where the loader makes batches of a map-style data set by a function of its
        user's: a batch that is padded shows its longest sample, and there may be one as long in each."""
        dataset: Any = self._loader.dataset
        collate = self._loader.collate_fn
        single = collate is not default_collate and self._loader.batch_size is not None
        if not (single and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            return super().spread(count)
        few = min(count, len(dataset))
        found = (self._single(dataset, collate, index * len(dataset) // few) for index in range(few))
        try:
            first = next(found)
        except Exception:  # noqa: BLE001 - a function of the user's that takes no fewer than so many
            return super().spread(count)
        return itertools.chain([first], found)

    def _single(self, dataset: Any, collate: Callable[[list[Any]], Any], index: int) -> Batch:
        with user_code(f"reading the data's '{self.name}'", self._study):
            item = collate([dataset[index]])
        return pair(self.name, *parted(item, self._labels, f"a batch of the data's '{self.name}'", _BATCHES))

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
            inner = said_fingerprint(self.name, dataset, self._study)
        about = (self._loader.batch_size, self._loader.drop_last, type(self._loader.sampler).__name__)
        return hashlib.sha256(f"{inner} {about}".encode()).hexdigest()


class _RawSamples(DatasetSplit):
    """The samples of a loader that makes batches of them by a function of its user's: only that knows their form."""

    def _add(self, index: int, digest: Any) -> None:
        with user_code(f"reading the data's '{self.name}'", self._study):
            hashed_sample(self._items[index], digest)
