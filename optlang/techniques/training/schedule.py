"""How the learning rate moves through a training.

The curves are torch's. Its schedulers count steps, so a last batch of a few samples moves them as far as a full one,
and SequentialLR starts a warmup before OneCycleLR at a 25th of its rate: here the rate is a function of the progress.
"""

from __future__ import annotations

import math

# One cycle (Smith and Topin, 2018) rises for this share of the steps, from the peak divided by the first number, and
# ends at the peak divided by the second; the numbers are those of torch's OneCycleLR.
_RISE = 0.3
_START = 25.0
_END = 25e4


def rate(schedule: str, progress: float) -> float:
    """The learning rate as a share of its peak, at `progress` (0 to 1) through the training."""

    def fall(high: float, low: float, share: float) -> float:
        return low + (high - low) * (1 + math.cos(math.pi * share)) / 2

    if schedule == "cosine":
        return fall(1.0, 0.0, progress)
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "one_cycle":
        if progress < _RISE:
            return fall(1 / _START, 1.0, progress / _RISE)
        return fall(1.0, 1 / _END, (progress - _RISE) / (1 - _RISE))
    return 1.0


def warmed(schedule: str, warmup: float, before: float, after: float) -> float:
    """The share of the peak for a step that takes the training from `before` to `after` (0 to 1).

    It rises in a straight line over the first `warmup` of the training (Goyal et al., 2017) and reaches the peak with
    the last step of that; the schedule has what is left.
    """
    if after <= warmup:
        return after / warmup
    return rate(schedule, min(1.0, max(0.0, before - warmup) / (1 - warmup)) if warmup < 1 else 0.0)
