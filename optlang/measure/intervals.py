"""95 % intervals: Wilson's for proportions, bootstraps for the rest.

scipy.stats has the intervals of independent samples. The other bootstraps are ours: scipy has none that draws processes
and then rounds within them, none that leaves out draws without a value, and none that ends after a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from optlang.interfaces import Array, OptlangError

_TAILS = (2.5, 97.5)
_LEAST = 50
"""Draws that an interval needs at least."""
_PATIENCE = 4
"""How many times as many draws are tried where some have no value."""
_AT_ONCE = 2**16
"""Values that are drawn at once, so that they fit in a core's cache."""


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion.

    Source: E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22 (1927).
    """
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(method="wilson")
    return float(low), float(high)


def mean(values: Array, seed: int = 0, resamples: int = 400) -> tuple[float, float]:
    """The percentile bootstrap of the mean of independent `values` (one a sample); of one value that value."""
    import numpy
    from scipy.stats import bootstrap

    if len(values) == 1:
        return float(values[0]), float(values[0])
    # BCa, scipy's default, leaves out each value once: 0.2 s of 10,000 values where percentiles take 0.01.
    batch = max(1, _AT_ONCE // len(values))
    found = bootstrap((values,), numpy.mean, n_resamples=resamples, batch=batch, method="percentile", rng=seed)
    low, high = found.confidence_interval
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
    (value, drawn), (other, others) = (_medians(figures, seed, resamples) for figures in (above, below))
    return _around(value / other, drawn / others)


def rounds(figures: Sequence[Sequence[float]], seed: int = 0, resamples: int = 2000) -> tuple[float, float, float]:
    """The median over processes and rounds, with its 95 % interval: `figures[process][round]`, one a round.

    Processes are drawn with replacement, then rounds within each: calls of one round, and rounds of one process, have
    more in common than chance, so resampling single calls gives intervals that are far too narrow (it held the true
    median in a quarter of cases). Of one process nothing is known of how processes differ.
    """
    return _around(*_medians(figures, seed, resamples))


def _medians(figures: Sequence[Sequence[float]], seed: int, resamples: int) -> tuple[float, Array]:
    """The median of all, and those of the resamples: figures of equal shape are drawn alike."""
    import numpy

    table = numpy.asarray(figures, dtype=numpy.float64)
    processes, count = table.shape
    generator = numpy.random.default_rng(seed)
    chosen = generator.integers(processes, size=(resamples, processes, 1))
    within = generator.integers(count, size=(resamples, processes, count))
    return float(numpy.median(table)), numpy.median(table[chosen, within].reshape(resamples, -1), axis=1)


def _around(value: float, drawn: Array) -> tuple[float, float, float]:
    import numpy

    low, high = numpy.percentile(drawn, _TAILS)
    return value, min(float(low), value), max(float(high), value)
