"""Which floating-point types a model's weights have, and the refusal of those that integers are not made from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, OptlangError, Refusal
from optlang.workload.model import quantized_share

if TYPE_CHECKING:
    from torch import nn

Types = Mapping[str, list[str]]
"""The names of layers (or of an ONNX graph's weights) by the type of their weights: "float16"."""

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_SHOWN = 4
# How torch says that two tensors are of different types.
_MISMATCH = re.compile(r"dtype|\b(Double|Half|BFloat16)|type torch\.|scalar type", re.IGNORECASE)
# ... and that one is float64, the other float32.
_DOUBLE = re.compile(r"(?=.*\b(double|float64)\b).*\b(float|float32)\b", re.IGNORECASE | re.DOTALL)


def module_types(module: nn.Module) -> Types:
    """The types of the module's parameters with two axes or more, with the layers that have them."""
    found: list[tuple[str, str]] = []
    for name, layer in module.named_modules():
        for own, item in layer.named_parameters(recurse=False):
            if item.ndim > 1:
                found.append((str(item.dtype).removeprefix("torch."), name or own))
    return _by_type(found)


def stored(module: nn.Module) -> JSON:
    """The shares of the module's weights in 8 bits or fewer and in 16, as an artifact's `about["stored"]` has them.

    Weights are parameters with two axes or more, each once.
    """
    found = [item for item in module.parameters() if item.ndim > 1]
    total = sum(item.numel() for item in found)
    shares = [sum(item.numel() for item in found if item.element_size() == size) / (total or 1) for size in (1, 2)]
    return quantized_share.stored(*shares)


def types_of(graph: Any) -> Types:
    """The types of an ONNX graph's constants with two axes or more, with their names."""
    from onnx import TensorProto

    names = {
        TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16", TensorProto.FLOAT: "float32",
        TensorProto.DOUBLE: "float64",
    }
    return _by_type(
        (names[item.data_type], item.name.removesuffix(".weight")) for item in graph.initializer
        if len(item.dims) > 1 and item.data_type in names
    )


def _by_type(found: Iterable[tuple[str, str]]) -> Types:
    types: dict[str, list[str]] = {}
    for kind, name in found:
        if kind in _FLOATS and name not in types.setdefault(kind, []):
            types[kind].append(name)
    return types


def refuse_others(types: Types) -> None:
    """Raise `Refusal` where some weights are not in float32, which integers are made from."""
    others = {kind: names for kind, names in types.items() if kind != "float32"}
    if not others:
        return
    if len(types) == 1:
        ((kind, _),) = others.items()
        said = f"the model's weights are in {kind}"
    else:
        said = " and ".join(
            f"the weights of {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''} are in {kind}"
            for kind, names in others.items()
        )
    raise Refusal(
        f"{said}, and int8 is made from weights in float32",
        help="return the model in float32 (`model.float()`, and no `.half()` or `.double()` in its forward)",
        # Without the layers of another type the rest may be in float32.
        depends="model" if len(types) == 1 else "settings",
    )


def refuse_inputs(module: nn.Module, error: OptlangError) -> None:
    """Raise OptlangError where `error`, which a call of `module` raised, comes from weights that are not in float32, or
    from a forward that makes numbers in float64 for weights in float32."""
    kinds = [kind for kind in module_types(module) if kind != "float32"]
    if not kinds and _MISMATCH.search(error.message) and _DOUBLE.search(error.message):
        raise OptlangError(
            "the model's weights are in float32 (a model all in float64 is converted), and its forward makes numbers "
            f"in float64: {error.message}",
            help="convert in its forward to the type of the weights (`.to(layer.weight.dtype)`), not to float64",
            details=error.details,
        ) from error
    if kinds and _MISMATCH.search(error.message):
        raise OptlangError(
            f"the model's weights are in {' and '.join(kinds)}, and its inputs are float32 (data in float64 are "
            f"converted): {error.message}",
            help="return the model in float32 (`model.float()`), or convert the inputs in its forward",
            details=error.details,
        ) from error
