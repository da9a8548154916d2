"""The range of a tensor that loses least to rounding and clipping, in squared error. It knows histograms, not models.

Source: Choukroun et al., Low-bit Quantization of Neural Networks for Efficient Inference, ICCV Workshops 2019; the
criterion of TensorRT's and torchao's MSE calibration.
"""

from __future__ import annotations

from typing import Any

import numpy
from onnxruntime.quantization.calibrate import HistogramCollector

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


class SquaredErrorCollector(HistogramCollector):  # type: ignore[misc]
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
