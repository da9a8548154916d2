"""Arrays whose first axis is the samples; those that are mapped into memory are read a few samples at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy
from torch import Tensor

from optlang.interfaces import OptlangError
from optlang.workload.data.tensors import Tensors, nested, tensor


def opened(value: Any, what: str) -> Any:
    """Tensors, nested as `value` is; arrays that are mapped into memory stay as they are: a tensor would be a copy."""
    mapped_in = [item for item in parts(value) if isinstance(item, numpy.memmap)]
    if not mapped_in:
        return nested(value, what)
    # One sample tells what is wrong with any.
    nested(_each(value, lambda item: item[:1]), what)
    return _each(value, lambda item: item if isinstance(item, numpy.memmap) else tensor(item, what))


def rows_of(value: Any, rows: Any) -> Tensors:
    """Those samples of what `_opened` returned, as tensors."""
    found: Tensors = _each(value, lambda item: read_rows(item, rows))
    return found


def read_rows(item: Any, rows: Any) -> Tensor:
    if isinstance(item, Tensor):
        return item[rows]
    return tensor(item[rows if isinstance(rows, slice) else rows.numpy()], "a mapped array")


def parts(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Mapping):
        return tuple(value.values())
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return {str(name): change(item) for name, item in value.items()}
    return tuple(map(change, value)) if isinstance(value, tuple | list) else change(value)


def checked(name: str, inputs: Any, targets: Any) -> int:
    """The number of samples, which must be that of all arrays."""
    sizes = {len(item) if item.ndim else -1 for item in (*parts(inputs), *parts(targets))}
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
