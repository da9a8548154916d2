"""Removes heads from weights and from the numbers that count them, and finds which numbers those are."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optlang.interfaces import JSON
from optlang.techniques.prune.head_code import Code, coded, rewrite
from optlang.techniques.prune.head_sites import Site, joined
from optlang.techniques.shared.proof import trains
from optlang.techniques.shared.symmetry import answers, unequal
from optlang.workload.failures import attempt, first_line

# Choices of attributes that are tried for a layer.
_TRIES = 64
# Layers of one kind that may fail before the others are taken to.
_FAILURES = 2
# Of more attributes than this not all choices are listed.
_MOST = 12

Numbers = dict[str, list[str]]
"""Attributes that count heads, by the module that has them."""


@dataclass(frozen=True, slots=True)
class Means:
    """How heads can be removed next to their weights: the attributes that count them, and code that does."""

    numbers: Numbers
    code: Code | None = None

    def edit(self, module: nn.Module, site: Site, kept: Sequence[int]) -> dict[str, JSON]:
        """What `cut` takes to keep these groups of heads."""
        edit = site.edit(module, kept, self.numbers)
        return edit if self.code is None else {**edit, "code": self.code.edit(site.gone(kept))}


def cut(module: nn.Module, edit: Mapping[str, Any]) -> Callable[[], None]:
    """Cut `module` in place as `Site.edit` says; what is returned undoes it."""
    undo = ExitStack()
    if "code" in edit:
        # The code is that of the whole module.
        undo.callback(rewrite(module, edit["code"]))
    for name, (axis, ranges) in edit["tensors"].items():
        old = _tensor(module, name)
        stay = torch.cat([torch.arange(start, stop) for start, stop in ranges])
        new = old.detach().index_select(axis, stay.to(old.device))
        undo.callback(_set(module, name, _like(old, new)))
    for name, values in edit["numbers"].items():
        layer = module.get_submodule(name)
        for attribute, value in values.items():
            before = getattr(layer, attribute)
            setattr(layer, attribute, value)
            undo.callback(setattr, layer, attribute, before)
    return undo.close


def _like(old: Tensor, new: Tensor) -> Tensor:
    """`new` as a parameter where `old` is one."""
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def _tensor(module: nn.Module, name: str) -> Tensor:
    holder, _, own = name.rpartition(".")
    found = getattr(module.get_submodule(holder), own)
    assert isinstance(found, Tensor)
    return found


def _set(module: nn.Module, name: str, new: Tensor) -> Callable[[], None]:
    holder, _, own = name.rpartition(".")
    layer = module.get_submodule(holder)
    old = getattr(layer, own)
    setattr(layer, own, new)
    return lambda: setattr(layer, own, old)


class Fitting:
    """Finds how the heads of attention can be removed from a module: by its weights and the numbers that count them.

    That is tried with one group of heads less: the answers must be those of the whole module with the group's numbers
    at zero. `found` has the attributes to set by the site's name; `left` says why others cannot lose heads.
    """

    def __init__(self, module: nn.Module, sites: Sequence[Site], example: Mapping[str, Tensor]) -> None:
        self._module, self._example = copy.deepcopy(module).eval(), example
        self.found: dict[str, Means] = {}
        self.left: dict[str, str] = {}
        self._known: dict[object, Numbers | None] = {}
        self._reasons: dict[object, str] = {}
        self._failed: Counter[object] = Counter()
        self.sites = {site.name: site for site in sites}
        """The sites by name: those that can be cut together only are one."""
        if sites and not self._fits_at_once(sites):
            self._fit_each(sites)
            self._fit_together()
        self._in_training()

    def _fits_at_once(self, sites: Sequence[Site]) -> bool:
        """Whether the most likely means are those of all these sites; a run for all costs no more than one for each."""
        likely = {site.name: next(self._choices(site), None) for site in sites}
        means = {name: item for name, item in likely.items() if item is not None}
        if len(means) < len(sites) or self._wrong(sites, means) is not None:
            return False
        self.found.update(means)
        return True

    def _fit_each(self, sites: Sequence[Site]) -> None:
        """Fit one site after another, and all others of its kind with what it needed."""
        pending = list(sites)
        while pending:
            first = pending.pop(0)
            self._fit(first)
            alike = [site for site in pending if self._kind(site) == self._kind(first)]
            if first.name in self.found and alike and self._fits_at_once(alike):
                pending = [site for site in pending if site not in alike]

    def _fit(self, site: Site) -> None:
        kind = self._kind(site)
        if self._failed[kind] < _FAILURES:
            wanted = self._silent([site])
            for means in self._choices(site):
                why = self._wrong([site], {site.name: means}, wanted)
                if why is None:
                    self.found[site.name] = means
                    self._known[kind] = means.numbers if means.code is None else None
                    return
                self._reasons.setdefault(kind, why)
            self._known.setdefault(kind, None)
            self._failed[kind] += 1
        self.left[site.name] = f"its code counts on the number of its heads ({self._reasons.get(kind)})"

    def _fit_together(self) -> None:
        """Try those that fail by themselves with all of their kind, whose heads code may count at once."""
        kinds: dict[object, list[Site]] = {}
        for name in self.left:
            kinds.setdefault(self._kind(self.sites[name]), []).append(self.sites[name])
        for alike in kinds.values():
            if len(alike) < 2:
                continue
            reasons = {site.name: self.left.pop(site.name) for site in alike}
            site = joined(alike)
            self._fit(site)
            if site.name in self.found:
                for other in alike:
                    del self.sites[other.name]
                self.sites[site.name] = site
            self.left.update(reasons if site.name in self.left else {})

    def _choices(self, site: Site) -> Iterator[Means]:
        """Attributes that may count heads, those first that a layer of the same kind needed; then changed code."""
        counting = site.countable(self._module)
        every = [(holder, name) for holder, names in counting.items() for name in names]
        kind = self._kind(site)
        seen = self._known.get(kind)
        if seen is not None:
            yield Means(dict(zip(counting, seen.values(), strict=True)))
        if kind not in self._known or seen is not None:
            choices = [
                chosen for count in range(len(every) + 1) for chosen in itertools.combinations(every, count)
            ] if len(every) <= _MOST else [(), tuple(every)]
            heads = sum(len(group) for group in site.groups)
            counts = {
                (holder, name): getattr(self._module.get_submodule(holder), name) == heads for holder, name in every
            }
            for chosen in sorted(choices, key=lambda chosen: _unlikely(chosen, counts))[:_TRIES]:
                yield Means({holder: [name for at, name in chosen if at == holder] for holder in counting})
        code = attempt(lambda: coded(self._module, site, self._example))
        if isinstance(code, Code):
            yield Means({}, code)

    def _kind(self, site: Site) -> object:
        counting = site.countable(self._module)
        return tuple(
            (type(self._module.get_submodule(holder)), tuple(names)) for holder, names in counting.items()
        ), len(site.groups)

    def _wrong(
        self, sites: Sequence[Site], means: Mapping[str, Means], wanted: dict[str, Tensor] | Exception | None = None
    ) -> str | None:
        """Why these sites cannot lose their last group of heads; None where they can. `wanted`: what `_silent` gave."""
        wanted = self._silent(sites) if wanted is None else wanted
        if isinstance(wanted, Exception):
            return first_line(wanted)

        def run() -> dict[str, Tensor]:
            with self._without(sites, means):
                return self._answers(sites)

        found = attempt(run)
        if isinstance(found, Exception):
            return first_line(found)
        why = unequal(found, wanted)
        return None if why is None else "other answers"

    def _silent(self, sites: Sequence[Site]) -> dict[str, Tensor] | Exception:
        """The answers with the numbers of the last group of each site at zero."""
        with ExitStack() as undo:
            for site in sites:
                undo.callback(_silence(self._module, site, [len(site.groups) - 1]))
            return attempt(lambda: self._answers(sites))

    def _answers(self, sites: Sequence[Site]) -> dict[str, Tensor]:
        """The model's answers, and those of the projections behind attention, where a wrong cut is seen better."""
        found: dict[str, Tensor] = {}

        def see(name: str) -> Callable[..., None]:
            def add(_: nn.Module, args: Any, output: Any) -> None:
                if isinstance(output, Tensor):
                    found[f"{name} {len(found)}"] = output.detach().clone()

            return add

        holders = {name.rpartition(".")[0] for site in sites for name in site.answers}
        hooks = [self._module.get_submodule(name).register_forward_hook(see(name)) for name in sorted(holders)]
        try:
            return {**answers(self._module, self._example), **found}
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _without(self, sites: Sequence[Site], means: Mapping[str, Means]) -> Iterator[None]:
        module = self._module
        edits = [means[site.name].edit(module, site, range(len(site.groups) - 1)) for site in sites]
        with ExitStack() as undo:
            for edit in edits:
                undo.callback(cut(module, edit))
            yield

    def _in_training(self) -> None:
        """Leave alone what breaks the model in training mode, which may take another path."""
        sites = [self.sites[name] for name in self.found]
        shapes = trains(self._module, self._example)
        if not sites or shapes is None:
            return
        with self._without(sites, self.found):
            if trains(self._module, self._example) == shapes:
                return
        for site in sites:
            with self._without([site], self.found):
                if trains(self._module, self._example) != shapes:
                    self.left[site.name] = "in training mode its code counts on the number of its heads"
                    del self.found[site.name]


def _unlikely(chosen: Sequence[tuple[str, str]], counts: Mapping[tuple[str, str], bool]) -> tuple[int, int, int]:
    """Those that are called after heads come first, then as few as will do.

    How often a key head is repeated stays, and so does the width of a head, though it may be as large as their number.
    """
    names = [name for _, name in chosen]
    other = sum("group" in name or "rep" in name for name in names) + sum(
        counts[item] and any(word in item[1] for word in ("dim", "size", "width")) for item in chosen
    )
    heads = sum("head" in name for name in names)
    return other, len(names) - heads, -heads


def _silence(module: nn.Module, site: Site, groups: Sequence[int]) -> Callable[[], None]:
    """Set the numbers of these groups to zero; what is returned undoes it."""
    undo = ExitStack()
    for name, part in site.parts.items():
        old = _tensor(module, name)
        new = old.detach().clone().index_fill_(part.axis, torch.tensor(site.indices(part, groups)), 0.0)
        undo.callback(_set(module, name, _like(old, new)))
    return undo.close
