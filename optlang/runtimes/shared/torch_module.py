"""What a runtime that builds from a torch module asks of it first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optlang.interfaces import ModelState, Refusal, Request, TargetSpec

if TYPE_CHECKING:
    from torch import nn

    from optlang.workload.data.axes import OpenAxis


def module_of(
    state: ModelState, target: TargetSpec, runtime: str, forms: Sequence[str] = ("module",),
    devices: Sequence[str] = ("cpu",),
) -> nn.Module:
    """The torch module of `state`; `Refusal` where its form is none of `forms`, or the target's device of `devices`."""
    if state.form not in forms:
        raise Refusal(f"{runtime} builds from torch modules, not from a model in the form {state.form}")
    if target.device not in devices:
        named = " or ".join(devices)
        raise Refusal(f"{runtime} is for targets with device = {named}; this target's device is {target.device}")
    module: nn.Module = state.model
    return module


def refuse_open(runtime: str, axes: Sequence[OpenAxis]) -> None:
    """`Refusal` where inputs have axes of several sizes: for runtimes whose files have one."""
    if axes:
        item = axes[0]
        raise Refusal(
            f"{runtime} takes inputs of one size, and {item.text} is of {item.low} to {item.high}",
            help='pad every batch to one length (padding = "max_length" of a tokenizer, or a collate_fn), or leave '
            "this runtime out",
            depends="model",
        )


def refuse_techniques(runtime: str, requests: Sequence[Request], known: Sequence[str]) -> None:
    """`Refusal` for a request that is not for one of the techniques `known`, and for more than one request."""
    for request in requests:
        if request.technique not in known:
            raise Refusal(f"{runtime} does not carry out {request.technique}", help=f"use {' or '.join(known)}")
    if len(requests) > 1:
        raise Refusal(
            f"a model is quantized once, not by {' and '.join(item.technique for item in requests)}",
            help="remove all of these steps but one",
        )
