"""INT8 for torch.compile on x86, by torchao's quantizer for Inductor: which layers, which ranges.

PT2E is torchao's way: a captured program is annotated, observed while it runs on calibration data, and rewritten with
operators that quantize and dequantize. Inductor finds those around a layer, where weights may be taken for constants
("freezing"), and calls oneDNN's integer kernels instead. The scheme is that of Jacob et al. (CVPR 2018): uint8
activations with a scale and zero point a tensor, symmetric int8 weights with a scale for each output channel.
"""

from __future__ import annotations

import importlib.util
import math
import operator
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from optlang.interfaces import OptlangError, Refusal, Request
from optlang.runtimes.shared import pt2e
from optlang.runtimes.shared.processor import overflows
from optlang.workload.export import torch_export

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from optlang.workload.data.dataset import Dataset

QUANTIZER = "torchao.quantization.pt2e.quantizer.x86_inductor_quantizer"
"""Importing it tells Inductor the patterns that become integer kernels: what compiles such a program needs it."""
_KERNELS = ("qconv_weight_prepack_matcher_count", "qlinear_weight_prepack_matcher_count")
_WAY_OUT = (
    "Inductor has int8 for convolutions of images and rows and for linear layers whose weight is used once, but for no "
    "product of a single row with 16 inputs and outputs or fewer; name in `only` what is all that you want"
)
_LINEAR = "Inductor quantizes linear layers alone as values come; static takes convolutions too"


def refuse_unknown(requests: tuple[Request, ...]) -> None:
    """`Refusal` for what the quantizer or Inductor's kernels have not; OptlangError where torchao is not installed."""
    pt2e.refuse_unknown("inductor", requests)
    for request in requests:
        settings = request.settings
        if settings.get("granularity", "auto") == "tensor":
            raise Refusal(
                "Inductor's int8 kernels take weights with a scale for each output channel: granularity = tensor "
                "would run in float", help="set granularity = channel"
            )
        if settings.get("operators") == "all":
            raise Refusal("Inductor has no int8 kernels for convolutions with dynamic ranges", help=_LINEAR)
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise Refusal(f"Inductor's int8 is for x86 processors, and this is {platform.machine()}")
    if importlib.util.find_spec("torchao") is None:
        raise OptlangError("int8 on inductor needs torchao", help='pip install "optlang-dsl[inductor]"')


def quantized(
    program: Any, module: nn.Module, example: Mapping[str, Tensor], request: Request, data: Dataset
) -> tuple[torch.fx.GraphModule, dict[str, Any]]:
    """The graph of `program` in int8, and what became of its weights: their share in int8, the layers that stay in
    float, and `kernels`, the number of products in integers that must come of it when it is compiled.

    In a Transformer products alone are quantized; elsewhere pooling and concatenation between them are too.
    `calibrator` "mse" is torch's HistogramObserver, which looks for the range with the least squared error. Activations
    lose a bit on processors without VNNI, whose kernels would overflow. Layers that share a weight, or are called more
    than once, stay in float, as do those that Inductor computes without a kernel. Raises `Refusal` where no layer is
    left, or most weights stay in float.
    """
    settings: Mapping[str, Any] = request.settings
    dynamic = request.technique == "dynamic"
    graph_module = program.module(check_guards=False)
    converted, found = pt2e.quantized(
        graph_module, _quantizer(module, settings, dynamic), module, request, example, data, shared=True
    )
    left = dynamic and any(item.kind == "convolution" and not item.quantized for item in found)
    about = torch_export.mostly(
        found, module, settings, "int8", _LINEAR if left else _WAY_OUT,
        ("convolution", "recurrent") if dynamic else ("recurrent",),
    )
    _drop_unused(converted)
    return converted, about | {"kernels": _products(converted)}


def kernels() -> int:
    """How many products in integers Inductor has made in this process."""
    from torch._dynamo.utils import counters

    return sum(int(counters["inductor"][name]) for name in _KERNELS)


def _quantizer(module: nn.Module, settings: Mapping[str, Any], dynamic: bool) -> Any:
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    class Chosen(x86.X86InductorQuantizer):  # type: ignore[misc]
        """torchao's quantizer, which leaves alone what is not chosen: it takes names of modules by their prefixes."""

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            takes, closed = _taken(model.graph, dynamic), _sharing(model) | _decomposed(model)
            for node in model.graph.nodes:
                if node.target not in x86.quantizable_ops:
                    continue
                layer = torch_export.layer_of(node)
                open_to = node.target in takes and node not in closed
                if not (open_to and torch_export.chosen_layer(layer, module, settings)):
                    node.meta[x86.QUANT_ANNOTATION_KEY] = x86._X86InductorQuantizationAnnotation(_annotated=True)
            with _own_sources(model.graph):
                super().annotate(model)
            return model

    return Chosen().set_global(_config(settings, dynamic))


def _taken(graph: Any, dynamic: bool) -> set[Any]:
    """The operators that become int8: of those that torchao would take by itself, not the products of two activations,
    for which Inductor has no integer kernel."""
    import torch
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    if dynamic:
        return set(torch_export.LINEAR)
    products = {*torch_export.LINEAR, *torch_export.CONVOLUTIONS}
    return products if torch_export.is_transformer(graph) else x86.default_quantizable_ops - {torch.ops.aten.mul.Tensor}


def _sharing(graph_module: Any) -> set[Any]:
    """The products by a weight that another one takes too: Inductor's pattern of a layer in int8 is the weight's only
    user, and what does not fit it would turn integers into floats in each call."""
    products = {*torch_export.LINEAR, *torch_export.CONVOLUTIONS}
    users: dict[Any, list[Any]] = {}
    for node in graph_module.graph.nodes:
        if node.target in products and node.args[1].op == "get_attr":
            weight = operator.attrgetter(str(node.args[1].target))(graph_module)
            users.setdefault((weight.data_ptr(), weight.shape), []).append(node)
    return {node for nodes in users.values() if len(nodes) > 1 for node in nodes}


def _decomposed(graph_module: Any) -> set[Any]:
    """The linear layers that Inductor turns into a multiplication and a sum, as of one row and few weights.

    What would be left of their integers is turned into floats in each call. Inductor itself is asked, for one sample
    where any number of them is open, since it makes a program of one.
    """
    import torch
    from torch._inductor.decomposition import select_decomp_table

    aten, table, found = torch.ops.aten, select_decomp_table(), set()
    for node in graph_module.graph.nodes:
        given = node.args[0].meta.get("val") if node.target in torch_export.LINEAR else None
        if given is None or node.args[1].op != "get_attr":
            continue
        rows = _rows(graph_module.graph, given)
        outputs, inputs = operator.attrgetter(str(node.args[1].target))(graph_module).shape
        with given.fake_mode:
            product = torch.empty(rows, inputs), torch.empty(inputs, outputs)
            if len(node.args) > 2 and node.args[2] is not None:
                made = table[aten.addmm.default](torch.empty(outputs), *product)
            else:
                made = table[aten.mm.default](*product)
        if made is not NotImplemented:
            found.add(node)
    return found


def _rows(graph: Any, given: Tensor) -> int:
    """How many rows a linear layer takes of `given` for the least number of samples; 2 where that is open."""
    rows: Any = math.prod(given.shape[:-1])
    if isinstance(rows, int):
        return rows
    batch = next(iter(graph.find_nodes(op="placeholder"))).meta["val"].shape[0]
    left = rows.node.expr.subs(batch.node.expr, 1) if not isinstance(batch, int) else rows.node.expr
    return int(left) if left.is_Integer else 2


@contextmanager
def _own_sources(graph: Any) -> Iterator[None]:
    """Each node as the only one of its source, while the quantizer looks for layers and the activations behind them.

    It puts together nodes that one module or function gave, and then knows no module that is called twice, and no
    activation that is called as a function.
    """
    import torch
    from torch import nn

    aten = torch.ops.aten
    kinds = {
        aten.conv1d.default: nn.Conv1d, aten.conv2d.default: nn.Conv2d, aten.linear.default: nn.Linear,
        aten.relu.default: nn.ReLU, aten.relu_.default: nn.ReLU, aten.hardtanh.default: nn.Hardtanh,
        aten.hardtanh_.default: nn.Hardtanh, aten.relu6.default: nn.ReLU6, aten.hardswish.default: nn.Hardswish,
        aten.hardswish_.default: nn.Hardswish, aten.silu.default: nn.SiLU, aten.silu_.default: nn.SiLU,
        aten.gelu.default: nn.GELU, aten.leaky_relu.default: nn.LeakyReLU, aten.tanh.default: nn.Tanh,
        aten.add.Tensor: operator.add, aten.add_.Tensor: operator.add, aten.batch_norm.default: nn.BatchNorm2d,
    }
    before = {node: node.meta.get("source_fn_stack") for node in graph.nodes}
    for node in before:
        if node.op == "call_function":
            node.meta["source_fn_stack"] = [(node.name, kinds.get(node.target, node.target))]
    try:
        yield
    finally:
        for node, stack in before.items():
            node.meta.pop("source_fn_stack", None)
            if stack is not None:
                node.meta["source_fn_stack"] = stack


def _config(settings: Mapping[str, Any], dynamic: bool) -> Any:
    import torch
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import get_default_x86_inductor_quantization_config

    config = get_default_x86_inductor_quantization_config(is_dynamic=dynamic, reduce_range=overflows())
    if dynamic:
        return config
    return pt2e.static(config, settings, torch.uint8, 0, 127 if overflows() else 255)


def _drop_unused(graph_module: Any) -> None:
    """Without the float weights that integers stand for now, which would be saved with the graph."""
    graph_module.graph.eliminate_dead_code()
    used = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*graph_module.named_parameters(), *graph_module.named_buffers())]:
        if name not in used:
            owner, _, last = name.rpartition(".")
            delattr(graph_module.get_submodule(owner), last)


def _products(graph_module: Any) -> int:
    """The layers' calls whose weights are integers."""
    products = {*torch_export.LINEAR, *torch_export.CONVOLUTIONS}
    return sum(
        node.target in products and "dequantize" in str(node.args[1].target) for node in graph_module.graph.nodes
    )
