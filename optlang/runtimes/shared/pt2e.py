"""What the runtimes that quantize by torchao's PT2E share: what it cannot do, and how ranges are observed."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Array, Refusal, Request
from optlang.runtimes.shared.torch_module import refuse_techniques

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.workload.data.dataset import Dataset
    from optlang.workload.model.quantized_share import Weight

_LEVELS, _LEAST = 127, 2.0**-40
# Half a step, and what the division rounds.
_ROUNDED = 0.501
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
    graph_module: Any, quantizer: Any, module: nn.Module, request: Request, example: Mapping[str, Tensor],
    data: Dataset, *, shared: bool = False,
) -> tuple[Any, list[Weight]]:
    """The graph of `module`, annotated by `quantizer`, calibrated and converted, its embedding tables in int8, and what
    became of its weights. `shared`: a table that is a layer's weight too is read from that layer's integers."""
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
    _tables_in_integers(converted, module, request.settings, shared)
    return converted, torch_export.weights(converted)


def _tables_in_integers(graph_module: Any, module: nn.Module, settings: Mapping[str, Any], shared: bool) -> None:
    """Store embedding tables as int8 with a scale for each row: rows are gathered in integers, and become floats then.

    torchao's quantizers leave them alone. Plain operators do it, which every backend has, and compilers fuse.
    """
    import torch

    from optlang.workload.export import torch_export

    aten, graph = torch.ops.aten, graph_module.graph
    made: dict[str, tuple[str, str]] = {}
    for node in list(graph.nodes):
        table, indices = node.args[:2] if node.target is aten.embedding.default else (None, None)
        if table is None or table.op != "get_attr":
            continue
        if not torch_export.chosen_layer(torch_export.layer_of(node), module, settings):
            continue
        name = str(table.target)
        if name not in made:
            weight = operator.attrgetter(name)(graph_module).detach()
            if weight.dtype is not torch.float32:
                continue
            made[name] = (_layers_integers(graph_module, weight) if shared else None) or (
                _own_integers(graph_module, weight, f"_table_{len(made)}")
            )
        with graph.inserting_before(node):
            rows = graph.call_function(aten.embedding.default, (graph.get_attr(made[name][0]), indices))
            rows.meta = {key: value for key, value in node.meta.items() if key != "val"}
            floats = graph.call_function(aten.to.dtype, (rows, torch.float32))
            scale = graph.call_function(aten.index.Tensor, (graph.get_attr(made[name][1]), [indices]))
            if operator.attrgetter(made[name][1])(graph_module).dtype is not torch.float32:
                scale = graph.call_function(aten.to.dtype, (scale, torch.float32))
            scale = graph.call_function(aten.unsqueeze.default, (scale, -1))
            answer = graph.call_function(aten.mul.Tensor, (floats, scale))
        node.replace_all_uses_with(answer)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    graph_module.recompile()


def _own_integers(graph_module: Any, table: Tensor, name: str) -> tuple[str, str]:
    """The names of new constants: the integers of a table, and a scale for each row."""
    import torch

    scales = (table.abs().amax(dim=1) / _LEVELS).clamp_min(_LEAST)
    integers = (table / scales[:, None]).round().clamp(-_LEVELS, _LEVELS).to(torch.int8)
    graph_module.register_buffer(name, integers)
    graph_module.register_buffer(f"{name}_scales", scales)
    return name, f"{name}_scales"


def _layers_integers(graph_module: Any, table: Tensor) -> tuple[str, str] | None:
    """The names of the integers and scales that a layer has of the same numbers, by row; None where none has them.

    They are known by their values: the graph no longer has the float weight of a layer in int8.
    """
    import torch

    of_rows = torch.ops.quantized_decomposed.dequantize_per_channel.default
    for node in graph_module.graph.nodes:
        if node.target is not of_rows or node.args[3] != 0 or any(item.op != "get_attr" for item in node.args[:3]):
            continue
        names = [str(item.target) for item in node.args[:3]]
        integers, scales, zeros = (operator.attrgetter(name)(graph_module) for name in names)
        if integers.shape == table.shape and not zeros.any():
            steps = scales[:, None].float()
            if bool(((integers * steps - table).abs() <= _ROUNDED * steps).all()):
                return names[0], names[1]
    return None


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
