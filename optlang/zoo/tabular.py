"""A small net for tables, and the diabetes data: a task of regression."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor, nn

_VALIDATION = 0.25


def tabular_mlp(inputs: int = 10, outputs: int = 1, width: int = 64, dropout: float = 0.2) -> nn.Sequential:
    """Two hidden layers of `width`, with ReLU and dropout: (N, inputs) to (N, outputs); 4,929 parameters as it is."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(width, outputs),
    )


def diabetes(seed: int = 0) -> dict[str, Any]:
    """442 patients, ten measurements each, and how far the disease went in a year; a quarter kept for validation.

    Inputs (N, 10) and targets (N, 1) are scaled by mean and spread of the training part, so mse and mae are in units of
    that spread. Source: Efron et al., Least Angle Regression (Annals of Statistics, 2004); scikit-learn ships the data.
    """
    from sklearn.datasets import load_diabetes
    from sklearn.model_selection import train_test_split

    measured, progress = load_diabetes(return_X_y=True)
    parts = train_test_split(measured, progress.reshape(-1, 1), test_size=_VALIDATION, random_state=seed)
    train, validation, train_progress, validation_progress = parts

    def scaled(values: Any, reference: Any) -> Tensor:
        return torch.from_numpy(((values - reference.mean(axis=0)) / reference.std(axis=0)).astype(numpy.float32))

    return {
        "train": (scaled(train, train), scaled(train_progress, train_progress)),
        "validation": (scaled(validation, train), scaled(validation_progress, train_progress)),
        "task": "regression",
    }
