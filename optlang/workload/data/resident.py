"""Arrays of a data set on the device that trains: they move once, where they fit, and not batch by batch."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optlang.workload.data.arrays import ArraySplit
from optlang.workload.data.mapped import parts

if TYPE_CHECKING:
    from optlang.workload.data.dataset import Dataset
    from optlang.workload.data.split import Split
    from optlang.workload.data.tensors import Tensors

SHARE = 0.25
"""How much of a GPU's free memory the data may take: the model, its gradients and activations need the rest."""

_TRAINED = ("train", "validation")


def resident(data: Dataset, device: str) -> Dataset:
    """The same data; the splits that a training reads lie on the device where they are arrays in memory and fit there.

    Batches of the others come from the processor's memory, as before.
    """
    kind = torch.device(device).type
    if kind == "cpu":
        return data
    room = _free(device) * SHARE
    found = copy.copy(data)
    found.splits = dict(data.splits)
    for name in _TRAINED:
        split = data.splits.get(name)
        size = None if split is None else _bytes(split)
        if isinstance(split, ArraySplit) and size is not None and size <= room:
            found.splits[name] = _moved(split, device)
            room -= size
    return found


def to_device(inputs: dict[str, Tensor], targets: Tensors, device: str) -> tuple[dict[str, Tensor], Tensors]:
    """A batch on the device; of memory that is pinned, as a DataLoader with `pin_memory` gives it, without waiting."""
    from optlang.workload.data.tensors import mapped

    waits = torch.device(device).type != "cuda"

    def moved(item: Tensor) -> Tensor:
        return item.to(device, non_blocking=not waits)

    return {name: moved(item) for name, item in inputs.items()}, mapped(targets, moved)


def _free(device: str) -> float:
    if torch.device(device).type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    # A Mac's GPU shares the processor's memory: what fits there fits.
    return float("inf")


def _bytes(split: Split) -> int | None:
    """What the split's arrays take; None where it has others than tensors in memory."""
    if not isinstance(split, ArraySplit):
        return None
    arrays = (*parts(split.inputs), *parts(split.targets))
    return sum(item.nbytes for item in arrays) if all(isinstance(item, Tensor) for item in arrays) else None


def _moved(split: ArraySplit, device: str) -> ArraySplit:
    def each(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: item.to(device) for name, item in value.items()}
        return tuple(item.to(device) for item in value) if isinstance(value, tuple) else value.to(device)

    found = copy.copy(split)
    found.inputs, found.targets = each(split.inputs), each(split.targets)
    return found
