"""The range of a tensor that loses least to rounding and clipping, in squared error.

Source: Choukroun et al., Low-bit Quantization of Neural Networks for Efficient Inference, ICCV Workshops 2019; the
criterion of TensorRT's and torchao's MSE calibration.
"""

from __future__ import annotations

from typing import Any

import numpy
from onnxruntime.quantization.calibrate import HistogramCollector, entropy, smooth_distribution

_LEVELS = 255
# Shares of an end that are tried, and how often the ends take turns.
_SHARES = numpy.linspace(0.2, 1.0, 81)
_TURNS = 2


def squared_error(counts: Any, centers: Any, low: float, high: float) -> float:
    """What 8-bit integers over `low` to `high` lose of values at `centers`, each `counts` times, in all."""
    step = (high - low) / _LEVELS
    if step <= 0:
        return float((counts * centers**2).sum())
    zero = round(-low / step)
    levels = numpy.clip(numpy.rint(centers / step) + zero, 0, _LEVELS)
    return float((counts * (centers - (levels - zero) * step) ** 2).sum())


class Collector(HistogramCollector):  # type: ignore[misc]
    """ONNX Runtime's collector of histograms, of batches that may differ in shape."""

    def collect(self, name_to_arr: Any) -> Any:
        """Collect the values of each tensor, which come as an array a batch."""
        flat = {name: numpy.concatenate([item.flatten() for item in arrays]) for name, arrays in name_to_arr.items()}
        return super().collect(flat)


class SquaredErrorCollector(Collector):
    """ONNX Runtime's collector of histograms; the range it gives is the one of least squared error."""

    def get_entropy_threshold(self, histogram: Any, num_quantized_bins: int) -> tuple[Any, Any]:
        """The range, found end by end in shares of the whole one; as the method it overrides, for its criterion."""
        counts, edges, least, most = histogram[:4]
        occupied = counts > 0
        centers = ((edges[:-1] + edges[1:]) / 2)[occupied].astype(numpy.float64)
        held = counts[occupied].astype(numpy.float64)
        low, high = min(float(least), 0.0), max(float(most), 0.0)
        if self.symmetric:
            reach = max(-low, high)
            best = min(_SHARES[::-1], key=lambda share: squared_error(held, centers, -share * reach, share * reach))
            low, high = -float(best) * reach, float(best) * reach
        else:
            ends = (low, high)
            for _ in range(_TURNS):
                high = min(ends[1] * _SHARES[::-1], key=lambda end: squared_error(held, centers, low, end))
                low = min(ends[0] * _SHARES[::-1], key=lambda end: squared_error(held, centers, end, high))
        return edges.dtype.type(low), edges.dtype.type(high)


class EntropyCollector(Collector):
    """ONNX Runtime's collector with `get_entropy_threshold` done in whole arrays."""

    def get_entropy_threshold(self, histogram: Any, num_quantized_bins: int) -> tuple[Any, Any]:
        """The range whose 128 levels lose least of the distribution (Kullback-Leibler); as the method it overrides."""
        counts, edges, least, most = histogram[:4]
        middle, half = counts.size // 2, num_quantized_bins // 2
        below = numpy.concatenate(([0], numpy.cumsum(counts)))
        best, low, high = numpy.inf, edges[middle - half], edges[min(middle + half + 1, counts.size)]
        for reach in range(half, middle + 1):
            start, end = middle - reach, min(middle + reach + 1, counts.size)
            divergence = self._divergence(counts[start:end], below[start], below[-1] - below[end], num_quantized_bins)
            if divergence < best:
                best, low, high = divergence, edges[start], edges[end]
        return max(low, least), min(high, most)

    def _divergence(self, inside: Any, left: Any, right: Any, levels: int) -> float:
        """What is lost when the bins `inside` become `levels`, with `left` and `right` counts outside clipped."""
        reference = inside.copy()
        reference[0] += left
        reference[-1] += right
        wide = inside.size // levels
        whole = wide * levels
        merged = inside[:whole].reshape(levels, wide).sum(axis=1)
        merged[-1] += inside[whole:].sum()
        occupied = (reference[:whole] != 0).reshape(levels, wide).sum(axis=1)
        # Counts stay whole numbers, as in the original.
        each = numpy.divide(merged, occupied, out=numpy.zeros(levels), where=occupied != 0).astype(numpy.int64)
        candidate = numpy.zeros(inside.size, dtype=numpy.int64)
        candidate[:whole] = numpy.repeat(each, wide)
        p, q = smooth_distribution(reference), smooth_distribution(candidate)
        return float("inf") if p is None or q is None else float(entropy(p, q))
