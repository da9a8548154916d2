"""Captures a module by torch.export, and says which layers its nodes and weights come from.

What a phone runs is captured for one number of samples: memory is planned for it before the first call.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from optlang.interfaces import Refusal
from optlang.workload import failures, process_state
from optlang.workload.data.axes import OpenAxis
from optlang.workload.export import tracing
from optlang.workload.model import quantized_share
from optlang.workload.model.layers import left_alone
from optlang.workload.model.quantized_share import Weight

_LOGGERS = ("torchao", "torch.utils._pytree", "torch.__trace", "executorch")
REMARKS: tuple[process_state.Remark, ...] = (
    (r".*torch\.jit\..* is deprecated", DeprecationWarning),
    (r".*LeafSpec.* is deprecated", FutureWarning),
    # A recurrent layer keeps its weights in a list too, and export restores it.
    (r"The tensor attributes .* were assigned", UserWarning),
    # ExecuTorch, as soon as it is imported: coremltools does so too where it is installed.
    (r"This API is experimental",),
    (r"(read|open)_\w+ is deprecated", DeprecationWarning),
)
_ATEN = torch.ops.aten
CONVOLUTIONS = (
    _ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv3d.default, _ATEN.conv1d.padding, _ATEN.conv2d.padding,
    _ATEN.conv3d.padding, _ATEN.conv_transpose1d.default, _ATEN.conv_transpose2d.input, _ATEN.conv_transpose3d.input,
)
LINEAR = (_ATEN.linear.default,)
_PRODUCTS = (_ATEN.matmul.default, _ATEN.mm.default, _ATEN.bmm.default, _ATEN.addmm.default, _ATEN.einsum.default)
RECURRENT = (
    _ATEN.lstm.input, _ATEN.gru.input, _ATEN.rnn_tanh.input, _ATEN.rnn_relu.input, _ATEN.lstm_cell.default,
    _ATEN.gru_cell.default, _ATEN.rnn_tanh_cell.default, _ATEN.rnn_relu_cell.default,
)
_ATTENTION = (_ATEN.softmax.int, _ATEN.layer_norm.default, _ATEN.scaled_dot_product_attention.default)
_KINDS = {
    **dict.fromkeys(CONVOLUTIONS, "convolution"), **dict.fromkeys(LINEAR, "linear"),
    **dict.fromkeys(_PRODUCTS, "product"), **dict.fromkeys(RECURRENT, "recurrent"),
    _ATEN.embedding.default: "embedding table",
}


def quiet() -> AbstractContextManager[None]:
    """Without what torch.export, and the tools that go on from there, say of their own code and of other machines."""
    return process_state.quiet(_LOGGERS, REMARKS)


def program(
    module: nn.Module, example: Mapping[str, Tensor], what: str, *, fixed: bool = False, batch: Any = None,
    axes: Sequence[OpenAxis] = (), bounded: bool = False,
) -> Any:
    """The ExportedProgram of `module` for the samples of `example`; inputs in their order, a tuple of outputs.

    It takes from 1 to so many samples where forward allows it, just as many where it is `fixed`, and as many as the
    torch.export.Dim `batch` says. `axes` keep any size that forward allows, no larger than they say where `bounded`.
    Raises `Refusal`, which says that the model cannot be exported for `what`, and which axis its code fixes.
    """
    wrapped = tracing.Positional(module, tuple(example)).eval()
    return again(wrapped, example, what, fixed=fixed, batch=batch, axes=axes, bounded=bounded)


def again(
    wrapped: nn.Module, example: Mapping[str, Tensor], what: str, *, fixed: bool = False, batch: Any = None,
    axes: Sequence[OpenAxis] = (), bounded: bool = False,
) -> Any:
    """The same of a module that takes its inputs in order: what a quantizer has made of a program."""
    count = len(next(iter(example.values())))
    first = torch.export.Dim.AUTO(min=1, max=count) if count > 1 and not fixed else torch.export.Dim.STATIC
    first = first if batch is None else batch

    def exported(dims: Mapping[str, Any]) -> Any:
        shapes: Any = tuple(
            {0: first, **{axis: dims[item.name] for item in axes for place, axis in item.places if place == name}}
            for name in example
        )
        # *values are one argument of forward.
        shapes = (shapes,) if isinstance(wrapped, tracing.Positional) else shapes
        return torch.export.export(wrapped, tuple(example.values()), dynamic_shapes=shapes)

    with failures.refused(
        f"the model cannot be exported for {what}",
        help="forward must not choose by the values of its inputs; or use the runtime onnxruntime", depends="model",
    ):
        sizes = {item.name: {"min": 1, "max": item.high if bounded else None} for item in axes}
        try:
            return exported({name: torch.export.Dim(name, **size) for name, size in sizes.items()})
        except torch._dynamo.exc.UserError as error:
            refuse_fixed(axes, str(error), what)
            if not axes:
                raise
            # Sizes in steps, or of a least one: what forward allows is found, not asked for.
            found = exported({name: torch.export.Dim.AUTO(**size) for name, size in sizes.items()})
    _check_open(found, tuple(example), axes, what)
    return found


def refuse_fixed(axes: Sequence[OpenAxis], said: str, what: str) -> None:
    """Raise `Refusal` where what torch.export `said` is that the code makes the size of one of `axes` a constant."""
    for item in axes:
        if f"marked {item.name} as dynamic but your code specialized" in said:
            raise fixed_size(item, what)


def _check_open(program: Any, names: Sequence[str], axes: Sequence[OpenAxis], what: str) -> None:
    given = [item for item in program.graph_signature.user_inputs if isinstance(item, str)]
    shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder"}
    for item in axes:
        for name, axis in item.places:
            if isinstance(shapes[given[names.index(name)]][axis], int):
                raise fixed_size(item, what)


def fixed_size(item: OpenAxis, what: str) -> Refusal:
    """The refusal of a model whose code makes the size of an open axis a constant."""
    return Refusal(
        f"{what} would answer {item.text} of {item.usual} only: the size of that axis becomes a constant, as by "
        "int(x.shape[…]), by a Python loop over it, or by a recurrent layer, which torch.export unrolls",
        help="compute with tensors there; or use the runtime onnxruntime; or give all batches one size",
        depends="model",
    )


def layer_of(node: Any) -> str:
    """The module that a node comes from ("" for the model itself): "layer1.0.conv1"."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed([place for place, _ in stack.values()]), "")
    # Of a layer that is called again export counts the calls: "relu@1".
    parts = [part.partition("@")[0] for part in str(path).split(".")]
    return ".".join(parts[parts.index(tracing.INNER) + 1 :]) if tracing.INNER in parts else ""


def chosen_layer(layer: str, module: nn.Module, settings: Mapping[str, Any]) -> bool:
    """Whether `keep` and `only` of `settings` leave a layer open; nodes of no layer ("") go with `only`'s others.

    Raises OptlangError for a pattern that fits no layer.
    """
    keep, only = tuple(settings.get("keep", ())), tuple(settings.get("only", ()))
    if not keep and not only:
        return True
    alone = left_alone(keep, only, [name for name, _ in module.named_modules()])
    return layer not in alone and bool(layer or not only)


def is_transformer(graph: Any) -> bool:
    """Whether there is attention or a norm of tokens: sums, masks and norms in int8 cost tens of points there."""
    return any(node.target in _ATTENTION for node in graph.nodes)


def weights(graph_module: Any) -> list[Weight]:
    """The weights of a graph, each tensor once: what nodes multiply by or look up, in the graph's order, and then the
    other constants of floats with two axes or more."""
    found: dict[str, Weight] = {}
    others: dict[str, Weight] = {}
    for node in graph_module.graph.nodes:
        kind = _KINDS.get(node.target)
        for name, value, quantized in _constants(node) if node.op == "call_function" else ():
            if len(value.shape) < 2 or "quantize" in str(node.target):
                continue
            if kind is not None:
                small = quantized or value.dtype is torch.int8
                found.setdefault(name, Weight(layer_of(node), kind, math.prod(value.shape), small))
            elif value.is_floating_point():
                kind = f"constant {name.rpartition('.')[2]}"
                others.setdefault(name, Weight(layer_of(node), kind, math.prod(value.shape), False))
    return [*found.values(), *(item for name, item in others.items() if name not in found)]


def _constants(node: Any) -> Iterator[tuple[str, Any, bool]]:
    for item in node.all_input_nodes:
        source, quantized = item, False
        while source.op == "call_function" and "dequantize" in str(source.target) and source.args:
            source, quantized = source.args[0], True
        if source.op == "get_attr":
            value = node.graph.owning_module
            for part in str(source.target).split("."):
                value = getattr(value, part)
            yield str(source.target), value, quantized


def mostly(
    found: Sequence[Weight], module: nn.Module, settings: Mapping[str, Any], what: str, help: str,
    without: Collection[str] = (),
) -> dict[str, Any]:
    """What became of the weights `found`: `weights`, the share of those asked for that are quantized, `all`, that of
    all weights, and `float`, the layers that are not though nobody asked for it.

    Raises `Refusal` where nothing is, or too little (unless `only` names the layers), as `quantized_share.mostly` says;
    `what` is what the weights were to become, `without` are the kinds of layers that the runtime has no kernels for,
    with whatever other settings.
    """
    asked = [item for item in found if chosen_layer(item.layer, module, settings)]
    without = () if settings.get("keep") or settings.get("only") else without
    if not any(item.quantized for item in asked):
        kinds = ", ".join(sorted({item.kind for item in found})) or "none"
        raise Refusal(
            f"no layer is left to quantize; the model's kinds of layers with weights: {kinds}", help=help,
            depends=quantized_share.depends(asked, without),
        )
    done, left = quantized_share.mostly(asked, what, help, named=bool(settings.get("only")), without=without)
    return {"weights": done, "all": quantized_share.share(found), "float": left}
