"""The model and data of the default study: scikit-learn's handwritten digits."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor, nn

_VALIDATION = 0.25


def cnn(width: int = 32) -> nn.Sequential:
    """A small convolutional net for 8x8 images of ten digits: (N, 1, 8, 8) to (N, 10) logits; 19,242 parameters at 32.

    Three convolutions of `width` channels, each with batch normalization and ReLU, then the mean over the image and one
    linear layer.
    """

    def stage(inputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]

    return nn.Sequential(
        *stage(1), *stage(width), nn.MaxPool2d(2), *stage(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, 10),
    )


def digits(seed: int = 0) -> dict[str, Any]:
    """The 1,797 images of 8x8 grey levels (0 to 1), a quarter of every class kept for validation by `seed`.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998; scikit-learn ships its
    test part.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(numpy.float32).reshape(-1, 1, 8, 8)
    train, validation, train_labels, validation_labels = train_test_split(
        images, labels.astype(numpy.int64), test_size=_VALIDATION, random_state=seed, stratify=labels
    )

    def pair(inputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    return {
        "train": pair(train, train_labels), "validation": pair(validation, validation_labels),
        "preprocessing": "grey levels from 0 (paper) to 16 (ink), divided by 16; one channel of 8x8",
    }
