"""What samples contain, as a hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from optlang.interfaces import OptlangError
from optlang.workload.data.mapped import read_rows

_AT_ONCE = 2**24
"""Bytes of a mapped array that are hashed at once."""


def hashed(items: Sequence[Any], digest: Any) -> None:
    """Add types, shapes and values of tensors, and of mapped arrays as the tensors that they are read as."""
    for item in items:
        count = len(item) if isinstance(item, Tensor) else max(1, _AT_ONCE * len(item) // max(1, item.nbytes))
        digest.update(f"{read_rows(item, slice(0, 1)).dtype}{tuple(item.shape)}".encode())
        for start in range(0, len(item), max(1, count)):
            dense = read_rows(item, slice(start, start + count)).contiguous()
            digest.update(dense.flatten().view(torch.uint8).numpy().data if dense.numel() else b"")


def hashed_sample(item: Any, digest: Any) -> None:
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
            hashed_sample(part, digest)
    else:
        array = numpy.asarray(item)
        if array.dtype.hasobject:
            raise OptlangError(
                f"a sample contains an object of the type {type(item).__name__}, whose content cannot be hashed",
                help="give the Dataset an attribute `fingerprint` that changes whenever the data does",
            )
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())


def names_of(value: Any) -> str:
    if isinstance(value, dict):
        return "|".join(value)
    return "tuple" if isinstance(value, tuple) else "Tensor"
