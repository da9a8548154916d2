"""Prunes each layer to a width of its own, by how much the loss depends on its channels, within a budget.

Sensitivities are those of Li et al., Pruning Filters for Efficient ConvNets (ICLR 2017, section 3.2): the loss with one
layer pruned and all others whole. Widths are chosen among them as bits are among quantizers (Shoham & Gersho, Efficient
Bit Allocation for an Arbitrary Set of Quantizers, 1988): always the next cut with the least loss for what it saves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, ModelState, Refusal
from optlang.techniques.prune.budget import MAX_RATIO, filled, largest_layer, measure_of, units_instead
from optlang.techniques.prune.cutter import Cut, Cutter, cutting, settled
from optlang.techniques.shared.labels import loss_against

if TYPE_CHECKING:
    from torch import nn

# Samples that run through the model at once.
_BATCH = 64
# How often an interval of ratios is halved, so that no more goes than the budget asks.
_HALVINGS = 7
# Cuts that are tried with channels left again, for each set of widths.
_TRIES = 200
# Widths between one ratio for all (0) and those that the sensitivities say (1).
_BLENDS = (0.25, 0.5, 0.75)
_ROUNDING = 1e-9
_SCORED = ("levels", "scored", "importance", "samples", "round_to", "keep", "only", "recalibrate")

Level = tuple[float, float, float]
"""A ratio, what it saves (of what the model came with), and how much larger it makes the loss."""


def widths(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Remove channels until at most `share` of the macs or parameters is left, most where the loss suffers least.

    Each group of coupled channels is pruned alone by `levels` ratios up to 95 % and the task's loss taken on `scored`
    training samples, with batch norm statistics recomputed where `recalibrate` says so. The cuts with the least loss
    for each mac (or parameter) that they save are then made together, the last of them only as far as is needed. What
    they take more than that, because channels go in multiples of `round_to`, is left again where it fits, in the groups
    first whose cuts cost most. Losses of layers pruned together are not quite the sum of their own: widths between
    these and one ratio for all layers are tried too, within the same budget, and those with the least loss are kept.
    The other settings are those of `channels`.

    Notes: `prune.ratios`, the share of its channels asked of each pruned group, by one of its layers; `prune.blend`, 1
    where these are the layers' own and 0 where they are the same for all; `prune.reached`, the share that is left; and
    those of `channels`. Raises `Refusal` where all groups at 95 % leave more than `share`, where no group can be
    pruned, or a layer cannot.
    """
    with cutting(state, {**settings, "scope": "layer"}, context) as cutter:
        return settled(lambda: _narrowed(cutter, settings, context))


def _narrowed(cutter: Cutter, settings: Mapping[str, Any], context: Context) -> ModelState:
    resource = str(settings["resource"])
    about: dict[str, JSON] = {
        name: list(item) if isinstance(item, list | tuple) else item
        for name, item in settings.items() if name in _SCORED
    }
    cutter.cut(MAX_RATIO)  # what no ratio can cut is left alone from here on
    scored: Any = context.memo("widths", about, lambda: _scored(cutter, settings, context))
    groups = {
        name: [(float(ratio), float(saved[resource]), float(loss)) for ratio, saved, loss in scored[name]]
        for name in cutter.groups()
    }
    moves = ordered(groups)
    if not moves:
        raise cutter.refusal(f"not even ratio {MAX_RATIO:g} takes a channel from any layer", "another importance")
    budget = _Budget(cutter, measure_of(resource, cutter), cutter.whole.model, resource, float(settings["share"]))
    names = [name for name, levels in groups.items() if levels]
    own, same = budget.least(moves), budget.along(dict.fromkeys(names, 1.0))
    fits = [(1.0, own), (0.0, same)]
    for blend in _BLENDS:
        mixed = {name: blend * own.ratios.get(name, 0.0) + (1 - blend) * same.ratios[name] for name in names}
        fits.append((blend, budget.along(mixed)))
    # What costs the most loss for what it saves comes back first.
    order = list(dict.fromkeys(name for name, _ in reversed(moves)))
    candidates = [(blend, budget.spent(fit, order)) for blend, fit in fits]
    whole = cutter.cut(0.0).module
    losses = [_loss(cutter.recalibrated(item.cut).module, whole, int(settings["scored"]), context)
              for _, item in candidates]
    blend, best = candidates[losses.index(min(losses))]
    notes: dict[str, JSON] = {"prune.ratios": best.ratios, "prune.blend": blend, "prune.reached": best.reached}
    return cutter.state(best.cut, **notes)


def _scored(cutter: Cutter, settings: Mapping[str, Any], context: Context) -> dict[str, JSON]:
    """For each group the levels that change it: ratio, shares of macs and parameters saved, growth of the loss."""
    whole = cutter.cut(0.0)
    measures = {name: measure_of(name, cutter) for name in ("macs", "parameters")}
    before = {name: count(whole.module) for name, count in measures.items()}
    loss = _loss(whole.module, whole.module, int(settings["scored"]), context)

    def loss_of(draft: Cut, _: nn.Module) -> float:
        return _loss(cutter.recalibrated(draft).module, whole.module, int(settings["scored"]), context)

    found: dict[str, JSON] = {}
    names = cutter.groups()
    for number, name in enumerate(names):
        levels: list[JSON] = []
        history: list[JSON] = []
        for level in range(1, int(settings["levels"]) + 1):
            ratio = round(MAX_RATIO * level / int(settings["levels"]), 6)
            draft = cutter.draft(0.0, {name: ratio})
            if not draft.removed or draft.history == history:
                continue  # rounding leaves the width of the level before
            history = draft.history
            saved: dict[str, JSON] = {
                name: 1 - cutter.measured(draft, count) / before[name] for name, count in measures.items()
            }
            found_loss = cutter.measured(draft, partial(loss_of, draft))
            levels.append([ratio, saved, found_loss - loss])
        found[name] = levels
        context.report({"layer": number + 1, "layers": len(names)})
    return found


def _loss(module: nn.Module, whole: nn.Module, samples: int, context: Context) -> float:
    """The task's mean loss on `samples` training samples, drawn with the context's seed, in eval mode.

    Without labels how far answers are from those of the `whole` model.
    """
    import torch

    from optlang.workload.data.resident import to_device
    from optlang.workload.devices import placed
    from optlang.workload.imports import user_code
    from optlang.workload.model.call import call

    data = context.data.bind(module)
    loss_of = loss_against(whole.eval(), context)
    total, seen = 0.0, 0
    module.eval()
    with torch.no_grad(), placed(module, context.device), placed(whole, context.device):
        for inputs, targets in data.batches("train", _BATCH, seed=context.seed, shuffle=True):
            inputs, targets = to_device(inputs, targets, context.device)
            with user_code("the model's forward", context.study):
                outputs = call(module, inputs)
            count = len(next(iter(inputs.values())))
            total += count * float(loss_of(outputs, inputs, targets))
            seen += count
            if seen >= samples:
                break
    return total / seen


def ordered(groups: Mapping[str, Sequence[Level]]) -> list[tuple[str, float]]:
    """The cuts of all groups, each a group and the ratio that it then has, those that cost least first.

    What a cut costs is the growth of the loss over the saving, from the group's cut before. Levels above the lower
    convex hull of a group are passed over: the next one costs less.
    """
    moves: list[tuple[float, str, float]] = []
    for name, levels in groups.items():
        at, cost = 0.0, 0.0
        # A loss that falls is no reason to cut deeper first: less than nothing counts as nothing.
        left = [(saved, max(0.0, loss), ratio) for ratio, saved, loss in levels]
        while left := [item for item in left if item[0] > at]:
            slopes = [(loss - cost) / (saved - at) for saved, loss, _ in left]
            least = slopes.index(min(slopes))
            at, cost, ratio = left[least]
            moves.append((slopes[least], name, ratio))
    return [(name, ratio) for _, name, ratio in sorted(moves, key=lambda item: item[0])]


@dataclass(frozen=True, slots=True)
class _Fit:
    """A cut within the budget: the ratio of each group, the cut (a draft but for `spent`), and what share it leaves."""

    ratios: dict[str, float]
    cut: Cut
    reached: float


class _Budget:
    """Finds cuts that leave at most a share of what is counted."""

    def __init__(
        self, cutter: Cutter, measure: Callable[[nn.Module], float], model: nn.Module, resource: str, share: float
    ) -> None:
        self._cutter, self._measure, self._whole = cutter, measure, measure(model)
        self._resource, self._share = resource, share

    def _tried(self, ratios: Mapping[str, float]) -> _Fit:
        rounded = {name: round(ratio, 6) for name, ratio in ratios.items()}
        draft = self._cutter.draft(0.0, rounded)
        return _Fit(rounded, draft, self._reached(draft))

    def _reached(self, draft: Cut) -> float:
        return self._cutter.measured(draft, self._measure) / self._whole

    def _holds(self, fit: _Fit) -> bool:
        return fit.reached <= self._share + _ROUNDING

    def least(self, moves: Sequence[tuple[str, float]]) -> _Fit:
        """The fewest of `moves` that are enough, the last of them only as far as is needed."""
        low, high, best = 0, len(moves), self._tried(dict(moves))
        if not self._holds(best):
            raise Refusal(
                f"{self._share:.1%} of the {self._resource} cannot be reached by removing channels: {MAX_RATIO:.0%} of "
                f"each layer's leave {best.reached:.1%}, and the largest layer then is "
                f"{largest_layer(best.cut.module)}",
                help=f"a larger share, a smaller round_to, or fewer layers in keep{units_instead(self._cutter)}",
            )
        while high - low > 1:
            middle = (low + high) // 2
            fit = self._tried(dict(moves[:middle]))
            low, high, best = (low, middle, fit) if self._holds(fit) else (middle, high, best)
        name, above = moves[high - 1]
        below = dict(moves[: high - 1]).get(name, 0.0)
        return self._halved(below, above, best, lambda ratio: {**best.ratios, name: ratio})

    def spent(self, fit: _Fit, order: Sequence[str]) -> _Fit:
        """`fit` with as many channels left again as the budget allows, in the groups in this order; proved."""
        draft, reached = filled(
            self._cutter, fit.cut, fit.reached, self._share, self._reached, order, _TRIES, often=True
        )
        cut = self._cutter.proved(draft)
        before, after = self._cutter.lost(fit.cut), self._cutter.lost(cut)
        ratios = {
            name: ratio if after.get(name) == before.get(name) else after.get(name, 0.0)
            for name, ratio in fit.ratios.items()
        }
        return _Fit(ratios, cut, reached)

    def along(self, direction: Mapping[str, float]) -> _Fit:
        """The smallest multiple of `direction` (group to ratio) that is enough, no ratio above the largest."""

        def scaled(factor: float) -> dict[str, float]:
            return {name: min(MAX_RATIO, factor * ratio) for name, ratio in direction.items()}

        most = MAX_RATIO / min(ratio for ratio in direction.values() if ratio > 0)
        return self._halved(0.0, most, self._tried(scaled(most)), scaled)

    def _halved(
        self, below: float, above: float, best: _Fit, ratios_at: Callable[[float], Mapping[str, float]]
    ) -> _Fit:
        """Between `below`, which is not enough, and `above`, which gives `best`: the smallest that is enough."""
        for _ in range(_HALVINGS):
            middle = (below + above) / 2
            fit = self._tried(ratios_at(middle))
            if self._holds(fit):
                above, best = middle, fit
            else:
                below = middle
        return best
