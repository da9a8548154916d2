"""The model and data of photos.opt: a residual net that reads a handwritten digit in a part of a photograph.

Digits and photographs are those of scikit-learn; no digit is in both train and validation.
"""

from __future__ import annotations

from itertools import pairwise

import numpy
import torch
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

SIDE = 64


class Block(nn.Module):
    """Two convolutions and a shortcut, as in torchvision's ResNets."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + shortcut)


def resnet(width: int = 16) -> nn.Module:
    """A ResNet-18 of another width."""
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    blocks = [
        Block(before if number == 0 else after, after, 2 if number == 0 and stage > 0 else 1)
        for stage, (before, after) in enumerate(pairwise(widths)) for number in range(2)
    ]
    return nn.Sequential(
        nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, 10),
    )


class Signs(Dataset[tuple[Tensor, int]]):
    """Handwritten digits in parts of photographs, 3×64×64: the digit is the label."""

    def __init__(self, digits: numpy.ndarray, labels: numpy.ndarray, seed: int, times: int = 1) -> None:
        self.photos = [photo.astype(numpy.float32) / 255 for photo in load_sample_images().images]
        self.digits, self.labels, self.seed = digits.repeat(times, axis=0), labels.repeat(times), seed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        draw = numpy.random.default_rng((self.seed, index))
        photo = self.photos[draw.integers(len(self.photos))]
        top, left = (int(draw.integers(size - SIDE)) for size in photo.shape[:2])
        part = torch.from_numpy(photo[top : top + SIDE, left : left + SIDE]).permute(2, 0, 1)
        digit = torch.from_numpy(self.digits[index].astype(numpy.float32) / 16)[None, None]
        size = int(draw.integers(36, SIDE))
        sign = nn.functional.interpolate(digit, size=(size, size), mode="bilinear")[0]
        down, right = (int(draw.integers(SIDE - size)) for _ in range(2))
        sign = nn.functional.pad(sign, (right, SIDE - size - right, down, SIDE - size - down))
        # Where the digit is, colours turn into their opposites.
        return (part - sign).abs(), int(self.labels[index])


def data(seed: int = 0) -> dict[str, object]:
    """Loaders of images that are made when they are asked for.

    1,347 digits to train on, each in four photographs, and 450 others for validation.
    """
    digits = load_digits()
    train, validation, labels, others = train_test_split(
        digits.images, digits.target, test_size=0.25, random_state=seed, stratify=digits.target
    )
    return {
        "train": DataLoader(Signs(train, labels, seed=1, times=4), batch_size=64, shuffle=True),
        "validation": DataLoader(Signs(validation, others, seed=2), batch_size=64),
    }
