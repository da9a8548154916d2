"""INT8 for XNNPACK, by its own quantizer: observers where its kernels round, ranges from calibration data.

PT2E is torchao's way: a captured program is annotated, observed while it runs, and rewritten with the operators that
quantize and dequantize; XNNPACK then takes each layer with those around it as one kernel in integers (Jacob et al.,
CVPR 2018, is the scheme).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Request
from optlang.runtimes.shared import pt2e
from optlang.workload import process_state
from optlang.workload.export import torch_export

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from optlang.workload.data.dataset import Dataset

_LINEAR = "operators = all takes convolutions too"
_GROUPS = "static takes convolutions of groups and of one channel too, which XNNPACK has no dynamic ranges for"
_STATIC = "XNNPACK has int8 for convolutions and linear layers; name in `only` what is all that you want"


def quantized(
    program: Any, module: nn.Module, example: Mapping[str, Tensor], request: Request, data: Dataset,
    left: Collection[str] = (),
) -> tuple[torch.fx.GraphModule, dict[str, Any]]:
    """The graph of `program` in int8, and what became of its weights: their share in int8, layers that stay in float.

    Weights are symmetric, by output channel unless `granularity` is "tensor"; activations have a scale and zero point
    a tensor. In a Transformer products alone are quantized. Layers in `left` stay in float. `calibrator` "mse" is
    torch's HistogramObserver, which looks for the range with the least squared error. Raises `Refusal` where no layer
    is left or most weights stay in float.
    """
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer_utils

    settings: Mapping[str, Any] = request.settings
    dynamic = request.technique == "dynamic"
    graph_module = program.module()
    _keep_whole_numbers(graph_module)
    quantizer = _quantizer(graph_module, module, settings, dynamic, left)
    with process_state.attributes(xnnpack_quantizer_utils, is_relu_node=_clamps):
        converted, found = pt2e.quantized(graph_module, quantizer, module, request, example, data)
    way_out, without = _STATIC, ["recurrent"]
    if dynamic and any(item.kind == "convolution" and not item.quantized for item in found):
        way_out = _LINEAR if settings["operators"] == "linear" else _GROUPS
        without += ["convolution"] if way_out == _GROUPS else []
    return converted, torch_export.mostly(found, module, settings, "int8", way_out, without)


def _clamps(node: Any) -> bool:
    """Whether XNNPACK clamps to its bounds in the kernel before it: a ReLU, and a ReLU6 behind a layer with weights.

    Its quantizer knows the first alone, and rounds what is before the other in the range that has not been clamped.
    """
    from optlang.runtimes.executorch.operators import CLAMPS

    if node.op != "call_function":
        return False
    if node.target in CLAMPS:
        return node.args[0].target in (*torch_export.LINEAR, *torch_export.CONVOLUTIONS)
    return str(node.target) in ("aten.relu.default", "aten.relu_.default")


def _quantizer(
    graph_module: Any, module: nn.Module, settings: Mapping[str, Any], dynamic: bool, left: Collection[str]
) -> Any:
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer

    config = _config(settings, dynamic)
    quantizer = xnnpack_quantizer.XNNPACKQuantizer()
    if dynamic:
        # It leaves convolutions before a ReLU to a pattern that it has for static int8 alone; the kernel knows both.
        pattern = xnnpack_quantizer.QuantPattern("conv_relu", True, False, xnnpack_quantizer.CONV_TARGETS)
        quantizer.SUPPORTED_PATTERNS = [*quantizer.SUPPORTED_PATTERNS, pattern]
    products = list(torch_export.LINEAR)
    if not dynamic or _with_convolutions(graph_module, module, settings):
        products += torch_export.CONVOLUTIONS
    if dynamic or torch_export.is_transformer(graph_module.graph):
        for target in products:
            quantizer.set_operator_type(target, config)
    else:
        quantizer.set_global(config)

    def open_to(node: Any) -> bool:
        # It is asked about weights too, which are of no layer.
        if node.op != "call_function":
            return True
        layer = torch_export.layer_of(node)
        if layer in left or (dynamic and _grouped(node)):
            return False
        return torch_export.chosen_layer(layer, module, settings)

    quantizer.set_filter_function(open_to)
    return quantizer


def _keep_whole_numbers(graph_module: Any) -> None:
    """Make tensors of the numbers that are added to integers or multiplied with them (positions, indices).

    XNNPACK's quantizer makes tensors of all that are still numbers, of floats, and an index would become one.
    """
    import torch

    targets = (torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor)
    for count, node in enumerate(list(graph_module.graph.nodes)):
        value = node.meta.get("val")
        if node.target not in targets or value is None or value.dtype.is_floating_point:
            continue
        for place, item in enumerate(node.args):
            if isinstance(item, int):
                name = f"_whole_number_{count}_{place}"
                number = torch.tensor(item, dtype=value.dtype)
                graph_module.register_buffer(name, number)
                with graph_module.graph.inserting_before(node):
                    constant = graph_module.graph.get_attr(name)
                constant.meta["val"] = value.fake_mode.from_tensor(number, static_shapes=True)
                node.update_arg(place, constant)
    graph_module.recompile()


def _grouped(node: Any) -> bool:
    """Whether it is a convolution of groups, or of one channel, which XNNPACK takes for one."""
    if node.target not in torch_export.CONVOLUTIONS:
        return False
    groups = node.args[6] if len(node.args) > 6 else 1
    return groups != 1 or bool(node.args[1].meta["val"].shape[1] == 1)


def _with_convolutions(graph_module: Any, module: nn.Module, settings: Mapping[str, Any]) -> bool:
    """Whether dynamic takes convolutions: asked for, or (auto) where they hold more weights than linear layers."""
    if settings["operators"] != "auto":
        return bool(settings["operators"] == "all")
    held = {"convolution": 0, "linear": 0}
    for item in torch_export.weights(graph_module):
        if item.kind in held and torch_export.chosen_layer(item.layer, module, settings):
            held[item.kind] += item.elements
    return held["convolution"] > held["linear"]


def _config(settings: Mapping[str, Any], dynamic: bool) -> Any:
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import get_symmetric_quantization_config

    per_channel = settings.get("granularity", "auto") != "tensor"
    config = get_symmetric_quantization_config(is_per_channel=per_channel, is_dynamic=dynamic)
    if dynamic:
        return config
    return pt2e.static(config, settings, torch.int8, -128, 127)
