"""Removes whole attention heads, and does so again on a fresh model."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, Edit, ModelState, Refusal
from optlang.techniques.prune.cutter import counted, share_removed
from optlang.techniques.prune.sparsity import recounted
from optlang.techniques.shared import masks, proof
from optlang.techniques.shared.parametrizations import as_module, with_edit
from optlang.workload.failures import refused
from optlang.workload.model.layers import left_alone, replaced

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.techniques.prune.attention import Attention

_REPLAY = "optlang.techniques.prune.heads:replay"
# Keeps 10 * (1 - 0.8) = 1.9999999999999996 from counting as one head.
_ROUNDING = 1e-9


def heads(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Remove the attention heads that matter least, with their share of all four projections (Michel et al., 2019).

    Of each `nn.MultiheadAttention` (those of torch's Transformer layers too) with `scope` "layer", of all of them
    together with "global"; the nearest whole number of heads stays, the smaller of two as near, and at least one in
    each layer. `importance` is the norm of a head's weights in the projections ("l2"), chance ("random"), or the mean
    over training samples of |the loss's derivative by a gate on the head's answer| ("taylor", Michel et al., 2019).
    What loses heads becomes an `attention.NarrowAttention` of the same width outside, whose outputs are those with the
    removed heads' answers at zero. Notes: `prune.removed_heads` and `prune.removed_parameters`, the shares removed
    since the model was made, and `prune.heads`, what each layer has left.

    Layers that share a weight with another layer are left alone, and `prune.left` says so. Raises `Refusal` where there
    is no such layer, where no head would go, or where the model does not run without.
    """
    state = as_module(state, "lose heads", context)
    module: nn.Module = copy.deepcopy(state.model).eval()
    found = _layers(module)
    open_layers, alone = _own(_open(found, module, settings), module)
    kept = _kept(_scores(state.model, open_layers, settings, context), settings)
    left = {name: chosen for name, chosen in kept.items() if len(chosen) < open_layers[name].num_heads}
    if not left:
        some = ", ".join(f"{name} has {layer.num_heads}" for name, layer in list(open_layers.items())[:4])
        raise Refusal(
            f"no head was removed: one always stays, and ratio {settings['ratio']:g} leaves the others too ({some})",
            help="a larger ratio",
        )
    before, whole = counted(module)[0], sum(layer.num_heads for layer in found.values())
    module = replay(module, {"heads": left}, {})
    after, fewer = counted(module)[0], sum(layer.num_heads for layer in _layers(module).values())
    _try(module, context)
    counts: dict[str, JSON] = {name: layer.num_heads for name, layer in _layers(module).items()}
    notes: dict[str, JSON] = {
        "prune.removed_heads": share_removed(state, "heads", fewer / whole),
        "prune.removed_parameters": share_removed(state, "parameters", after / before),
        "prune.heads": counts,
        **({"prune.left": alone} if alone else {}),
        **recounted(state.notes, module),
    }
    if masks.masked(state.notes):
        notes[masks.NOTE] = list(_renamed(masks.masked(state.notes), left))
    return with_edit(state, module, Edit(_REPLAY, {"heads": left}), notes)


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Keep the same heads of `module`, a fresh model of the shape that it had before."""
    from torch import nn

    from optlang.techniques.prune.attention import narrowed

    found = _layers(module)
    for name, chosen in arguments["heads"].items():
        module = replaced(module, name, narrowed(found[name], chosen))
    for holder in module.modules():
        if isinstance(holder, nn.TransformerEncoder):
            # Ragged batches are for torch's own kernel of a whole layer alone.
            holder.use_nested_tensor = False
    return module


def _layers(module: nn.Module) -> dict[str, Attention]:
    from torch import nn

    from optlang.techniques.prune.attention import NarrowAttention

    # A subclass may do anything with its heads.
    return {
        name: layer for name, layer in module.named_modules() if type(layer) in (nn.MultiheadAttention, NarrowAttention)
    }


def _open(found: Mapping[str, Attention], module: nn.Module, settings: Mapping[str, Any]) -> dict[str, Attention]:
    """The layers that `keep` and `only` leave open; `Refusal` where there is none, or one that cannot be cut."""
    from torch import nn

    if not found:
        raise Refusal(
            "no layer is an nn.MultiheadAttention, whose heads could be removed",
            help="channels makes the heads of attention that is written by hand narrower", depends="model",
        )
    alone = left_alone(settings["keep"], settings["only"], [name for name, _ in module.named_modules()])
    chosen = {name: layer for name, layer in found.items() if name not in alone}
    if not chosen:
        raise Refusal("no attention layer is left to prune", help="shorten keep, or widen only")
    for name, layer in chosen.items():
        if isinstance(layer, nn.MultiheadAttention) and (layer.bias_k is not None or layer.add_zero_attn):
            raise Refusal(
                f"{name} adds a key and a value of its own (add_bias_kv or add_zero_attn), which heads does not cut",
                help=f'keep = ["{name}"]',
            )
    return chosen


def _own(layers: dict[str, Attention], module: nn.Module) -> tuple[dict[str, Attention], dict[str, JSON]]:
    """Those of `layers` whose weights are theirs alone, and why the others are left alone; `Refusal` where none is."""
    others = proof.partners(module)
    alone: dict[str, JSON] = {}
    for name in layers:
        parts = [f"{name}.{part}" if part and name else part or name for part, _ in layers[name].named_modules()]
        other = next((others[part] for part in parts if part in others and others[part] not in parts), None)
        if other is not None:
            alone[name] = f"its weights are those of {other} too, which would be cut apart"
    own = {name: layer for name, layer in layers.items() if name not in alone}
    if not own:
        name = next(iter(alone))
        raise Refusal(f"no attention layer is left to prune: {name}: {alone[name]}")
    return own, alone


def _scores(
    module: nn.Module, layers: Mapping[str, Attention], settings: Mapping[str, Any], context: Context
) -> dict[str, Tensor]:
    """The importance of each head, by layer."""
    import torch

    if settings["importance"] == "random":
        generator = torch.Generator().manual_seed(context.seed)
        return {name: torch.rand(layer.num_heads, generator=generator) for name, layer in layers.items()}
    if settings["importance"] == "taylor":
        return _taylor(module, list(layers), int(settings["samples"]), context)
    return {name: _norms(layer) for name, layer in layers.items()}


def _norms(layer: Attention) -> Tensor:
    """The norm of a head's weights: its rows of the three projections, its columns of the one behind."""
    import torch

    from optlang.techniques.prune.attention import projections

    parts = [weight.detach() for weight, _ in projections(layer)] + [layer.out_proj.weight.detach().T]
    return torch.stack([part.float().square().reshape(layer.num_heads, -1).sum(1) for part in parts]).sum(0).sqrt()


def _taylor(module: nn.Module, names: Sequence[str], samples: int, context: Context) -> dict[str, Tensor]:
    """|derivative of the loss by a gate on each head's answer|, the mean over training samples.

    The derivative of a gate at 1 is the sum over places and width of answer times gradient: all of it lies at the input
    of the output projection, (N, L, heads * width).
    """
    import torch

    from optlang.techniques.prune.attention import NarrowAttention
    from optlang.techniques.prune.gradients import after_each

    whole = {name: list(range(layer.num_heads)) for name, layer in _layers(module).items() if name in names}
    scored = replay(copy.deepcopy(module).eval(), {"heads": whole}, {})
    answers: dict[str, list[Tensor]] = {name: [] for name in names}

    def watch(name: str, layer: NarrowAttention) -> None:
        def see(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            if given[0].requires_grad:
                given[0].retain_grad()
                answers[name].append(given[0])

        layer.out_proj.register_forward_pre_hook(see)

    for name in names:
        layer = scored.get_submodule(name)
        assert isinstance(layer, NarrowAttention)
        watch(name, layer)
    sums = {name: torch.zeros(len(chosen)) for name, chosen in whole.items()}
    seen = 0

    def add(count: int) -> None:
        nonlocal seen
        for name, found in answers.items():
            gates = [
                (item.detach() * item.grad).reshape(*item.shape[:2], len(whole[name]), -1).sum((1, 3))
                for item in found if item.grad is not None
            ]
            # The loss is a mean: of one sample's it holds a share.
            if gates:
                sums[name] += sum(gates[1:], gates[0]).abs().sum(0) * count
            found.clear()
        seen += count

    after_each(scored, samples, context, add)
    return {name: total / seen for name, total in sums.items()}


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


def _renamed(names: Sequence[str], layers: Mapping[str, Any]) -> list[str]:
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
