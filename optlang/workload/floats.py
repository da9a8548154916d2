"""Which floating-point types a model's weights have, and the refusal of those that integers are not made from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from optlang.forms import OptlangError, Refusal

if TYPE_CHECKING:
    from torch import nn

Types = Mapping[str, list[str]]
"""The names of layers (or of an ONNX graph's weights) by the type of their weights: "float16"."""

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_SHOWN = 4
# How torch says that two tensors are of different types.
_MISMATCH = re.compile(r"dtype|\b(Double|Half|BFloat16)|type torch\.|scalar type", re.IGNORECASE)


def module_types(module: nn.Module) -> Types:
    """The types of the module's parameters with two axes or more, with the layers that have them."""
    found: list[tuple[str, str]] = []
    for name, layer in module.named_modules():
        for own, item in layer.named_parameters(recurse=False):
            if item.ndim > 1:
                found.append((str(item.dtype).removeprefix("torch."), name or own))
    return _by_type(found)


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


def refuse_others(types: Types, what: str = "int8") -> None:
    """Raise `Refusal` where some weights are not in float32: `what` is what was to be made of them."""
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
        f"{said}, and {what} is made from weights in float32",
        help="return the model in float32 (`model.float()`, and no `.half()` or `.double()` in its forward)",
    )


def refuse_inputs(module: nn.Module, error: OptlangError) -> None:
    """Raise OptlangError where `error`, which a call of `module` raised, comes from weights that are not in float32."""
    kinds = [kind for kind in module_types(module) if kind != "float32"]
    if kinds and _MISMATCH.search(error.message):
        said = OptlangError(
            f"the model's weights are in {' and '.join(kinds)}, and it is given its inputs in float32 (data in float64 "
            f"are converted): {error.message}",
            help="return the model in float32 (`model.float()`), or convert the inputs in its forward",
        )
        said.details = getattr(error, "details", "")  # type: ignore[attr-defined]
        raise said from error
