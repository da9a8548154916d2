"""Removes a share of the channels of a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optlang.interfaces import Context, ModelState
from optlang.techniques.prune.cutter import cutting


def channels(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Remove the channels that matter least, with all that depends on them (DepGraph: Fang et al., CVPR 2023).

    The model's outputs keep their shapes: layers whose channels reach them are left alone, and so are those that `keep`
    names or `only` does not. `importance` chooses the score of a channel (see `importance.scoring`); `recalibrate`
    batches of training data recompute the statistics of batch normalizations after the cut (EagleEye: Li et al., ECCV
    2020).
    Notes: `prune.removed_parameters` and `prune.removed_channels`, the shares removed since the model was made, and
    `prune.no_norm`, the layers that importance "bn_scale" left alone because they have no norm behind them.
    Raises `Refusal` where nothing would be removed, or a layer cannot be pruned.
    """
    with cutting(state, settings, context) as cutter:
        cut = cutter.cut(float(settings["ratio"]))
        if not cut.removed:
            raise cutter.refusal(
                f"ratio {settings['ratio']:g} with round_to {settings['round_to']} leaves every layer as it is",
                "a larger ratio",
            )
        return cutter.state(cut)
