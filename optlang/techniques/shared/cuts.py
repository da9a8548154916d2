"""Takes channels of coupled groups out of a module, in place, layer by layer with torch-pruning's functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.techniques.shared.coupled import Group, Part

if TYPE_CHECKING:
    from torch import nn


def cut(module: nn.Module, channels: Mapping[str, Collection[int]], groups: Sequence[Group]) -> nn.Module:
    """`module` without these channels of the groups of these roots; raises what a layer raises that cannot be cut.

    All groups are those of the whole module: where several have channels of one layer, these go together.
    """
    import torch

    gone: dict[tuple[str, bool, int], set[int]] = {}
    for group in groups:
        for part in group.parts:
            key = part.layer, part.outward and not _alike(module, part), part.dim
            positions = gone.setdefault(key, set())
            positions.update(spot for channel in channels.get(group.root, ()) for spot in part.positions[channel])
    frozen = {name for name, item in module.named_parameters() if not item.requires_grad}
    with torch.no_grad():
        for (layer, outward, dim), indices in gone.items():
            if indices:
                _pruned(module, layer, outward, dim, sorted(indices))
    for name, item in module.named_parameters():
        item.requires_grad_(name not in frozen)
    return module


def tie(module: nn.Module, ties: Sequence[Sequence[str]]) -> None:
    """Make one of the parameters that were one before each layer was cut by itself."""
    for first, *others in ties:
        parameter = module.get_parameter(first)
        for name in others:
            holder, _, own = name.rpartition(".")
            setattr(module.get_submodule(holder), own, parameter)


def _alike(module: nn.Module, part: Part) -> bool:
    """Whether inputs and outputs of a layer are the same channels, so that it loses them once: norms, depthwise."""
    prune = _prune(module, part.layer)
    return bool(prune.prune_out_channels == prune.prune_in_channels)


def _pruned(module: nn.Module, layer: str, outward: bool, dim: int, indices: list[int]) -> None:
    from torch import nn

    prune = _prune(module, layer)
    target = _of(module, layer)
    if isinstance(target, nn.LayerNorm):
        _normalized(target, dim, indices)
        return
    prune.pruning_dim = dim
    made = (prune.prune_out_channels if outward else prune.prune_in_channels)(target, indices)
    if isinstance(target, nn.Parameter):
        holder, _, own = layer.rpartition(".")
        layer_of = module.get_submodule(holder)
        setattr(layer_of, own, made)
        if isinstance(layer_of, nn.RNNBase):
            layer_of.input_size = made.shape[1]


def _normalized(layer: nn.LayerNorm, dim: int, indices: list[int]) -> None:
    """torch-pruning takes what is left from a set, in no order: scales would come to other channels."""
    import torch
    from torch import nn

    shape = list(layer.normalized_shape)
    if len(shape) < -dim:
        return
    gone = set(indices)
    left = torch.tensor([index for index in range(shape[dim]) if index not in gone])
    for name in ("weight", "bias"):
        own = getattr(layer, name)
        if own is not None:
            setattr(layer, name, nn.Parameter(own.index_select(dim, left.to(own.device))))
    shape[dim] = len(left)
    layer.normalized_shape = tuple(shape)


def _prune(module: nn.Module, layer: str) -> Any:
    """torch-pruning's functions for the kind of a layer, or a parameter of none."""
    from torch_pruning import ops
    from torch_pruning.pruner.function import PrunerBox

    return PrunerBox[ops.module2type(_of(module, layer))]


def _of(module: nn.Module, name: str) -> Any:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return module.get_parameter(name)
