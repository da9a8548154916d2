"""What a training in progress can still become, by the complete curves of comparable trainings. Measures nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ENOUGH = 8
"""With fewer complete curves nothing is forecast; each training that comes behind takes as many more."""

WRONG = 0.02
"""How often a training may end better than its forecast."""

NEAR = 8
"""How many curves that stood nearest to a training say how much it can gain."""

SMALL = 0.005
"""Distances to the best possible value that are smaller are not told apart: no sample of usual size would."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A complete training of so many planned `epochs`: a metric after each of its epochs, and `final`, that of the
    trial's artifact in the end, after all that was done behind the training.
    """

    epochs: int
    values: tuple[tuple[int, float], ...]
    final: float

    def at(self, epoch: int, epochs: int) -> float | None:
        """The metric where this training was as far as another one after `epoch` of `epochs`, or not as far.

        It was when it had neither more epochs behind it nor a larger share of them: a learning rate that falls over the
        whole training makes both matter. None where it was not looked at by then.
        """
        place = min(epoch, epoch * self.epochs // epochs)
        return next((value for number, value in reversed(self.values) if number <= place), None)


def best(
    value: float, epoch: int, epochs: int, past: Sequence[Curve], *, more: bool, limit: float | None = None
) -> float | None:
    """The best that a metric can become which has this value after `epoch` of `epochs`; None where that is not known.

    `more` says whether more of it is better, `limit` what it is at best. What counts is by which factor a training came
    nearer to the limit (without one: by how much it got better), since one that stands low has more to gain. The best
    is reached with the largest gain of the curves that stood nearest, or with what any curve became that stood no
    better; and with a margin on top: by how much that rule, asked for each curve from all others, fell short of what
    the curve became (the quantile that leaves `WRONG`), or how far the largest gain lies from the usual one, whichever
    is more.
    """
    scaled, back = _scale(more, limit)
    known = [
        (scaled(found), scaled(curve.final)) for curve in past if (found := curve.at(epoch, epochs)) is not None
    ]
    if len(known) < ENOUGH:
        return None
    short = sorted(
        end - _reach(stood, [*known[:number], *known[number + 1 :]]) for number, (stood, end) in enumerate(known)
    )
    gains = _gains(scaled(value), known)
    margin = max(0.0, short[math.ceil((1 - WRONG) * len(short)) - 1], gains[0] - statistics.median(gains))
    return back(_reach(scaled(value), known) + margin)


def _reach(value: float, known: Sequence[tuple[float, float]]) -> float:
    return max([value + _gains(value, known)[0], *(end for stood, end in known if stood <= value)])


def _gains(value: float, known: Sequence[tuple[float, float]]) -> list[float]:
    """Those of the curves that stood nearest to the value, the largest first; of equally near ones the larger."""
    near = sorted((abs(stood - value), stood - end) for stood, end in known)[:NEAR]
    return sorted((-fall for _, fall in near), reverse=True)


def _scale(more: bool, limit: float | None) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """To numbers of which more is better and whose differences compare, and back."""
    sign = 1.0 if more else -1.0
    if limit is None:
        return lambda value: sign * value, lambda number: sign * number
    return (
        lambda value: -math.log(max(sign * (limit - value), 0.0) + SMALL),
        lambda number: limit - sign * max(math.exp(-number) - SMALL, 0.0),
    )
