"""Makes recurrent layers of torch narrower, or some of their units silent.

Units are given by `kept`: for each level of a layer, and within it for each direction (forward, then backward), the
indices of the units that stay. All of them are as long, since a layer has one hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.workload.model.layers import replaced

if TYPE_CHECKING:
    from torch import Tensor, nn

Kept = Sequence[Sequence[int]]

# Of the gates of a layer, the one that proposes the new state: without it a unit's state stays what it was, zero.
_PROPOSING = {"LSTM": 2, "GRU": 2, "RNN": 0}


def recurrent(module: nn.Module) -> dict[str, nn.RNNBase]:
    """All recurrent layers, by name."""
    from torch import nn

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.RNNBase)}


def layer_called(module: nn.Module, name: str) -> nn.RNNBase:
    """The recurrent layer of that name."""
    from torch import nn

    layer = module.get_submodule(name)
    assert isinstance(layer, nn.RNNBase), name
    return layer


def directions(layer: nn.RNNBase) -> int:
    """1, or 2 where the layer reads its series backward too."""
    return 2 if layer.bidirectional else 1


def ends(layer: nn.RNNBase) -> list[str]:
    """What the names of parameters end with, in the order of `Kept`: l0, l0_reverse, l1, …"""
    suffixes = ("", "_reverse")[: directions(layer)]
    return [f"l{level}{suffix}" for level in range(layer.num_layers) for suffix in suffixes]


def cut(
    module: nn.Module, name: str, kept: Kept, takers: Sequence[str], sides: Mapping[str, Sequence[int]]
) -> nn.Module:
    """Replace the layer by a narrower one, and narrow the first matrices of what takes its answers; in place.

    `sides` has for a taker which direction of the last level each block of its inputs is; without: one block, forward.
    """
    import torch
    from torch import nn

    layer = layer_called(module, name)
    size, per_level = layer.hidden_size, directions(layer)
    gates = len(layer.get_parameter("weight_hh_l0")) // size
    parts: dict[str, Tensor] = {}
    for position, (end, chosen) in enumerate(zip(ends(layer), kept, strict=True)):
        rows = torch.cat([torch.tensor(chosen) + gate * size for gate in range(gates)])
        before = (position // per_level - 1) * per_level
        for own in [item for item, _ in layer.named_parameters() if item.endswith(f"_{end}")]:
            part = layer.get_parameter(own).detach()[rows]
            if own.startswith("weight_hh"):
                part = part[:, list(chosen)]
            elif own.startswith("weight_ih") and before >= 0:
                part = part[:, _columns(kept[before : before + per_level], size)]
            parts[own] = part
    module = replaced(module, name, _remade(layer, layer.input_size, len(kept[0]), parts))
    for taker in takers:
        old = module.get_submodule(taker)
        columns = _columns([kept[side - per_level] for side in sides.get(taker, (0,))], size)
        if isinstance(old, nn.Linear):
            weight = old.weight.detach()[:, columns].clone()
            old.weight = nn.Parameter(weight, requires_grad=old.weight.requires_grad)
            old.in_features = len(columns)
        else:
            again = layer_called(module, taker)
            parts = {
                own: item.detach()[:, columns] if own.startswith("weight_ih_l0") else item.detach()
                for own, item in again.named_parameters()
            }
            module = replaced(module, taker, _remade(again, len(columns), again.hidden_size, parts))
    return module


def silence(layer: nn.RNNBase, kept: Kept) -> None:
    """Make the outputs and states of all other units zero, in place: what begins at zero and adds nothing stays there.

    Without the gate that proposes the new state an LSTM's cell, a GRU's and a plain layer's state stay zero.
    """
    import torch

    size, gate = layer.hidden_size, _PROPOSING[type(layer).__name__]
    with torch.no_grad():
        for end, chosen in zip(ends(layer), kept, strict=True):
            rows = [gate * size + index for index in range(size) if index not in set(chosen)]
            for own, item in layer.named_parameters():
                if own.endswith(f"_{end}"):
                    item[rows] = 0.0


def _columns(blocks: Kept, size: int) -> list[int]:
    """The inputs that stay, where each block of `size` is one direction's answers."""
    return [position * size + index for position, chosen in enumerate(blocks) for index in chosen]


def _remade(layer: nn.RNNBase, inputs: int, hidden: int, parts: Mapping[str, Tensor]) -> nn.RNNBase:
    """A layer of the same kind with these weights."""
    import torch
    from torch import nn

    kind: Any = type(layer)
    about: dict[str, Any] = {"nonlinearity": layer.nonlinearity} if isinstance(layer, nn.RNN) else {}
    if layer.proj_size:
        about["proj_size"] = layer.proj_size
    with torch.random.fork_rng(devices=[]):  # what is drawn for it is written over
        made: nn.RNNBase = kind(
            inputs, hidden, layer.num_layers, bias=layer.bias, batch_first=layer.batch_first, dropout=layer.dropout,
            bidirectional=layer.bidirectional, **about,
        )
    first = next(layer.parameters())
    made = made.to(first.device, first.dtype).train(layer.training)
    made.load_state_dict(dict(parts))
    for (_, item), (_, old) in zip(made.named_parameters(), layer.named_parameters(), strict=True):
        item.requires_grad_(old.requires_grad)
    return made
