"""Finds the smallest cut of a module's channels that is within a budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from optlang.interfaces import Refusal
from optlang.techniques.prune.cutter import Cut, Cutter, counted, settled
from optlang.techniques.prune.recurrent_units import recurrent

if TYPE_CHECKING:
    from torch import nn

Found = TypeVar("Found")

# The ratios that are tried lie between nothing and what `channels` allows.
MAX_RATIO = 0.95
# Keeps a model of 0.1 + 0.2 times its macs from being more than 0.3 of them.
_ROUNDING = 1e-9


def measure_of(resource: str, cutter: Cutter) -> Callable[[nn.Module], float]:
    """What counts the multiply-accumulates ("macs", for one sample) or the "parameters" of a module."""
    from optlang.workload.model.count import macs

    if resource == "macs":
        return lambda module: macs(module, cutter.example)
    return lambda module: float(counted(module)[0])


def largest_layer(module: nn.Module) -> str:
    """The layer with the most parameters of its own, with their number, for messages."""
    sizes = {
        name or "the model": sum(item.numel() for item in layer.parameters(recurse=False))
        for name, layer in module.named_modules()
    }
    name = max(sizes, key=lambda item: sizes[item])
    return f"{name} ({sizes[name]} parameters)"


def units_instead(cutter: Cutter) -> str:
    """What removes more than channels can, where much is in the hidden units of recurrent layers."""
    held = {
        name or "the model": sum(item.numel() for item in layer.parameters())
        for name, layer in recurrent(cutter.whole.model).items()
    }
    if sum(held.values()) < _MUCH * counted(cutter.whole.model)[0]:
        return ""
    most = max(held, key=lambda name: held[name])
    return f"; or the step units before it, which removes hidden units, as those of {most}"


# Recurrent layers with less than this share of the parameters are not what a budget fails on.
_MUCH = 0.1
# A budget is spent where less than this share of it is left over.
_SPENT = 0.005


def filled(
    cutter: Cutter, cut: Cut, reached: float, limit: float, reached_by: Callable[[Cut], float], order: Sequence[str],
    tries: int, *, often: bool = False,
) -> tuple[Cut, float]:
    """`cut` with as many channels left again as fit within `limit`, a draft, and what it then reaches.

    A ratio takes whole multiples of channels of many layers at once, and so may take far more than the limit asks. The
    groups in `order` get one multiple back each where that fits, or as many as do (`often`); at most `tries` are tried.
    Raises `Unproved` as `Cutter.draft` does.
    """
    left = tries
    for root in order:

        def fitting(multiples: int, root: str = root, cut: Cut = cut) -> tuple[Cut, float] | None:
            nonlocal left
            left -= 1
            wider = cutter.wider(cut, root, multiples) if left >= 0 else None
            if wider is None or not wider.removed:
                return None
            value = reached_by(wider)
            return None if value > limit + _ROUNDING else (wider, value)

        if left <= 0 or reached >= limit * (1 - _SPENT):
            break
        cut, reached = (_largest(fitting) if often else fitting(1)) or (cut, reached)
    return cut, reached


def _largest(fitting: Callable[[int], Found | None]) -> Found | None:
    """What `fitting` returns for the largest number, from 1 on, up to which it returns something; None: for none."""
    best: Found | None = None
    low, high = 0, 1
    while (found := fitting(high)) is not None:
        best, low, high = found, high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        found = fitting(middle)
        if found is None:
            high = middle
        else:
            best, low = found, middle
    return best


def most_rounded(cutter: Cutter, cut: Cut, ratio: float) -> list[str]:
    """The groups of a cut, those first that lost most above `ratio` because channels go in multiples."""
    lost = cutter.lost(cut)
    return sorted(lost, key=lambda root: ratio - lost[root])


def smallest_cut(
    cutter: Cutter, steps: int, limit: float, reached_by: Callable[[Cut], float], shown: Callable[[float], str],
    tries: int,
) -> tuple[Cut, float, float]:
    """The cut of the smallest ratio that is within `limit`, that ratio, and what it reached.

    Ratios are multiples of 1 / `steps` of the largest. Two that leave the same model are measured once. What the ratio
    takes more than the limit asks is left again, a multiple in each layer, with at most `tries` cuts: see `filled`.
    `reached_by` takes a draft, and may raise `Unproved`; the cut that is returned was proved.
    """
    measured: dict[str, float] = {}

    def once(cut: Cut) -> float:
        key = json.dumps(cut.history)
        if key not in measured:
            # As it came it was measured before the first cut, and was not within the limit.
            measured[key] = reached_by(cut) if cut.removed else float("inf")
        return measured[key]

    def tried(number: int) -> tuple[Cut, float, float]:
        ratio = round(MAX_RATIO * number / steps, 6)
        cut = cutter.draft(ratio)
        return cut, ratio, once(cut)

    def found() -> tuple[Cut, float, float]:
        cutter.cut(MAX_RATIO)  # what no ratio can cut is left alone from here on
        cut, ratio, reached = _bisected(cutter, tried, steps, limit, shown)
        cut, reached = filled(cutter, cut, reached, limit, once, most_rounded(cutter, cut, ratio), tries)
        return cutter.proved(cut), ratio, reached

    return settled(found)


def _bisected(
    cutter: Cutter, tried: Callable[[int], tuple[Cut, float, float]], steps: int, limit: float,
    shown: Callable[[float], str],
) -> tuple[Cut, float, float]:
    """What `tried` returns for the smallest number up to `steps` with which the limit holds."""
    best = tried(steps)
    if not best[0].removed:
        raise cutter.refusal(f"not even ratio {MAX_RATIO:g} takes a channel from any layer", "another importance")
    if best[2] > limit + _ROUNDING:
        raise Refusal(
            f"{shown(limit)} cannot be reached by removing channels: ratio {MAX_RATIO:.0%} leaves {shown(best[2])}, "
            f"and the largest layer then is {largest_layer(best[0].module)}",
            help=f"a larger share or time, a smaller round_to, or fewer layers in keep{units_instead(cutter)}",
        )
    low, high = 0, steps
    while high - low > 1:
        middle = (low + high) // 2
        found = tried(middle)
        if found[2] <= limit + _ROUNDING:
            high, best = middle, found
        else:
            low = middle
    return best
