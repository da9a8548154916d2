"""Attention that loses heads together: its calls, the heads that go as one, and the edit that removes some of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optlang.interfaces import JSON
from optlang.techniques.prune.head_trace import Call, Part, clusters

if TYPE_CHECKING:
    from torch import Tensor, nn

# What layers call the sizes of their weights' axes; each with the axis.
_SIZES = {
    "out_features": 0, "in_features": 1, "out_channels": 0, "in_channels": 1, "num_embeddings": 0, "embedding_dim": 1,
    "num_features": 0, "nx": 0, "nf": 1,
}


@dataclass(frozen=True, slots=True)
class Site:
    """Attention that is cut alike: one layer as a rule, several where they share weights or a table for each head.

    `groups` are the heads that go together: those that share a key head. `parts` are the weights with the numbers of
    each head, `operands` those of them in linear maps, `answers` those that take the heads' answers. `layers` are the
    modules that compute the attention, `modules` those whose code may count heads, `members` all names by which `keep`
    and `only` choose it.
    """

    name: str
    layers: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    parts: Mapping[str, Part]
    operands: frozenset[str]
    answers: frozenset[str]
    modules: tuple[str, ...]
    members: frozenset[str]

    def indices(self, part: Part, groups: Iterable[int]) -> list[int]:
        """The indices of these groups in a weight, in order."""
        return sorted({index for group in groups for head in self.groups[group] for index in part.indices[head]})

    def gone(self, kept: Sequence[int]) -> list[int]:
        """The groups that are not kept."""
        return [index for index in range(len(self.groups)) if index not in kept]

    def scores(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The norm of each group's weights in linear maps."""
        import torch

        sums = torch.zeros(len(self.groups))
        for name in self.operands:
            part, weight = self.parts[name], weights[name].detach().float().square()
            along = weight.movedim(part.axis, 0).flatten(1).sum(1)
            sums += torch.stack([along[self.indices(part, [index])].sum() for index in range(len(self.groups))])
        return sums.sqrt()

    def edit(self, module: nn.Module, kept: Sequence[int], numbers: Mapping[str, Sequence[str]]) -> dict[str, JSON]:
        """What `head_cut.cut` takes to keep these groups: `numbers` are the attributes that count heads, by module."""
        own = {**dict(module.named_buffers()), **dict(module.named_parameters())}
        tensors: dict[str, JSON] = {}
        attributes: dict[str, dict[str, JSON]] = {}
        for name, part in self.parts.items():
            size = own[name].shape[part.axis]
            lost = set(self.indices(part, self.gone(kept)))
            stay = [index for index in range(size) if index not in lost]
            holder, _, plain = name.rpartition(".")
            layer = module.get_submodule(holder)
            cut: JSON = [part.axis, _ranges(stay)]
            tensors[name] = cut
            if plain in ("weight", "bias") and hasattr(layer, "running_mean") and layer.running_mean is not None:
                tensors |= {f"{holder}.running_mean": cut, f"{holder}.running_var": cut}
            for attribute, axis in _SIZES.items():
                if plain == "weight" and axis == part.axis and vars(layer).get(attribute) == size:
                    attributes.setdefault(holder, {})[attribute] = len(stay)
        new = self.counts(own, kept)
        for holder, names in numbers.items():
            values = vars(module.get_submodule(holder))
            attributes.setdefault(holder, {}).update({name: new[values[name]] for name in names})
        return {"tensors": tensors, "numbers": attributes}

    def counts(self, weights: Mapping[str, Tensor], kept: Sequence[int]) -> dict[int, int]:
        """The numbers by which code may count these heads and their widths, with what they are when some are kept."""
        heads = sum(len(group) for group in self.groups)
        left = sum(len(self.groups[group]) for group in kept)
        found = {heads: left, len(self.groups): len(kept)}
        whole = range(len(self.groups))
        apart: set[tuple[int, int]] = {(heads, left)}
        for part in self.parts.values():
            apart.add((len({part.indices[head] for group in whole for head in self.groups[group]}),
                       len({part.indices[head] for group in kept for head in self.groups[group]})))
        widths = {len(self.parts[name].indices[0]) for name in self.answers & set(self.parts)}
        for old, new in sorted(apart):
            found.setdefault(old, new)
            for width in sorted(widths):
                found.setdefault(old * width, new * width)
        for name, part in self.parts.items():
            covered, stays = self.indices(part, whole), self.indices(part, kept)
            size = weights[name].shape[part.axis]
            found.setdefault(len(covered), len(stays))
            found.setdefault(size, size - len(covered) + len(stays))
        return {old: new for old, new in found.items() if old > 1}

    def countable(self, module: nn.Module) -> dict[str, list[str]]:
        """The attributes of modules around this attention that may count its heads or their width, by module."""
        own = {**dict(module.named_buffers()), **dict(module.named_parameters())}
        known = self.counts(own, range(len(self.groups)))
        found: dict[str, list[str]] = {}
        for holder in self.modules:
            layer = module.get_submodule(holder)
            names = [name for name, value in vars(layer).items() if type(value) is int and value in known]
            sized = {name for name in _SIZES if f"{holder}.weight" in self.parts}
            if set(names) - sized:
                found[holder] = [name for name in names if name not in sized]
        return found


def sites(module: nn.Module, calls: Sequence[Call]) -> tuple[list[Site], dict[str, str]]:
    """The attention of `module` that may lose heads, and why other attention may not, by the layer's name."""
    left: dict[str, str] = {}
    named = _names(calls)
    shared = _several(module)
    found: list[Site] = []
    for together in _together(calls):
        names = list(dict.fromkeys(named[index] for index in together))
        own = [calls[index] for index in together]
        why = next((item.why for item in own if item.why), None)
        made = None if why else _site(module, names, own)
        if isinstance(made, Site):
            other = next((name for name in made.parts if name in shared), None)
            if other:
                why = f"{other} and {shared[other]} are one weight"
            else:
                found.append(made)
        elif made is not None:
            why = made
        if why:
            left.update(dict.fromkeys(names, why))
    return found, left


def _site(module: nn.Module, names: Sequence[str], calls: Sequence[Call]) -> Site | str:
    parts: dict[str, Part] = {}
    for call in calls:
        for name, part in call.parts.items():
            if parts.setdefault(name, part) != part:
                return f"{name} is divided among its heads in two ways"
    heads = calls[0].heads
    if any(call.heads != heads for call in calls):
        return f"it shares {_common(calls)} with attention of another number of heads"
    groups = _groups(heads, parts)
    if len(groups) < 2:
        return "it has one head" if heads == 1 else "its heads share what they have and go together"
    operands = frozenset().union(*(call.operands for call in calls))
    modules: dict[str, None] = {}
    members = {*names}
    for call in calls:
        holders = [name.rpartition(".")[0] for name in call.operands]
        top = _ancestor([call.modules[-1] if call.modules else "", *holders])
        for name in [*call.modules[-1:], *holders]:
            modules.update(dict.fromkeys(_between(top, name)))
        members.update(item for item in [*call.modules[-1:], *holders, top] if item)
    answers = frozenset().union(*(call.answers for call in calls))
    return Site(names[0], tuple(names), groups, parts, operands, answers, tuple(modules), frozenset(members))


def _names(calls: Sequence[Call]) -> list[str]:
    """A name for each call: of the innermost module that computes it, or of its first layer where that has several."""
    inner = [call.modules[-1] if call.modules else "" for call in calls]
    weights: dict[str, set[frozenset[str]]] = {}
    for name, call in zip(inner, calls, strict=True):
        weights.setdefault(name, set()).add(frozenset(call.parts))
    names = []
    for name, call in zip(inner, calls, strict=True):
        first = next((item for item in call.parts if item in call.operands), None)
        if (not name or len(weights[name]) > 1) and first is not None:
            name = first.rpartition(".")[0] or first
        names.append(name or "the model's own attention")
    return names


def _together(calls: Sequence[Call]) -> list[list[int]]:
    """The calls that share a weight which belongs to heads, each of them once."""
    found: list[list[int]] = []
    for index, call in enumerate(calls):
        near = [
            item for item in found
            if any(set(calls[other].parts) & set(call.parts) or _same(calls[other], call) for other in item)
        ]
        merged = sorted({index, *(other for item in near for other in item)})
        found = [item for item in found if item not in near] + [merged]
    return sorted(found)


def _same(one: Call, other: Call) -> bool:
    return one.why is not None and one.modules == other.modules and other.why is not None


def _groups(heads: int, parts: Mapping[str, Part]) -> tuple[tuple[int, ...], ...]:
    """The heads that share an index of a weight go together."""
    sets = [{(name, index) for name, part in parts.items() for index in part.indices[head]} for head in range(heads)]
    return tuple(tuple(item) for item in clusters(sets))


def joined(sites: Sequence[Site]) -> Site:
    """Sites of as many heads as one, which lose the same."""
    parts = {name: part for site in sites for name, part in site.parts.items()}
    return Site(
        sites[0].name, tuple(name for site in sites for name in site.layers), _groups(_heads(sites[0]), parts), parts,
        frozenset().union(*(site.operands for site in sites)), frozenset().union(*(site.answers for site in sites)),
        tuple(dict.fromkeys(name for site in sites for name in site.modules)),
        frozenset().union(*(site.members for site in sites)),
    )


def _heads(site: Site) -> int:
    return sum(len(group) for group in site.groups)


def _several(module: nn.Module) -> dict[str, str]:
    """The weights that several layers hold, each with another of its names."""
    from optlang.techniques.shared.proof import shared

    return {name: next(item for item in names if item != name) for names in shared(module) for name in names}


def _ancestor(names: Sequence[str]) -> str:
    """The innermost module that holds all of these."""
    paths = [name.split(".") if name else [] for name in names]
    found = []
    for level in zip(*paths, strict=False):
        if len(set(level)) > 1:
            break
        found.append(level[0])
    return ".".join(found)


def _between(top: str, name: str) -> list[str]:
    """The modules from `name` up to `top`, both included."""
    found = [name]
    while name != top:
        name = name.rpartition(".")[0]
        found.append(name)
    return found


def _common(calls: Sequence[Call]) -> str:
    return ", ".join(sorted(set.intersection(*(set(call.parts) for call in calls)))[:2]) or "a weight"


def _ranges(indices: Sequence[int]) -> list[JSON]:
    """Indices in order as [start, stop) pairs."""
    found: list[list[int]] = []
    for index in indices:
        if found and found[-1][1] == index:
            found[-1][1] = index + 1
        else:
            found.append([index, index + 1])
    return [list(item) for item in found]
