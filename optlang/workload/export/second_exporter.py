"""torch's two ONNX exporters, the second where the first fails: what is said of both, and the line that stops them."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from optlang.interfaces import OptlangError, Refusal
from optlang.workload import failures, imports, process_state
from optlang.workload.export import tracing

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

Answer = TypeVar("Answer")

INSTALL = 'pip install "optlang-dsl[dynamo]"'
_KEY, _SECOND = "exporter", "dynamo"
_OPERATOR = re.compile(r"operator '?(aten::\w+|prim::\w+)")
_SCOPES = "pkg.torch.onnx.name_scopes"
_PLACE = re.compile(r"(.+)\((\d+)\): ", re.MULTILINE)


def tried(
    first: Callable[[], Answer], second: Callable[[], Answer], module: nn.Module, example: Mapping[str, Tensor],
    study: Path,
) -> tuple[Answer, bool]:
    """What `first` gives, or where it cannot take the model, what `second` does; and whether it is the second's.

    Raises `Refusal` with both reasons, the operator and the user's own line that calls it; where the second exporter is
    not installed, with what installs it.
    """
    try:
        return first(), False
    except Refusal as refusal:
        if refusal.depends != "model":
            raise
        line = _line(refusal, module, example, study)
        reason = f"{refusal.message}{line}"
        if importlib.util.find_spec("onnxscript") is None:
            raise Refusal(
                reason, help=f"torch's other exporter may have it: {INSTALL}; or {refusal.help}", depends="model"
            ) from refusal
        try:
            return second(), True
        except Refusal as other:
            also = other.message.removeprefix("the model cannot be exported to ONNX: ")
            raise Refusal(
                f"{reason}; nor does torch's other exporter (dynamo) take it: {also}", help=refusal.help,
                depends="model",
            ) from other


def mark(model: ModelProto) -> None:
    """Write into the file that the second exporter made it."""
    model.metadata_props.add(key=_KEY, value=_SECOND)


def marked(model: ModelProto) -> str | None:
    """The exporter that had to be tried second; None where the first one did."""
    return next((item.value for item in model.metadata_props if item.key == _KEY), None)


def name_by_layers(graph: GraphProto) -> None:
    """Name the nodes of its graph by the layers that they come from, "/features.0/Conv", as the first exporter does.

    It says of each node in which layer it was written, and of a convolution into which a norm was folded that it is the
    norm's: what has a layer's weights is that layer's. Nodes of no layer that is known keep their names.
    """
    stored = {item.name for item in graph.initializer}
    counts: Counter[str] = Counter()
    for node in graph.node:
        scopes = next((item.value for item in node.metadata_props if item.key == _SCOPES), None)
        if scopes is None:
            continue
        own = next((name for name in node.input if name in stored and name.endswith(".weight")), None)
        layer = own.removesuffix(".weight") if own is not None else _innermost(scopes)
        layer = layer.removeprefix(tracing.INNER).removeprefix(".")
        name = f"/{layer}/{node.op_type}" if layer else f"/{node.op_type}"
        node.name = f"{name}_{counts[name]}" if counts[name] else name
        counts[name] += 1


def _innermost(scopes: str) -> str:
    """The layer in which a node was written: the last of its scopes is its own name."""
    names = ast.literal_eval(scopes)
    return str(names[-2]) if len(names) > 1 else ""


def _line(refusal: Refusal, module: nn.Module, example: Mapping[str, Tensor], study: Path) -> str:
    """The line of the user's code that calls the operator which `refusal` names, for a message; "" where unknown."""
    named = _OPERATOR.search(str(refusal.message))
    if named is None:
        return ""
    wrapped = tracing.Positional(module, tuple(example)).eval()
    try:
        with process_state.quiet(remarks=tracing.REMARKS):
            graph = torch.jit.trace(wrapped, tuple(example.values()), check_trace=False).inlined_graph  # type: ignore[no-untyped-call]
    except OptlangError:
        return ""
    except Exception as error:
        if failures.exhausted(error):
            raise
        return ""
    for node in graph.findAllNodes(named[1]):
        for file, number in _PLACE.findall(node.sourceRange()):
            if (shown := imports.users_file(file, study)) is not None:
                return f" ({shown}:{number})"
    return ""
