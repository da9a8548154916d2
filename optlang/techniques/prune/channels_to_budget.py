"""Removes channels until a model is as small or as fast as was asked for, where `channels` is told the ratio."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context, ModelState, Refusal
from optlang.techniques.prune.channels import Cut, Cutter, counted
from optlang.techniques.shared.baked import baked

if TYPE_CHECKING:
    from torch import nn

# The ratios that are tried lie between nothing and what `channels` allows.
_MOST = 0.95
_FINE, _COARSE = 950, 95
# Keeps a model of 0.1 + 0.2 times its macs from being more than 0.3 of them.
_ROUNDING = 1e-9


def channels_until(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Remove as few channels as leave at most `share` of the macs or parameters that the model came with.

    One ratio for all layers (or across them, `scope` global), found by bisection in steps of 0.1 %; the other settings
    are those of `channels`. Notes: `prune.ratio`, the ratio found; `prune.reached`, the share that is left; and those
    of `channels`. Raises `Refusal` where a ratio of 95 % leaves more than `share`, or a layer cannot be pruned.
    """
    state = baked(state, context.data, context.study)
    share = float(settings["share"])
    with cutting(state, settings, context) as cutter:
        measure = measure_of(str(settings["aim"]), cutter)
        whole = measure(state.model)
        cut, ratio, reached = _found(
            cutter, _FINE, share, lambda cut: measure(cut.module) / whole,
            lambda value: f"{value:.1%} of the {settings['aim']}",
        )
        return cutter.state(cut, **{"prune.ratio": ratio, "prune.reached": reached})


def channels_within(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Remove channels until a call on the trial's runtime and target takes at most a share of what it took, or a time.

    `limit` "share" is of the latency that the model came with, "time" in seconds. As for `channels_until`, in steps of
    1 %, each timed as the finished artifact will be (the median of a batch of the target's size). Bisection takes for
    granted that fewer channels are no slower; the model that it ends with was timed. Notes: `prune.ratio`, the ratio
    found; `prune.reached`, the share or the seconds that it came to; and those of `channels`. Raises `Refusal` where a
    ratio of 95 % is too slow, where the model is fast enough as it came, or a layer cannot be pruned.
    """
    assert context.latency is not None, "declared: needs latency"
    state = baked(state, context.data, context.study)
    time_of, shared = context.latency, settings["limit"] == "share"
    limit = float(settings["share"] if shared else settings["time"])

    def shown(value: float) -> str:
        return f"{value:.1%} of the latency" if shared else f"{1e3 * value:.4g} ms"

    with cutting(state, settings, context) as cutter:
        whole = time_of(state)
        unit = whole if shared else 1.0
        if whole / unit <= limit:
            raise Refusal(
                f"before any channel is removed a call takes {shown(whole / unit)}, which is within {shown(limit)}",
                help="a shorter `time`, or no pruning",
            )
        cut, ratio, reached = _found(
            cutter, _COARSE, limit, lambda cut: time_of(cutter.state(cut)) / unit, shown
        )
        return cutter.state(cut, **{"prune.ratio": ratio, "prune.reached": reached})


@contextmanager
def cutting(state: ModelState, settings: Mapping[str, Any], context: Context) -> Iterator[Cutter]:
    """What cuts copies of the state; `Refusal` where it is no module."""
    from optlang.workload import imports

    if state.form != "module":
        raise Refusal(f"only a module can lose channels, and the model is in the form {state.form}")
    with imports.at_home(context.study):
        yield Cutter(state, settings, context)


def measure_of(aim: str, cutter: Cutter) -> Callable[[nn.Module], float]:
    """What counts the multiply-accumulates ("macs", for one sample) or the "parameters" of a module."""
    from optlang.workload.model.operations import macs

    if aim == "macs":
        return lambda module: macs(module, cutter.example)
    return lambda module: float(counted(module)[0])


def largest(module: nn.Module) -> str:
    """The layer with the most parameters of its own, with their number, for messages."""
    sizes = {
        name or "the model": sum(item.numel() for item in layer.parameters(recurse=False))
        for name, layer in module.named_modules()
    }
    name = max(sizes, key=lambda item: sizes[item])
    return f"{name} ({sizes[name]} parameters)"


def _found(
    cutter: Cutter, steps: int, limit: float, reached_by: Callable[[Cut], float], shown: Callable[[float], str]
) -> tuple[Cut, float, float]:
    """The cut of the smallest ratio that is within `limit`, that ratio, and what it reached.

    Ratios are multiples of 1 / `steps` of the largest. Two that leave the same model are measured once.
    """
    measured: dict[str, float] = {}

    def tried(number: int) -> tuple[Cut, float, float]:
        ratio = round(_MOST * number / steps, 6)
        cut = cutter.cut(ratio)
        key = json.dumps(cut.history)
        if key not in measured:
            # As it came it was measured before the first cut, and was not within the limit.
            measured[key] = reached_by(cut) if cut.removed else float("inf")
        return cut, ratio, measured[key]

    best = tried(steps)
    if not best[0].removed:
        raise cutter.refusal(f"not even ratio {_MOST:g} takes a channel from any layer", "another importance")
    if best[2] > limit + _ROUNDING:
        raise Refusal(
            f"{shown(limit)} cannot be reached by removing channels: ratio {_MOST:.0%} leaves {shown(best[2])}, and "
            f"the largest layer then is {largest(best[0].module)}",
            help="a larger share or time, a smaller round_to, or fewer layers in keep",
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

