"""The model and data of tumors.opt: plain PyTorch and scikit-learn."""

import numpy
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn


class Block(nn.Module):
    """Two linear layers beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(x + self.narrow(self.relu(self.widen(x))))


class Tumors(nn.Module):
    """Thirty measurements of a cell sample in, two logits out."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Linear(30, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, 2)

    def forward(self, measurements: torch.Tensor) -> torch.Tensor:
        x = self.stem(measurements)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def net(width: int = 64, depth: int = 3) -> nn.Module:
    return Tumors(width, depth)


def samples(seed: int = 0) -> dict:
    """569 samples, malignant or benign; a quarter of each kept for validation."""
    measurements, labels = load_breast_cancer(return_X_y=True)
    train, validation, train_labels, validation_labels = train_test_split(
        measurements, labels, test_size=0.25, random_state=seed, stratify=labels
    )
    mean, spread = train.mean(axis=0), train.std(axis=0)

    def scaled(values: numpy.ndarray) -> numpy.ndarray:
        return ((values - mean) / spread).astype(numpy.float32)

    return {"train": (scaled(train), train_labels), "validation": (scaled(validation), validation_labels)}
