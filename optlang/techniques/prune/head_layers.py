"""Finds the attention layers of a model that can lose heads, and says why others cannot."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, Refusal
from optlang.techniques.shared import proof
from optlang.workload import imports
from optlang.workload.failures import FAILURES, first_line
from optlang.workload.model.layers import left_alone, reasons

if TYPE_CHECKING:
    from torch import nn

    from optlang.techniques.prune.attention import Attention
    from optlang.techniques.prune.head_cut import Fitting
    from optlang.techniques.prune.head_sites import Site
    from optlang.techniques.prune.head_trace import Call


@dataclass
class Found:
    """The attention of a model that may lose heads: torch's own layers, and sites with what cuts them."""

    own: Mapping[str, Attention]
    fitting: Fitting
    sites: Mapping[str, Site]
    whole: Mapping[str, int]
    left: dict[str, str] = field(default_factory=dict)

    def groups(self, name: str) -> int:
        """How many heads of a layer can go one by one: groups where several share a key head."""
        return self.own[name].num_heads if name in self.own else len(self.sites[name].groups)

    def arguments(self, module: nn.Module, left: Mapping[str, Sequence[int]]) -> dict[str, JSON]:
        """What `replay` takes to keep these heads."""
        cuts: list[JSON] = [
            self.fitting.found[name].edit(module, self.sites[name], chosen)
            for name, chosen in left.items() if name in self.sites
        ]
        own: dict[str, JSON] = {name: list(chosen) for name, chosen in left.items() if name in self.own}
        return {"heads": own, **({"cuts": cuts} if cuts else {})}

    def counts(self, kept: Mapping[str, Iterable[int]], *, all_layers: bool = False) -> dict[str, int]:
        """The heads of each layer, where these are kept; of those that are left alone too with `all_layers`."""
        counts = dict(self.whole) if all_layers else {}
        for name, chosen in kept.items():
            site = self.sites.get(name)
            if site is None:
                counts[name] = len(list(chosen))
                continue
            heads = sum(len(site.groups[group]) for group in chosen)
            counts |= dict.fromkeys(site.layers, heads)
        return counts


def torch_layers(module: nn.Module) -> dict[str, Attention]:
    """torch's own layers of attention, and those that have lost heads already."""
    from torch import nn

    from optlang.techniques.prune.attention import NarrowAttention

    # A subclass may do anything with its heads.
    return {
        name: layer for name, layer in module.named_modules() if type(layer) in (nn.MultiheadAttention, NarrowAttention)
    }


def attention_of(module: nn.Module, settings: Mapping[str, Any], context: Context) -> Found:
    """The attention that `keep` and `only` leave open and that can be cut; `Refusal` where there is none.

    `module` no longer makes ragged batches afterwards.
    """
    from optlang.techniques.prune.head_cut import Fitting
    from optlang.techniques.prune.head_sites import sites

    torchs = torch_layers(module)
    calls, why = _calls(module, context)
    seen, left = sites(module, calls)
    if not torchs and not seen and not left:
        raise Refusal(
            f"the model cannot be followed in search of attention: {why}" if why
            else "the model computes no attention, whose heads could be removed",
            help="channels removes channels of linear layers and convolutions", depends="model",
        )
    if why:
        left["other attention"] = f"the model cannot be followed in search of it: {why}"
    alone = left_alone(settings["keep"], settings["only"], [name for name, _ in module.named_modules()])
    names = {name for name, _ in module.named_modules()}
    kept = left_alone(settings["keep"], (), names)
    wanted = {name for name in names if name not in alone}
    own = {name: layer for name, layer in torchs.items() if name not in alone}
    chosen = [
        site for site in seen
        if not site.members & kept and (not settings["only"] or site.members & wanted or "" in site.modules)
    ]
    left = {name: reason for name, reason in left.items() if name not in alone}
    own, others = _own(own, module)
    left |= others
    without_nested_batches(module)
    fitting = Fitting(module, chosen, context.data.bind(module).example(2))
    left |= fitting.left
    cut = {name: site for name, site in fitting.sites.items() if name in fitting.found}
    whole = {name: layer.num_heads for name, layer in torchs.items()} | {
        name: sum(len(group) for group in site.groups) for site in seen for name in site.layers
    }
    if not own and not cut:
        some = reasons(left)
        raise Refusal(
            f"no attention layer is left to prune{f': {some}' if some else ''}",
            help="channels makes what surrounds attention narrower" if some else "shorten keep, or widen only",
            depends="settings" if settings["keep"] or settings["only"] else "model",
        )
    return Found(own, fitting, cut, whole, left)


def _calls(module: nn.Module, context: Context) -> tuple[list[Call], str]:
    """The attention that the model computes, torch's own layers aside, and why it cannot be seen."""
    from optlang.techniques.prune.attention import NarrowAttention
    from optlang.techniques.prune.head_trace import traced
    from optlang.techniques.shared.symmetry import answers
    from optlang.workload.model.call import call
    from optlang.workload.seeds import seeded

    example = context.data.bind(module).example(2)
    trial = copy.deepcopy(module)
    without_nested_batches(trial)
    narrow = tuple(name for name, layer in module.named_modules() if isinstance(layer, NarrowAttention))
    try:
        with seeded(0):
            found = traced(trial, lambda item: call(item, example))
    except FAILURES as error:
        with imports.user_code("the model's forward", context.study):
            answers(module, example)
        return [], first_line(error)
    return [item for item in found if not set(narrow).intersection(item.modules)], ""


def _own(layers: Mapping[str, Attention], module: nn.Module) -> tuple[dict[str, Attention], dict[str, str]]:
    """Those of torch's `layers` that can be cut, and why the others are left alone."""
    from torch import nn

    others = proof.partners(module)
    alone: dict[str, str] = {}
    for name, layer in layers.items():
        parts = [f"{name}.{part}" if part and name else part or name for part, _ in layer.named_modules()]
        other = next((others[part] for part in parts if part in others and others[part] not in parts), None)
        if other is not None:
            alone[name] = f"its weights are those of {other} too, which would be cut apart"
        elif layer.num_heads < 2:
            alone[name] = "it has one head"
        elif isinstance(layer, nn.MultiheadAttention) and (layer.bias_k is not None or layer.add_zero_attn):
            alone[name] = "it adds a key and a value of its own (add_bias_kv or add_zero_attn)"
    return {name: layer for name, layer in layers.items() if name not in alone}, alone


def without_nested_batches(module: nn.Module) -> None:
    """Ragged batches are for torch's own kernel of a whole encoder layer alone."""
    from torch import nn

    for holder in module.modules():
        if isinstance(holder, nn.TransformerEncoder):
            holder.use_nested_tensor = False
