"""The ranges of what a module's layers take, observed in its own calls: no graph is captured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context
from optlang.techniques.quant.calibrators import Collector, EntropyCollector, SquaredErrorCollector
from optlang.workload.data import ragged
from optlang.workload.devices import placed
from optlang.workload.model.call import call, in_mode

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.techniques.quant.rounded_training import Range
    from optlang.workload.data.dataset import Dataset

_BATCH = 32
# ONNX Runtime's own numbers, where the settings have none.
_BINS, _LEVELS, _PERCENTILE = 2048, 128, 100.0
_TENSOR = "tensor"


class _LeastAndMost:
    """The least and the greatest value."""

    def __init__(self) -> None:
        self.range = (0.0, 0.0)

    def add(self, values: Tensor) -> None:
        least, most = values.aminmax()
        self.range = min(self.range[0], float(least)), max(self.range[1], float(most))


class _Histogram:
    """The range that a calibrator computes from a histogram of all values."""

    def __init__(self, settings: Mapping[str, Any], symmetric: bool) -> None:
        kinds = {"mse": SquaredErrorCollector, "entropy": EntropyCollector, "percentile": Collector}
        kind = settings["calibrator"]
        self._collector = kinds[kind](
            "percentile" if kind == "percentile" else "entropy", symmetric, int(settings.get("bins") or _BINS), _LEVELS,
            float(settings.get("percentile") or _PERCENTILE), "same",
        )

    def add(self, values: Tensor) -> None:
        self._collector.collect({_TENSOR: [values.flatten().cpu().numpy()]})

    @property
    def range(self) -> Range:
        low, high = self._collector.compute_collection_result()[_TENSOR][:2]
        return float(low), float(high)


def layer_ranges(
    module: nn.Module, layers: Collection[str], data: Dataset, settings: Mapping[str, Any], context: Context
) -> dict[str, Range | None]:
    """The `layers` that compute with a weight and were called, with the range of what they take, by `calibrator`.

    Those are convolutions, linear layers and attention, called with a tensor of floats by position; `samples` of the
    calibration data are called. The module is left as it was.
    """
    import torch
    from torch import nn

    from optlang.workload.export import tracing

    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention)
    symmetric = context.wants is not None and context.wants.symmetric_activations
    seen: dict[str, _LeastAndMost | _Histogram] = {}

    def watch(name: str) -> Callable[..., None]:
        def look(layer: nn.Module, given: tuple[Any, ...]) -> None:
            if given and isinstance(given[0], torch.Tensor) and given[0].is_floating_point() and given[0].numel():
                minmax = settings["calibrator"] == "minmax" or isinstance(layer, nn.MultiheadAttention)
                new = _LeastAndMost() if minmax else _Histogram(settings, symmetric)
                seen.setdefault(name, new).add(given[0].detach())

        return look

    found = [(name, layer) for name, layer in module.named_modules() if name in layers and isinstance(layer, kinds)]
    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in found]
    try:
        with in_mode(module, False), tracing.plain_attention(), torch.no_grad(), placed(module, context.device):
            for places, arrays in ragged.groups(data.calibration(int(settings["samples"]), context.seed)):
                for start in range(0, len(places), _BATCH):
                    rows = {name: item[start : start + _BATCH] for name, item in arrays.items()}
                    call(module, {name: torch.from_numpy(item).to(context.device) for name, item in rows.items()})
    finally:
        for hook in hooks:
            hook.remove()
    # In the module's own order; what attention takes is rounded where its projections are.
    return {
        name: None if isinstance(layer, nn.MultiheadAttention) else seen[name].range
        for name, layer in found if name in seen
    }
