"""What the runtimes that quantize by torchao's PT2E share: what it cannot do, and how ranges are observed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Array, Refusal, Request
from optlang.runtimes.shared.torch_module import refuse_techniques

if TYPE_CHECKING:
    from torch import Tensor

    from optlang.workload.data.dataset import Dataset
    from optlang.workload.model.quantized_share import Weight

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


def refuse_unknown(runtime: str, requests: Sequence[Request]) -> None:
    """`Refusal` for other techniques than static and dynamic, and for settings that torchao's quantizers have not."""
    refuse_techniques(runtime, requests, ("static", "dynamic"))
    for request in requests:
        settings = request.settings
        if settings.get("calibrator", "minmax") not in ("minmax", "mse"):
            raise Refusal(
                f"torchao has no observer for calibrator = {settings['calibrator']}",
                help="set calibrator = minmax or mse",
            )
        if settings.get("bias_correction"):
            raise Refusal("torchao's quantizers do not correct biases: set bias_correction = false")


def quantized(
    graph_module: Any, quantizer: Any, request: Request, example: Mapping[str, Tensor], data: Dataset
) -> tuple[Any, list[Weight]]:
    """The graph, annotated by `quantizer`, calibrated and converted, and what became of its weights."""
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from optlang.workload.export import torch_export

    prepared = prepare_pt2e(graph_module, quantizer)
    # Dynamic ranges need no samples, but each program one call.
    samples: Any = request.settings.get("samples", 1)
    with torch.no_grad():
        for arrays in calibration(example, data, int(samples)):
            prepared(*(torch.from_numpy(item) for item in arrays))
    converted = convert_pt2e(prepared)
    return converted, torch_export.weights(converted)


def calibration(example: Mapping[str, Tensor], data: Dataset, samples: int) -> Iterator[list[Array]]:
    """The inputs of calls of as many samples as `example` has, in its order; the last call is filled up with the last
    sample. Where samples differ in shape a call has those of one."""
    from optlang.workload.data import ragged

    size = len(next(iter(example.values())))
    for places, arrays in ragged.groups(data.calibration(samples, _SEED)):
        total = len(places)
        for start in range(0, total, size):
            rows = [min(row, total - 1) for row in range(start, start + size)]
            yield [arrays[name][rows] for name in example]
