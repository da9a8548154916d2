"""A small Transformer that reads lines of handwritten digits, column by column."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor, nn

from optlang.zoo.digits import digits

_LONGEST = 3
"""Digits in a line; each has eight columns of eight pixels."""
_PLACES = 8 * _LONGEST
_IGNORED = -100
"""What torch's cross-entropy passes over."""


class Labeler(nn.Module):
    """Columns and their places are embedded, encoder layers look both ways, a linear layer answers at each place."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.places = nn.Parameter(torch.randn(_PLACES, width) * 0.2)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, columns: Tensor, padded: Tensor) -> Tensor:
        """(N, 24, 8) columns, and (N, 24) truths where a line has ended, to (N, 24, 10) logits."""
        seen = self.embed(columns) + self.places
        answer: Tensor = self.head(self.norm(self.encoder(seen, src_key_padding_mask=padded)))
        return answer


def transformer(width: int = 32, depth: int = 2, heads: int = 4) -> Labeler:
    """A Transformer encoder over 24 columns: (N, 24, 8) and a mask to (N, 24, 10) logits; 18,538 parameters as it is.

    After Vaswani et al., Attention Is All You Need (NIPS 2017), with the norms first (Xiong et al., ICML 2020).
    """
    return Labeler(width, depth, heads)


def digit_lines(seed: int = 0) -> dict[str, Any]:
    """Lines of one to three digits side by side, each column labeled with the digit that it belongs to.

    Inputs are `columns` (N, 24, 8), grey levels from 0 to 1, and `padded` (N, 24), true behind the end of a line;
    targets (N, 24), which do not count there. The images and their split are those of `digits`; `seed` also draws the
    lines: 1,200 of training images and 300 of validation images.
    """
    generator = numpy.random.default_rng(seed)
    given = digits(seed)
    found: dict[str, Any] = {"task": "sequence"}
    for name, count in (("train", 1200), ("validation", 300)):
        images, labels = given[name]
        # (images, 8 rows, 8 columns) to one column after the other.
        strips = images.squeeze(1).transpose(1, 2)
        chosen = torch.from_numpy(generator.integers(len(labels), size=(count, _LONGEST)))
        lengths = torch.from_numpy(generator.integers(1, _LONGEST + 1, size=count))
        padded = torch.arange(_PLACES)[None, :] >= 8 * lengths[:, None]
        columns = strips[chosen].reshape(count, _PLACES, 8).masked_fill(padded[:, :, None], 0.0)
        wanted = labels[chosen].repeat_interleave(8, dim=1).masked_fill(padded, _IGNORED)
        found[name] = ({"columns": columns, "padded": padded}, wanted)
    return found
