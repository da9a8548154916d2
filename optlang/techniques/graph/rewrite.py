"""What the rewritings of a module share: a copy that runs, the proof of equal answers, and the new state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context, ModelState, Refusal
from optlang.techniques.shared.parametrizations import as_module
from optlang.techniques.shared.symmetry import answers
from optlang.workload.failures import attempt

if TYPE_CHECKING:
    from torch import Tensor, nn


def runnable_copy(
    state: ModelState, context: Context, done: str
) -> tuple[ModelState, nn.Module, dict[str, Tensor]]:
    """The state without parametrizations, a copy of its module in eval mode that is known to run, and an example."""
    from optlang.techniques.cast.half import is_half
    from optlang.workload import imports

    state = as_module(state, f"be {done}", context)
    if is_half(state.model):
        raise Refusal(f"a model in 16 bits is not {done}", help="do it before the cast")
    module = copy.deepcopy(state.model).eval()
    example = context.data.bind(module).example(4)
    with imports.user_code("the model's forward", context.study):
        answers(module, example)
    return state, module, example


def same_answers(
    module: nn.Module, wanted: Mapping[str, Tensor], example: Mapping[str, Tensor], tolerance: float
) -> bool:
    """Whether a changed module still answers as is wanted; its own code may count on what was changed."""
    found = attempt(lambda: answers(module, example))
    return not isinstance(found, Exception) and close(found, wanted, tolerance)


def proved_subset(found: Sequence[Any], same: Callable[[Sequence[Any]], bool]) -> list[Any]:
    """All of `found` where that gives the same answers, else those that do by themselves and together."""
    if not found or same(found):
        return list(found)
    kept: list[Any] = []
    for item in found:
        if same([*kept, item]):
            kept.append(item)
    return kept


def close(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float) -> bool:
    import torch

    return list(found) == list(wanted) and all(
        found[name].shape == item.shape
        and (
            torch.equal(found[name], item) if not tolerance or not item.is_floating_point()
            else bool((found[name] - item).abs().max() <= tolerance * item.abs().max().clamp(min=1e-6))
        )
        for name, item in wanted.items()
    )
