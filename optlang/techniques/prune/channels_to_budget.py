"""Removes channels until a model has as few macs or parameters as the budget allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optlang.interfaces import Context, ModelState
from optlang.techniques.prune.budget import measure_of, smallest_cut
from optlang.techniques.prune.cutter import cutting

# Ratios that are tried, and cuts with channels left again.
_STEPS, _TRIES = 950, 200


def channels_to_budget(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Remove as few channels as leave at most `share` of the macs or parameters that the model came with.

    One ratio for all layers (or across them, `scope` global), found by bisection in steps of 0.1 %. Layers lose whole
    multiples of `round_to` channels, many of them at the same ratio: where that takes more than the budget asks, layers
    get one multiple back, those first that lost most above the ratio, as long as the budget holds. The other settings
    are those of `channels`. Notes: `prune.ratio`, the ratio found; `prune.reached`, the share that is left; and those
    of `channels`. Raises `Refusal` where a ratio of 95 % leaves more than `share`, or a layer cannot be pruned.
    """
    share = float(settings["share"])
    with cutting(state, settings, context) as cutter:
        measure = measure_of(str(settings["resource"]), cutter)
        whole = measure(cutter.whole.model)
        cut, ratio, reached = smallest_cut(
            cutter, _STEPS, share, lambda draft: cutter.measured(draft, measure) / whole,
            lambda value: f"{value:.1%} of the {settings['resource']}", _TRIES,
        )
        return cutter.state(cut, **{"prune.ratio": ratio, "prune.reached": reached})
