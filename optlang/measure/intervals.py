"""95 % intervals: Wilson's for proportions, bootstraps for the rest. Knows numbers only, and where each came from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from optlang.forms import OptlangError

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

_Z = 1.959963984540054
_TAILS = (2.5, 97.5)
_LEAST = 50
"""Draws that an interval needs at least."""
_PATIENCE = 4
"""How many times as many draws are tried where some have no value."""


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion.

    Source: E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22 (1927).
    """
    share = successes / n
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    # At the ends the formula gives the share itself up to rounding, which may fall on its wrong side.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def mean(values: Array, seed: int = 0, resamples: int = 400) -> tuple[float, float]:
    """The percentile bootstrap of the mean of independent `values` (one a sample)."""
    import numpy

    generator = numpy.random.default_rng(seed)
    means = [float(values[generator.integers(len(values), size=len(values))].mean()) for _ in range(resamples)]
    low, high = numpy.percentile(means, _TAILS)
    return float(low), float(high)


def resampled(
    statistic: Callable[[Array], float | None], n: int, seed: int = 0, resamples: int = 300, seconds: float = 2.0,
) -> tuple[float, float]:
    """The percentile bootstrap of `statistic`(indices of samples), ended early (after 50 at least) after `seconds`.

    Draws on which it has no value (None: a recall without a single positive, say) are left out, and as many more are
    tried. Raises OptlangError where hardly any draw has one.
    """
    import numpy

    generator = numpy.random.default_rng(seed)
    start = time.monotonic()
    found: list[float] = []
    tried = 0
    while len(found) < resamples and tried < _PATIENCE * resamples:
        value = statistic(generator.integers(n, size=n))
        tried += 1
        if value is not None:
            found.append(value)
        if time.monotonic() - start > (seconds if len(found) >= _LEAST else _PATIENCE * seconds) and tried >= _LEAST:
            break
    if len(found) < min(_LEAST, resamples):
        raise OptlangError(
            f"it has a value on {len(found)} of {tried} draws of the {n} samples, too few for an interval",
            help="a metric must have a value on most samples of the validation data, drawn with replacement",
        )
    low, high = numpy.percentile(found, _TAILS)
    return float(low), float(high)


def quotient(
    above: Sequence[Sequence[float]], below: Sequence[Sequence[float]], seed: int = 0, resamples: int = 2000
) -> tuple[float, float, float]:
    """The median of `above` ÷ the median of `below`, over processes and rounds, with its 95 % interval.

    Both are `figures[process][round]` of equal shape, in pairs: what ran next to each other is drawn together, as in
    `rounds`, so what disturbs a pair widens neither end. The value is exactly the quotient of the values of `rounds`.
    """
    import numpy

    first, second = (numpy.asarray(figures, dtype=numpy.float64) for figures in (above, below))
    processes, count = first.shape
    generator = numpy.random.default_rng(seed)
    chosen = generator.integers(processes, size=(resamples, processes, 1))
    within = generator.integers(count, size=(resamples, processes, count))
    tops, bottoms = (
        numpy.median(table[chosen, within].reshape(resamples, -1), axis=1) for table in (first, second)
    )
    low, high = numpy.percentile(tops / bottoms, _TAILS)
    value = float(numpy.median(first)) / float(numpy.median(second))
    return value, min(float(low), value), max(float(high), value)


def rounds(figures: Sequence[Sequence[float]], seed: int = 0, resamples: int = 2000) -> tuple[float, float, float]:
    """The median over processes and rounds, with its 95 % interval: `figures[process][round]`, one a round.

    Processes are drawn with replacement, then rounds within each: calls of one round, and rounds of one process, have
    more in common than chance, so resampling single calls gives intervals that are far too narrow (it held the true
    median in a quarter of cases). Of one process nothing is known of how processes differ.
    """
    import numpy

    table = numpy.asarray(figures, dtype=numpy.float64)
    processes, count = table.shape
    generator = numpy.random.default_rng(seed)
    chosen = generator.integers(processes, size=(resamples, processes, 1))
    within = generator.integers(count, size=(resamples, processes, count))
    medians = numpy.median(table[chosen, within].reshape(resamples, -1), axis=1)
    low, high = numpy.percentile(medians, _TAILS)
    value = float(numpy.median(table))
    return value, min(float(low), value), max(float(high), value)
