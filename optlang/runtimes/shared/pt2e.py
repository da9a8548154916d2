"""What the runtimes that quantize by torchao's PT2E have in common: how ranges of activations are observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from optlang.workload.data.dataset import Dataset

_SEED = 0
"""Which calibration samples are drawn: the same ones in every trial, since a runtime has no seed of its own."""


def static(config: Any, settings: Mapping[str, Any], dtype: Any, low: int, high: int) -> Any:
    """A quantizer's own `config` with the calibrator of `static` for activations, integers of `dtype` by tensor."""
    import torch
    from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver
    from torchao.quantization.pt2e.quantizer import QuantizationConfig, QuantizationSpec

    # Their own configurations have one observer and no choice of bins.
    if settings["calibrator"] == "mse":
        observer = HistogramObserver.with_args(bins=int(settings["bins"]), eps=2**-12)
    else:
        observer = MinMaxObserver.with_args(eps=2**-12)
    activations = QuantizationSpec(
        dtype=dtype, quant_min=low, quant_max=high, qscheme=torch.per_tensor_affine, is_dynamic=False,
        observer_or_fake_quant_ctr=observer,
    )
    return QuantizationConfig(activations, activations, config.weight, config.bias, False)


def calibrate(prepared: Any, example: Mapping[str, Tensor], data: Dataset, samples: int) -> None:
    """Run the samples through, as many at once as the program takes; the last ones are filled up by themselves."""
    import torch

    arrays = data.calibration(samples, _SEED)
    size = len(next(iter(example.values())))
    total = len(next(iter(arrays.values())))
    with torch.no_grad():
        for start in range(0, total, size):
            places = [min(place, total - 1) for place in range(start, start + size)]
            prepared(*(torch.from_numpy(arrays[name][places]) for name in example))
