"""Takes layers that do nothing in eval mode out of a module."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context, Edit, ModelState, Refusal
from optlang.techniques.graph.rewrite import proved_subset, runnable_copy, same_answers
from optlang.techniques.shared.parametrizations import with_edit
from optlang.techniques.shared.symmetry import answers

if TYPE_CHECKING:
    from torch import Tensor, nn

_REPLAY = "optlang.techniques.graph.clean:replay"


def clean(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Take out the Dropout and Identity layers of the model's Sequentials: they do nothing when a model answers.

    The other layers keep their names. Notes: `graph.removed`, how many. Raises `Refusal` where there are none.
    """
    state, module, example = runnable_copy(state, context, "cleaned")
    found = _idle(module)
    names = proved_subset(found, lambda chosen: _same_when_cleaned(module, example, chosen))
    if not names:
        raise Refusal(
            "there is no Dropout and no Identity to take out"
            + (f": the model's own code counts on {found[0]}" if found else " of a Sequential"),
            depends="settings" if found else "model",
        )
    _clean(module, names)
    return with_edit(state, module, Edit(_REPLAY, {"names": list(names)}), {"graph.removed": len(names)})


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Take the same layers out of `module`, a fresh model."""
    _clean(module, arguments["names"])
    return module


def _idle(module: nn.Module) -> list[str]:
    from torch import nn

    idle = (nn.modules.dropout._DropoutNd, nn.Identity)
    found = []
    for name, parent in module.named_modules():
        if type(parent).forward is nn.Sequential.forward:
            for key, child in parent._modules.items():
                if isinstance(child, idle) and not child._forward_hooks and not child._forward_pre_hooks:
                    found.append(f"{name}.{key}" if name else key)
    return found


def _clean(module: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        parent, _, key = name.rpartition(".")
        del module.get_submodule(parent)._modules[key]


def _same_when_cleaned(module: nn.Module, example: Mapping[str, Tensor], names: Sequence[str]) -> bool:
    cleaned = copy.deepcopy(module)
    _clean(cleaned, names)
    return same_answers(cleaned, answers(module, example), example, 0.0)
