"""Removes channels until a call of the model on the target is as fast as was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optlang.interfaces import Context, ModelState, Refusal
from optlang.techniques.prune.budget import smallest_cut
from optlang.techniques.prune.cutter import cutting

# Ratios that are tried, and cuts with channels left again: fewer than for a budget, since each is timed.
_STEPS, _TRIES = 95, 8


def channels_to_latency(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Remove channels until a call on the trial's runtime and target takes at most a share of what it took, or a time.

    `limit` "share" is of the latency that the model came with, "time" in seconds. One ratio for all layers, found by
    bisection in steps of 1 %, each timed as the finished artifact will be (the median of a batch of the target's size).
    Bisection assumes that fewer channels are no slower; the model that it ends with was timed. Layers lose whole
    multiples of `round_to` channels: up to 8 of them get one multiple back where a call stays fast enough.

    Notes: `prune.ratio`, the ratio found; `prune.reached`, the share or the seconds that it reached; and those of
    `channels`. Raises `Refusal` where a ratio of 95 % is too slow, where the model is fast enough as it came, or a
    layer cannot be pruned.
    """
    assert context.latency is not None, "declared: needs latency"
    time_of, shared = context.latency, settings["limit"] == "share"
    limit = float(settings["share"] if shared else settings["time"])

    def shown(value: float) -> str:
        return f"{value:.1%} of the latency" if shared else f"{1e3 * value:.4g} ms"

    with cutting(state, settings, context) as cutter:
        whole = time_of(cutter.whole)
        unit = whole if shared else 1.0
        if whole / unit <= limit:
            raise Refusal(
                f"before any channel is removed a call takes {shown(whole / unit)}, which is within {shown(limit)}",
                help="a shorter `time`, or no pruning",
            )
        cut, ratio, reached = smallest_cut(
            cutter, _STEPS, limit, lambda draft: time_of(cutter.state(cutter.proved(draft))) / unit, shown, _TRIES
        )
        return cutter.state(cut, **{"prune.ratio": ratio, "prune.reached": reached})
