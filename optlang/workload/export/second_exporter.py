"""torch's two ONNX exporters, the second where the first fails: what is said of both, and the line that stops them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from optlang.interfaces import OptlangError, Refusal
from optlang.workload import failures, imports, process_state
from optlang.workload.export import tracing

if TYPE_CHECKING:
    from onnx import ModelProto

Answer = TypeVar("Answer")

INSTALL = 'pip install "optlang-dsl[dynamo]"'
_KEY, _SECOND = "exporter", "dynamo"
_OPERATOR = re.compile(r"operator '?(aten::\w+|prim::\w+)")
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
