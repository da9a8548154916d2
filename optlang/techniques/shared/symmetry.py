"""Proves that coupled channels are what the graph takes them for: exchanged for one another, they change no answer.

Where every layer of a group exchanges its channels in the same way, a model gives the same answers, whatever lies
between (norms over channels, sums, softmax, scales by the width), unless its code tells channels apart by their number:
a permutation before a flattening, heads, a shuffle, a flip. The graph follows channels by their number, so such a model
would lose other channels in one layer than in the next.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from optlang.techniques.shared.coupled import Group
from optlang.workload.failures import attempt

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# Of how far an answer varies over the samples, and of how large it is: sums are rounded in another order.
_OF_SPREAD, _OF_SIZE = 1e-4, 1e-5
# The blocks that are looked for where channels are exchangeable within parts of them only.
_MOST_BLOCKS = 64


def unequal(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """How two models' answers to the same samples differ beyond rounding; None where they do not."""
    import torch

    if {name: item.shape for name, item in found.items()} != {name: item.shape for name, item in wanted.items()}:
        return "answers of other shapes"
    for name, item in wanted.items():
        other = found[name]
        if not item.is_floating_point():
            if not torch.equal(item, other):
                return f"another {name}"
            continue
        if not item.numel():
            continue
        one, two = item.double(), other.double()
        alike = torch.isfinite(one) == torch.isfinite(two)
        one, two = one.nan_to_num(0.0, 0.0, 0.0), two.nan_to_num(0.0, 0.0, 0.0)
        spread = float((one - one.mean(0, keepdim=True)).abs().max()) if one.ndim else 0.0
        allowed = _OF_SPREAD * spread + _OF_SIZE * float(one.abs().max())
        if not bool(alike.all()) or float((one - two).abs().max()) > allowed:
            return f"another {name}"
    return None


class Symmetry:
    """Exchanges channels of copies of a module whose answers to an example are known."""

    def __init__(self, module: nn.Module, example: Mapping[str, Tensor]) -> None:
        self._module, self._example = module, dict(example)
        self._wanted = answers(module, self._example)
        self._parts: dict[tuple[object, ...], int | None] = {}

    def holds(self, groups: Sequence[Group], blocks: Mapping[str, int] | None = None) -> bool:
        """Whether the answers stay the same when the channels of all `groups` are exchanged at random.

        Within each of the group's own blocks, or of as many as `blocks` has for it, in all of them alike.
        """
        import torch

        generator = torch.Generator().manual_seed(0)
        trial = copy.deepcopy(self._module)
        own = tensors(trial)
        done: set[tuple[int, int, tuple[int, ...]]] = set()
        for group in groups:
            order = _order(group, (blocks or {}).get(group.root), generator)
            for axis in group.axes:
                tensor = own[axis.tensor]
                moved = list(range(tensor.shape[axis.axis]))
                for channel, source in enumerate(order):
                    if len(axis.positions[channel]) != len(axis.positions[source]):
                        return False
                    for position, other in zip(axis.positions[channel], axis.positions[source], strict=True):
                        moved[position] = other
                if len(set(moved)) < len(moved):
                    return False
                key = (id(tensor), axis.axis, tuple(moved))
                if key not in done:  # a tensor that two layers share is one
                    done.add(key)
                    tensor.data = tensor.data.index_select(axis.axis, torch.tensor(moved))
        found = attempt(lambda: answers(trial, self._example))
        return not isinstance(found, Exception) and unequal(found, self._wanted) is None

    def asymmetric(self, groups: Sequence[Group]) -> list[Group]:
        """Those of `groups` whose channels cannot be exchanged, each by itself.

        Of groups of one form (the blocks of a Transformer) all count as such where the first does.
        """
        if not groups or self.holds(groups):
            return []
        if len(groups) == 1:
            return list(groups)
        forms: dict[tuple[object, ...], list[Group]] = {}
        for group in groups:
            forms.setdefault(group.form, []).append(group)
        if len(forms) == 1:
            if not self.holds(groups[:1]):
                return list(groups)
            middle = len(groups) // 2
            return [*self.asymmetric(groups[:middle]), *self.asymmetric(groups[middle:])]
        kinds = list(forms.values())
        halves = kinds[: len(kinds) // 2], kinds[len(kinds) // 2 :]
        return [group for half in halves for group in self.asymmetric([item for kind in half for item in kind])]

    def parts(self, group: Group) -> int | None:
        """The fewest equal blocks (heads, say) in which the channels of `group` can be exchanged alike; None: none.

        For a group of the form of an earlier one only what was found for that is tried.
        """
        if group.form not in self._parts:
            counts = [count for count in range(2, min(_MOST_BLOCKS, group.channels // 2) + 1)
                      if group.channels % count == 0]
        else:
            known = self._parts[group.form]
            counts = [] if known is None else [known]
        found = next((count for count in counts if self.holds([group], {group.root: count})), None)
        self._parts.setdefault(group.form, found)
        return found


def _order(group: Group, parts: int | None, generator: torch.Generator) -> list[int]:
    """For each channel the one whose position it takes."""
    count = parts or group.blocks
    size = group.channels // count
    inner = _mixed(size, generator)
    order = [block * size + index for block in range(count) for index in inner]
    return order + list(range(len(order), group.channels))


def _mixed(size: int, generator: torch.Generator) -> list[int]:
    """A random order of so many in which no two stay where they were, unless there is only one."""
    import torch

    order = torch.randperm(size, generator=generator).tolist()
    # A cycle through a random order moves each of them.
    moved = [0] * size
    for position, index in enumerate(order):
        moved[index] = order[(position + 1) % size]
    return moved


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module by all their names."""
    return {
        **dict(module.named_buffers(remove_duplicate=False)), **dict(module.named_parameters(remove_duplicate=False)),
    }


def answers(module: nn.Module, example: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A module's answers to the example, with the same random numbers each time."""
    import torch

    from optlang.workload.model.call import call
    from optlang.workload.seeds import seeded

    with torch.no_grad(), seeded(0):
        return {name: item.detach().clone() for name, item in call(module, example).items()}
