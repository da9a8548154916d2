"""Calls a module with inputs by name, in one mode or the other."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from optlang.workload.data.tensors import flat_outputs


def call(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run `module` on inputs by `forward`'s argument names; outputs by name (see `tensors.flat_outputs`)."""
    positional, named = arguments(module, inputs)
    return flat_outputs(module(*positional, **named))


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """With `module` and all below it in training or in evaluation; then each layer is in the mode that it was in."""
    before = [(layer, layer.training) for layer in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for layer, mode in before:
            layer.training = mode


def arguments(module: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Positional and keyword arguments for `module`: by name where `forward` knows the names, else in their order.

    A forward of `(*args, **kwargs)` hands on what it is given: it knows the names that the data give, and none where
    these are numbered by `Dataset` ("input", "input_0", …).
    """
    parameters = inspect.signature(module.forward).parameters
    kinds = inspect.Parameter
    found = {item.kind for item in parameters.values()}
    if kinds.VAR_POSITIONAL in found and tuple(inputs) in (("input",), tuple(f"input_{n}" for n in range(len(inputs)))):
        return tuple(inputs.values()), {}
    anything = kinds.VAR_KEYWORD in found
    by_name = [
        name for name in inputs
        if (name in parameters and parameters[name].kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY))
        or (anything and name not in parameters)
    ]
    if len(by_name) == len(inputs):
        return (), dict(inputs)
    return tuple(inputs.values()), {}


def settled(module: nn.Module) -> nn.Module:
    """Take what layers have kept of a call (attention maps, hidden states) out of autograd's graph, in place.

    A tensor in the middle of a graph cannot be copied, and a model that keeps one could not be either.
    """
    for layer in module.modules():
        for kept in (layer.__dict__, layer._buffers):
            for name, item in list(kept.items()):
                if _in_a_graph(item):
                    kept[name] = _detached(item)
    return module


def _in_a_graph(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.grad_fn is not None
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(_in_a_graph(item) for item in items)


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach() if value.grad_fn is not None else value
    if isinstance(value, dict):
        return type(value)((key, _detached(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        items = [_detached(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
