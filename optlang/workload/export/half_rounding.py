"""How far a module in 16 bits is from what its weights would answer without rounding: no runtime need be nearer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from optlang.workload import failures
from optlang.workload.model.call import call

HALVES = (torch.float16, torch.bfloat16)


def distance(module: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """The largest difference between the answers of `module` and the same arithmetic in float32, as a share.

    It is a share of the largest value of that answer, of the worst answer; 0 where the arithmetic does not run in
    float32 (an operator of its own for 16 bits) or where an answer is not finite.
    """
    def both() -> float:
        with torch.no_grad():
            rounded = call(module, inputs)
            with _Exact():  # type: ignore[no-untyped-call]
                exact = call(module, inputs)
        return max((_apart(item, exact[name]) for name, item in rounded.items()), default=0.0)

    found = failures.attempt(both)
    return 0.0 if isinstance(found, Exception) else found


def _apart(rounded: Tensor, exact: Tensor) -> float:
    if not rounded.is_floating_point() or not rounded.numel():
        return 0.0
    largest = float(exact.abs().max())
    share = float((rounded.float() - exact.float()).abs().max()) / max(largest, 1e-6)
    return share if share < float("inf") else 0.0


class _Exact(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Each operator takes and gives float32 where it would 16 bits."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return operator(*tree_map(_wide, args), **tree_map(_wide, kwargs or {}))


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in HALVES else value
    return torch.float32 if isinstance(value, torch.dtype) and value in HALVES else value
