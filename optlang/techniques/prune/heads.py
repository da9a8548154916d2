"""Removes whole attention heads, and does so again on a fresh model."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, Edit, ModelState, Refusal
from optlang.techniques.prune.cutter import counted, share_removed
from optlang.techniques.prune.head_layers import attention_of, torch_layers, without_nested_batches
from optlang.techniques.prune.head_scores import scores
from optlang.techniques.prune.sparsity import recounted
from optlang.techniques.shared import masks
from optlang.techniques.shared.parametrizations import as_module, with_edit
from optlang.workload import imports
from optlang.workload.failures import refused
from optlang.workload.model.layers import replaced

if TYPE_CHECKING:
    from torch import Tensor, nn

_REPLAY = "optlang.techniques.prune.heads:replay"
# Keeps 10 * (1 - 0.8) = 1.9999999999999996 from counting as one head.
_ROUNDING = 1e-9


def heads(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Remove the attention heads that matter least, with their share of all projections (Michel et al., 2019).

    Of each layer of attention with `scope` "layer", of all of them together with "global"; the nearest whole number of
    heads stays, the smaller of two as near, and at least one in each layer. `importance` is the norm of a head's
    weights in the projections ("l2"), chance ("random"), or the mean over training samples of |the loss's derivative by
    a gate on the head's answer| ("taylor", Michel et al., 2019).

    Attention is found by running the model (`head_trace`), whatever its class: what loses heads keeps its class, with
    fewer numbers in its weights, and with the attributes or the code that count them changed (`head_cut`). Query heads
    that share a key head go with it; layers that share a table for each head lose the same heads. An
    `nn.MultiheadAttention` becomes an `attention.NarrowAttention` of the same width outside. The outputs are those with
    the removed heads' answers at zero. Notes: `prune.removed_heads` and `prune.removed_parameters`, the shares removed
    since the model was made, and `prune.heads`, what each layer has left.

    Layers that cannot be cut are left alone, and `prune.left` says why. Raises `Refusal` where none can be, where no
    head would go, or where the model does not run without.
    """
    state = as_module(state, "lose heads", context)
    module: nn.Module = copy.deepcopy(state.model).eval()
    with imports.at_home(context.study):
        found = attention_of(module, settings, context)
        kept = _kept(scores(state.model, found, settings, context), settings)
        left = {name: chosen for name, chosen in kept.items() if len(chosen) < found.groups(name)}
        if not left:
            some = ", ".join(f"{name} has {found.groups(name)}" for name in list(kept)[:4])
            raise Refusal(
                f"no head was removed: one always stays, and ratio {settings['ratio']:g} leaves the others too "
                f"({some})",
                help="a larger ratio",
            )
        before = counted(module)[0]
        arguments = found.arguments(module, left)
        module = replay(module, arguments, {})
        after = counted(module)[0]
        _try(module, context)
    counts = found.counts(kept)
    whole = found.counts({name: range(found.groups(name)) for name in kept}, all_layers=True)
    removed = sum(whole.values()) - sum((whole | counts).values())
    notes: dict[str, JSON] = {
        "prune.removed_heads": share_removed(state, "heads", 1 - removed / sum(whole.values())),
        "prune.removed_parameters": share_removed(state, "parameters", after / before),
        "prune.heads": dict(whole | counts),
        **({"prune.left": dict(found.left)} if found.left else {}),
        **recounted(state.notes, module),
    }
    if masks.masked(state.notes):
        notes[masks.NOTE] = list(_renamed(masks.masked(state.notes), [name for name in left if name in found.own]))
    module.zero_grad(set_to_none=True)
    return with_edit(state, module, Edit(_REPLAY, arguments), notes)


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Keep the same heads of `module`, a fresh model of the shape that it had before."""
    from optlang.techniques.prune.attention import narrowed
    from optlang.techniques.prune.head_cut import cut

    found = torch_layers(module)
    for name, chosen in arguments["heads"].items():
        module = replaced(module, name, narrowed(found[name], chosen))
    for edit in arguments.get("cuts", ()):
        cut(module, edit)
    without_nested_batches(module)
    return module


def _kept(scores: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, list[int]]:
    """The heads that stay, by layer, in order."""
    ratio = float(settings["ratio"])
    pools = [list(scores)] if settings["scope"] == "global" else [[name] for name in scores]
    kept = {name: set(range(len(item))) for name, item in scores.items()}
    for pool in pools:
        ranked = sorted((float(value), name, index) for name in pool for index, value in enumerate(scores[name]))
        surplus = len(ranked) - max(1, math.ceil(len(ranked) * (1 - ratio) - 0.5 - _ROUNDING))
        for _, name, index in ranked:
            if surplus and len(kept[name]) > 1:
                kept[name].remove(index)
                surplus -= 1
    return {name: sorted(chosen) for name, chosen in kept.items()}


def _try(module: nn.Module, context: Context) -> None:
    """Refuse where code around the layers counts on what only the whole ones have."""
    import torch

    from optlang.workload.model.call import call

    with torch.no_grad(), refused(
        "the model does not run with fewer heads", help="keep the layers whose insides its code uses"
    ):
        call(module, context.data.bind(module).example(2))


def _renamed(names: Sequence[str], layers: Sequence[str]) -> list[str]:
    """Names of parameters, those of a torch attention layer's projections by the names that they have now."""
    found = []
    for name in names:
        holder, _, own = name.rpartition(".")
        if holder not in layers:
            found.append(name)
        elif own == "in_proj_weight":
            found += [f"{holder}.{item}.weight" for item in ("q_proj", "k_proj", "v_proj")]
        else:
            found.append(f"{holder}.{own.removesuffix('_weight')}.weight")
    return sorted(found)
