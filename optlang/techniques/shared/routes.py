"""Finds by running a model where channels arrive that its code moves, say by a permutation and a flattening.

It is asked where the graph's own account of them is refuted, and its answer has to be proved like any other.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.techniques.shared.coupled import Axis, Group, moved
from optlang.techniques.shared.symmetry import Symmetry, answers, tensors
from optlang.workload.failures import attempt

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# What a changed channel changes, of the largest number next to it.
_CHANGED = 1e-5


def routed(module: nn.Module, group: Group, example: Mapping[str, Tensor]) -> Group | None:
    """`group` with the positions at which its channels arrive in the layers that take them; None where not known.

    The layers that give them have random weights, and others in one run for each binary digit of a channel's number:
    what changes with a digit has it in its own channel's number.
    """
    import torch

    taken = [axis for axis in group.axes if _takes(module, axis)]
    if not taken or group.channels < 2:
        return None
    trial = copy.deepcopy(module)
    given = [axis for axis in group.axes if not _takes(module, axis) and axis.tensor.rpartition(".")[0] in group.giving]
    draws = [_drawn(trial, given, seed) for seed in (0, 1)]
    digits = (group.channels - 1).bit_length()

    def seen(chosen: list[bool]) -> dict[str, Tensor] | None:
        for axis in given:
            own = tensors(trial)[axis.tensor].data.movedim(axis.axis, 0)
            for channel, other in enumerate(chosen):
                positions = list(axis.positions[channel])
                own[positions] = draws[other][axis.tensor].movedim(axis.axis, 0)[positions]
        return _inputs(trial, [axis.tensor.rpartition(".")[0] for axis in taken], example)

    plain, changed = seen([False] * group.channels), seen([True] * group.channels)
    if plain is None or changed is None:
        return None
    first = seen([channel == 0 for channel in range(group.channels)])
    if first is None or any(
        int(_differ(first[name], plain[name]).sum()) * group.channels != int(_differ(changed[name], plain[name]).sum())
        for name in plain
    ):
        return None  # one channel arrives at more positions than its own: they are mixed on their way, not moved
    numbers = {name: torch.zeros(item.shape[0], dtype=torch.long) for name, item in plain.items()}
    for digit in range(digits):
        found = seen([bool(channel >> digit & 1) for channel in range(group.channels)])
        if found is None:
            return None
        for name, item in found.items():
            numbers[name] += _differ(item, plain[name]).long() << digit
    found_at: dict[str, list[list[int]]] = {}
    for axis in taken:
        name = axis.tensor.rpartition(".")[0]
        arrived = torch.where(_differ(changed[name], plain[name]), numbers[name], -1)
        found_at[name] = [(arrived == channel).nonzero().flatten().tolist() for channel in range(group.channels)]
    return moved(module, group, found_at)


def rerouted(
    module: nn.Module, group: Group, groups: Sequence[Group], symmetry: Symmetry, example: Mapping[str, Tensor]
) -> Group | None:
    """`group` with the positions of its channels, where these can be exchanged and no other group has them."""
    names = set(tables(group, module))
    if any(names.intersection(tables(other, module)) for other in groups if other != group):
        return None
    found = routed(module, group, example)
    return found if found is not None and found != group and symmetry.holds([found]) else None


def tables(group: Group, module: nn.Module) -> dict[str, list[list[int]]]:
    """The positions of a routed group by the layer that reads its channels, as `coupled.moved` takes them."""
    return {
        axis.tensor.rpartition(".")[0]: [list(positions) for positions in axis.positions]
        for axis in group.axes if _takes(module, axis)
    }


def _takes(module: nn.Module, axis: Axis) -> bool:
    """Whether the channels are inputs there, of a layer in one group."""
    from torch import nn

    name, _, own = axis.tensor.rpartition(".")
    layer = dict(module.named_modules()).get(name)
    if own != "weight" or not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
        return False
    if isinstance(layer, nn.modules.conv._ConvNd):
        return layer.groups == 1 and axis.axis == (0 if layer.transposed else 1)
    return axis.axis == 1


def _drawn(module: nn.Module, given: list[Axis], seed: int) -> dict[str, Tensor]:
    """Random weights of the layers that give the channels; biases are large enough that most activations let by."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    own = tensors(module)
    found: dict[str, Tensor] = {}
    for axis in given:
        shape = own[axis.tensor].shape
        if axis.tensor not in found:
            noise = torch.rand(shape, generator=generator)
            found[axis.tensor] = noise + 1 if len(shape) == 1 else (noise - 0.5) / max(1, shape[1:].numel()) ** 0.5
    return found


def _inputs(module: nn.Module, names: list[str], example: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """What the layers take, each as (its inputs, all else)."""
    from torch import nn

    found: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = []
    for name in names:
        layer = module.get_submodule(name)
        axis = -1 if isinstance(layer, nn.Linear) else 1

        def see(_: nn.Module, given: tuple[Any, ...], name: str = name, axis: int = axis) -> None:
            found[name].append(given[0].detach().movedim(axis, 0).flatten(1).clone())

        hooks.append(layer.register_forward_pre_hook(see))
    ran = attempt(lambda: answers(module, example))
    for hook in hooks:
        hook.remove()
    if isinstance(ran, Exception) or any(len(items) != 1 for items in found.values()):
        return None
    return {name: items[0] for name, items in found.items()}


def _differ(one: Tensor, other: Tensor) -> torch.Tensor:
    allowed = _CHANGED * float(other.abs().max())
    return (one - other).abs().amax(1) > allowed
