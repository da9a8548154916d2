"""A recurrent net that reads a handwritten digit row by row."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from optlang.zoo.digits import digits

_CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


class Reader(nn.Module):
    """Recurrent layers over the rows, and one linear layer on what they hold after the last of them."""

    def __init__(self, cell: str, width: int, layers: int) -> None:
        super().__init__()
        self.cell = _CELLS[cell](8, width, num_layers=layers, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, rows: Tensor) -> Tensor:
        """(N, 8, 8) rows to (N, 10) logits."""
        states, _ = self.cell(rows)
        answer: Tensor = self.head(states[:, -1])
        return answer


def recurrent(cell: str = "lstm", width: int = 64, layers: int = 1) -> Reader:
    """An LSTM or GRU over eight steps of eight values: (N, 8, 8) to (N, 10) logits; 19,594 parameters as it is.

    Reading images as series is the task of Le, Jaitly and Hinton, A Simple Way to Initialize Recurrent Networks of
    Rectified Linear Units (2015), here a row a step.
    """
    if cell not in _CELLS:
        raise ValueError(f"cell is {cell!r}; it is one of {', '.join(_CELLS)}")
    return Reader(cell, width, layers)


def digit_rows(seed: int = 0) -> dict[str, Any]:
    """The digits of `digits`, same split, as series: (N, 8, 8), a row a step, from the top."""
    given = digits(seed)
    rows = {name: (given[name][0].squeeze(1), given[name][1]) for name in ("train", "validation")}
    return {**rows, "preprocessing": "grey levels from 0 (paper) to 16 (ink), divided by 16; eight rows from the top"}
