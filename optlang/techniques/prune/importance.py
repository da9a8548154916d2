"""Scores of the coupled channels of a group."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context, Refusal
from optlang.techniques.prune.gradients import fisher, taylor

if TYPE_CHECKING:
    from torch import Tensor, nn

Scorer = Callable[[Any], Any]
"""Takes a group and gives a score for each of its channels, or None where the group has none and is left alone."""


def scoring(module: nn.Module, settings: Mapping[str, Any], context: Context) -> Callable[[nn.Module], Scorer]:
    """How to score the groups of a copy of `module`, by the setting `importance`.

    All but two look at the whole coupled group: the weights that give a channel, those that take it, and the scales of
    norms between; biases and the projections inside `nn.MultiheadAttention` do not count. "l1" and "l2" are the sums of
    absolute and of squared weights, the mean over the group's layers, relative to the group's mean channel (the group
    norm of DepGraph: Fang et al., CVPR 2023). "taylor" is the sum of |weight times gradient| (Molchanov et al., CVPR
    2019), "fisher" that of half of both squared (see `gradients.fisher`). "lamp" is the squared norm over that of all
    channels of the layer that are no smaller (Lee et al., ICLR 2021): it ranks a layer as l2 does, and makes layers
    comparable.

    "random" is chance. "bn_scale" is the absolute scale of the batch normalization (Network Slimming: Liu et al., ICCV
    2017); what has none is left alone, and `Scale.left` names it. Raises `Refusal` where no layer has one.
    """
    import torch
    from torch_pruning import importance

    name = settings["importance"]
    if name in ("taylor", "fisher"):
        scored = copy.deepcopy(module).eval()
        score = taylor if name == "taylor" else fisher
        scores = score(scored, dict(scored.named_parameters()), int(settings["samples"]), context)
        return lambda fresh: _Summed(fresh, scores)
    if name == "random":

        def chance(fresh: nn.Module) -> Scorer:
            generator = torch.Generator().manual_seed(context.seed)
            return lambda group: torch.rand(len(group[0].idxs), generator=generator)

        return chance
    if name == "bn_scale":
        _scaled(module)
        return Scale
    if name == "lamp":
        lamp = importance.LAMPImportance()
        return lambda fresh: lambda group: lamp(scorable(group))
    norm = importance.GroupMagnitudeImportance(p=1 if name == "l1" else 2)
    return lambda fresh: lambda group: norm(scorable(group))


@dataclass(frozen=True, slots=True)
class _Item:
    """An item of a group, as torch-pruning's scores take it."""

    dep: Any
    idxs: Sequence[int]
    root_idxs: Sequence[int]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.dep, self.idxs))


def scorable(group: Any) -> Any:
    """A group whose channels tables of embeddings give, with these as the linear layers that they are of single words.

    torch-pruning's scores pass tables by; other groups are left as they are.
    """
    from torch import nn
    from torch_pruning.pruner import function

    if not isinstance(group[0].dep.target.module, nn.Embedding):
        return group
    found = []
    for item in group:
        dependency, layer = item.dep, item.dep.target.module
        if isinstance(layer, nn.Embedding) and dependency.pruning_fn == function.prune_embedding_out_channels:
            linear = nn.Linear(layer.num_embeddings, layer.embedding_dim, bias=False, device="meta")
            linear.weight = nn.Parameter(layer.weight.data.T, requires_grad=False)
            dependency = SimpleNamespace(layer=linear, pruning_fn=function.prune_linear_out_channels)
        found.append(_Item(dependency, item.idxs, item.root_idxs))
    return found


class Scale:
    """The absolute scales of batch normalizations."""

    def __init__(self, module: nn.Module) -> None:
        from torch_pruning import importance

        # The scales are compared as they are, between layers too.
        self._scale = importance.BNScaleImportance(normalizer=None)
        self._names = {id(layer): name for name, layer in module.named_modules()}
        self.left: set[str] = set()
        """The layers without a norm behind them, which are left alone: of each group the one that it is named after."""

    def __call__(self, group: Any) -> Any:
        found = self._scale(group)
        if found is None:
            self.left.add(self._names[id(group[0].dep.target.module)])
        return found


class _Summed:
    """Sums the scores of a channel's weights over its group, those of normalizations too.

    torch-pruning's own sum of this kind passes by batch normalizations. Its sum of absolute weights does not: here it
    sees the scores where the weights were.
    """

    def __init__(self, module: nn.Module, scores: Mapping[str, Tensor]) -> None:
        from torch_pruning import importance

        self._scores = {id(item): scores[name] for name, item in module.named_parameters()}
        # Changes of the loss are comparable between layers: nothing is normalized.
        self._sum = importance.GroupMagnitudeImportance(p=1, group_reduction="sum", normalizer=None)

    def __call__(self, group: Any) -> Any:
        with self._in_place_of_weights(group):
            return self._sum(scorable(group))

    @contextmanager
    def _in_place_of_weights(self, group: Any) -> Iterator[None]:
        found = [getattr(dependency.layer, "weight", None) for dependency, _ in group]
        weights = {id(item): item for item in found if item is not None and id(item) in self._scores}
        before = {key: item.data for key, item in weights.items()}
        for key, item in weights.items():
            item.data = self._scores[key]
        try:
            yield
        finally:
            for key, item in weights.items():
                item.data = before[key]


def _scaled(module: nn.Module) -> None:
    from torch import nn

    kinds = nn.modules.batchnorm._BatchNorm
    if any(isinstance(layer, kinds) and layer.affine for layer in module.modules()):
        return
    bare = next((name for name, item in module.named_modules() if isinstance(item, nn.modules.conv._ConvNd)), None)
    bare = bare or next((name for name, item in module.named_modules() if isinstance(item, nn.Linear)), "the model")
    raise Refusal(
        f"importance bn_scale ranks channels by the scale of their batch normalization, and {bare} has none behind it, "
        "like all other layers",
        help="importance = l2 or taylor",
    )
