"""Says which layers keep their channels whatever their scores: what settings name, what an earlier step chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.techniques.prune.recurrent_units import recurrent
from optlang.techniques.shared.coupled import Group
from optlang.techniques.shared.stand_ins import called
from optlang.workload.model.layers import left_alone

if TYPE_CHECKING:
    from torch import nn


def kept_layers(module: nn.Module, settings: Mapping[str, Any]) -> set[str]:
    """The layers that keep their channels. Norms and depthwise layers have none of their own: they follow others."""
    from torch import nn

    names = [name for name, _ in module.named_modules()]
    kept = left_alone(settings["keep"], (), names)
    for name in left_alone((), settings["only"], names):
        layer = module.get_submodule(name)
        convolution = isinstance(layer, nn.modules.conv._ConvNd) and not layer.groups == layer.in_channels > 1
        # What holds a chosen layer is left alone, and all that it holds would be with it.
        if convolution or isinstance(layer, nn.Linear | nn.MultiheadAttention):
            kept.add(name)
    return kept


def kept_units(module: nn.Module, settings: Mapping[str, Any]) -> dict[str, str]:
    """The recurrent layers that were open to pruning, with why their hidden units stay."""
    alone = left_alone(settings["keep"], settings["only"], [name for name, _ in module.named_modules()])
    return {
        name: f"it is {called(layer)}, whose hidden units channels cannot remove"
        for name, layer in recurrent(module).items() if name not in alone
    }


def chosen_before(module: nn.Module) -> set[str]:
    """The layers whose width was chosen by an earlier step: `heads` chose the inner one of attention."""
    from optlang.techniques.prune.attention import NarrowAttention

    return {
        f"{name}.{own}" if name else own for name, layer in module.named_modules()
        if isinstance(layer, NarrowAttention) for own in ("q_proj", "k_proj", "v_proj")
    }


def untied(group: Group, ties: Sequence[Sequence[str]]) -> str | None:
    """Why weights that layers share keep a group whole: it would cut them in one layer and not alike in the others."""
    for names in ties:
        cuts = {name: {(item.axis, item.positions) for item in group.axes if item.tensor == name} for name in names}
        if any(cuts.values()) and len({frozenset(item) for item in cuts.values()}) > 1:
            return f"{' and '.join(names)} are one weight, which it would cut in one of them alone"
    return None
