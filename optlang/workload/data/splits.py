"""The splits of a data set (train, validation, …) as users give them: arrays, Datasets, DataLoaders, streams.

None is read whole: of arrays that are mapped into memory a batch at a time, of the rest what the user's own object
returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from optlang.interfaces import OptlangError
from optlang.workload.data.arrays import ArraySplit
from optlang.workload.data.loaders import LoaderSplit
from optlang.workload.data.pairs import parted
from optlang.workload.data.samples import DatasetSplit, StreamSplit
from optlang.workload.data.split import Split

_SHAPE = (
    "a split is inputs or a pair (inputs, targets), of arrays or tensors, a Dataset, a DataLoader, or a function that "
    "returns an iterator over samples"
)


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
