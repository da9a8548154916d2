"""Which weights of a module can be made zero, and the notes of how many are. Chooses none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, ModelState, Refusal
from optlang.techniques.shared.masks import with_masked
from optlang.workload.model.layers import left_alone
from optlang.workload.model.layers import weights as weights_of

if TYPE_CHECKING:
    from torch import nn


# A step that reaches less than this share of what it was asked for has failed.
_FAR = 0.5


def prunable(module: nn.Module) -> dict[str, tuple[list[str], Any]]:
    """The prunable weights by their names as parameters: the layers that hold each (a tied one has several)."""
    from torch import nn

    kinds = (
        nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase,
        nn.MultiheadAttention,
    )
    names = {id(item): name for name, item in module.named_parameters()}
    found: dict[str, tuple[list[str], Any]] = {}
    for layer_name, layer in module.named_modules():
        if not isinstance(layer, kinds):
            continue
        for own, item in layer.named_parameters(recurse=False):
            if item.ndim > 1 and not own.startswith("bias"):
                found.setdefault(names[id(item)], ([], layer))[0].append(layer_name)
    return found


def chosen(
    module: nn.Module, layers: Mapping[str, tuple[list[str], Any]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The weights that `keep` and `only` leave open."""
    alone = left_alone(settings["keep"], settings["only"], [name for name, _ in module.named_modules()])
    parameters = dict(module.named_parameters())
    weights = {name: parameters[name] for name, (holders, _) in layers.items() if not alone.intersection(holders)}
    if not weights:
        raise Refusal(
            "no layer is left to prune",
            help="convolutions, linear, recurrent, attention and embedding layers can be; shorten keep, or widen only",
        )
    return weights


def not_prunable(
    module: nn.Module, layers: Mapping[str, tuple[list[str], Any]], settings: Mapping[str, Any]
) -> dict[str, int]:
    """The weights in layers of other kinds, norms aside, that `keep` and `only` leave open: their sizes by name."""
    from torch import nn

    norms = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
    alone = left_alone(settings["keep"], settings["only"], [name for name, _ in module.named_modules()])
    found = {}
    for name, item in weights_of(module).items():
        holder = name.rpartition(".")[0]
        apart = holder in alone or (not holder and bool(settings["only"]))
        if name not in layers and not apart and not isinstance(module.get_submodule(holder), norms):
            found[name] = item.numel()
    return found


def refuse_little(asked: float, reached: float, left: Mapping[str, int], why: str) -> None:
    """Refuse where zeros are less than half of what was asked: because of `left`, weights by name with their sizes."""
    if reached >= _FAR * asked:
        return
    largest = sorted(left, key=lambda name: -left[name])
    names = ", ".join(f"{name} ({left[name]} weights)" for name in largest[:4]) + (", …" if len(left) > 4 else "")
    raise Refusal(
        f"a sparsity of {asked:.3g} was asked for and {reached:.3g} reached: {names} are not pruned, since {why}",
        help="only = [\"LAYER\", …] with the layers that can be pruned asks it of these alone",
    )


def zeroed(
    state: ModelState, module: nn.Module, layers: Mapping[str, tuple[list[str], Any]], changed: Mapping[str, Any],
    left: Mapping[str, int],
) -> ModelState:
    notes = {**with_masked(state, list(changed)), **_zeros(module, layers)}
    if left:
        notes["prune.left"] = sorted(left)
    return ModelState("module", module, state.factory, state.edits, notes)


def _zeros(module: nn.Module, layers: Mapping[str, tuple[list[str], Any]]) -> dict[str, JSON]:
    from optlang.workload.model.count import sparsity

    parameters = dict(module.named_parameters())
    zeros: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for name, (holders, _) in layers.items():
        weight = parameters[name]
        zeros[holders[0]] = zeros.get(holders[0], 0) + int((weight == 0).sum())
        sizes[holders[0]] = sizes.get(holders[0], 0) + weight.numel()
    by_layer: dict[str, JSON] = {name: zeros[name] / sizes[name] for name in zeros}
    return {"prune.sparsity": sparsity(module), "prune.sparsity_by_layer": by_layer}


def recounted(notes: Mapping[str, JSON], module: nn.Module) -> dict[str, JSON]:
    """The notes of zeros as they are in `module`, which a later step has cut; none where no step has noted any."""
    return _zeros(module, prunable(module)) if "prune.sparsity" in notes else {}
