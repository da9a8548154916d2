"""Recovers what pruning lost: a training whose declared defaults are short, at a small learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optlang.interfaces import Context, ModelState
from optlang.techniques.training.train import train


def finetune(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """As `train`; the two differ in what `stdlib/training.opt` declares."""
    return train(state, settings, context)
