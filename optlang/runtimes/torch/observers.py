"""What eager's int8 computes the range of a tensor with: torch's observers, and ONNX Runtime's histograms."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from optlang.runtimes.shared.processor import overflows
from optlang.workload import process_state

_LEVELS, _BINS = 128, 2048
_TENSOR = "tensor"


def observer(settings: Mapping[str, Any]) -> Any:
    """A callable that looks at tensors, whose `calculate_qparams()` is their scale and zero point in unsigned 8 bits.

    `settings` are `calibrator`, and with it `bins` or `percentile`. The criteria of "entropy" and "percentile" are ONNX
    Runtime's; torch has no observers for them.
    """
    from torch.ao.quantization import observer as torchs

    common: dict[str, Any] = {
        "dtype": torch.quint8, "qscheme": torch.per_tensor_affine, "reduce_range": overflows(), "eps": 2**-12,
    }
    if settings["calibrator"] == "mse":
        return torchs.HistogramObserver(bins=int(settings["bins"]), **common)
    if settings["calibrator"] == "minmax":
        return torchs.MinMaxObserver(**common)
    return _Histogram(settings, torchs.MinMaxObserver(**common))


class _Histogram:
    """ONNX Runtime's collector of histograms; its range is passed to one of torch's observers."""

    def __init__(self, settings: Mapping[str, Any], within: Any) -> None:
        from onnxruntime.quantization.calibrate import HistogramCollector

        bins, percentile = int(settings.get("bins", _BINS)), float(settings.get("percentile", 100.0))
        self._collector = HistogramCollector(settings["calibrator"], False, bins, _LEVELS, percentile, "same")
        self._within = within

    def __call__(self, values: Tensor) -> None:
        with self._silent():
            self._collector.collect({_TENSOR: [values.detach().flatten().numpy()]})

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        with self._silent():
            low, high = self._collector.compute_collection_result()[_TENSOR][:2]
        self._within(torch.tensor([float(low), float(high)]))
        found: tuple[Tensor, Tensor] = self._within.calculate_qparams()
        return found

    def _silent(self) -> AbstractContextManager[None]:
        """The collector prints what it does."""
        from onnxruntime.quantization import calibrate

        return process_state.attributes(calibrate, print=lambda *_: None)
