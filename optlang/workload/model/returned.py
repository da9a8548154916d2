"""What a user's factory returned: the module in it, made fit to be copied and trained, or the words why it is none.

It knows no files and no techniques.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from optlang.interfaces import OptlangError
from optlang.workload.failures import first_line

# What wraps a module for training or for speed and answers as it does, and where it keeps it.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module",
    "AveragedModel": "module",
}
_DEPTH = 4
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def module_of(answer: Any, what: str) -> nn.Module:
    """The module that a factory returned, out of what wraps it for training.

    Raises OptlangError where it is none, or one that nothing can be changed in.
    """
    module = _unwrapped(_module(answer, what))
    _check(module, what)
    return module


def _module(answer: Any, what: str) -> nn.Module:
    """What a factory returned, if that is a module; OptlangError that says what it is else."""
    if isinstance(answer, nn.Module):
        return answer
    kind, advice = f"a {type(answer).__name__}", "return the module from the factory"
    if inspect.isclass(answer) and issubclass(answer, nn.Module):
        kind, advice = f"the class {answer.__name__}", f"return an instance of it: `{answer.__name__}(…)`"
    elif isinstance(answer, tuple | list | Mapping):
        items = list(answer.items() if isinstance(answer, Mapping) else enumerate(answer))
        inside = [key for key, item in items if isinstance(item, nn.Module)]
        kinds = ", ".join(type(item).__name__ for _, item in items[:4]) + (", …" if len(items) > 4 else "")
        kind += f" ({kinds})" if items else " without items"
        if inside:
            advice = f"return its item {inside[0]!r} alone from the factory"
    elif inspect.isgenerator(answer) or inspect.iscoroutine(answer):
        advice = "return the module with `return`, from a function that is not async"
    elif callable(answer):
        advice = "return the torch.nn.Module itself, not a function that calls it"
    raise OptlangError(f"{what} returned {kind}, not a torch.nn.Module", help=advice)


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module inside what wraps it for training; compiling and sharing work are the runtime's work."""
    inside = getattr(module, _WRAPPERS.get(type(module).__name__, ""), None)
    return _unwrapped(inside) if isinstance(inside, nn.Module) else module


def _check(module: nn.Module, what: str) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            which = f"{what} returned a {type(layer).__name__}" if not name else (
                f"{name} of {what} is a {type(layer).__name__}"
            )
            raise OptlangError(
                f"{which}, which cannot be compressed: its layers are compiled already",
                help="return the torch.nn.Module itself, before torch.jit.script or torch.jit.trace",
            )
    if isinstance(module, torch.fx.GraphModule) and "aten." in module.code:
        raise OptlangError(
            f"{what} returned a graph of torch.export, which has no layers left to compress",
            help="return the torch.nn.Module itself, before torch.export.export",
        )
    for name, item in module.state_dict().items():
        if not isinstance(item, Tensor):
            raise OptlangError(
                f"the state dict of {what} has {name}, a {type(item).__name__}, and only tensors can be saved",
                help="make it again in the factory, and leave get_extra_state and set_extra_state out of the class",
            )
    empty = next((name for name, item in (*module.named_parameters(), *module.named_buffers()) if item.is_meta), None)
    if empty is not None:
        raise OptlangError(
            f"{empty} of {what} is on the device meta, and has no values", help="make the model on the CPU"
        )


def ordinary(module: nn.Module) -> nn.Module:
    """`module` with tensors that can be copied and trained where they are others; in place.

    Those made under torch.inference_mode cannot be changed, and gradients of the factory's own training would be
    copied with each state.
    """
    replaced: dict[int, Tensor] = {}

    def plain(item: Tensor) -> Tensor:
        if id(item) not in replaced:
            value = item.detach().clone()
            replaced[id(item)] = nn.Parameter(value, item.requires_grad) if isinstance(item, nn.Parameter) else value
        return replaced[id(item)]

    for layer in module.modules():
        for kept in (layer._parameters, layer._buffers):
            for name, item in kept.items():
                if item is not None and not is_lazy(item) and item.is_inference():
                    kept[name] = plain(item)  # type: ignore[assignment]
        for item in layer._parameters.values():
            if item is not None:
                item.grad = None
    return module


def single(module: nn.Module) -> bool:
    """Convert `module` to float32 where all of its numbers are in float64, in place; whether they were.

    Data are in float32 always, and so are measurements; one that mixes types has its reasons, and is left alone.
    """
    numbers = [item for item in (*module.parameters(), *module.buffers()) if item.is_floating_point()]
    if not numbers or any(item.dtype != torch.float64 for item in numbers):
        return False
    module.float()
    return True


# ---- copies


def check_copies(module: nn.Module) -> None:
    """OptlangError with the attribute where `module` cannot be copied, or a copy would use layers of the first.

    That do functions that were made where the layers were known (a lambda as a hook, a forward put in the place of
    another): copying a module copies its methods, and no functions.
    """
    held = next(_closures(module), None)
    if held is not None:
        raise OptlangError(
            f"{held} is a function that holds layers of the model: a copy of the model would use these, not its own",
            help="write it as a method (`self.keep`), or as functools.partial with the layers as its arguments",
        )
    try:
        copy.deepcopy(module)
    except Exception as error:
        found = next(_uncopied(module), "an attribute of the model")
        raise OptlangError(
            f"the model cannot be copied: {found} ({first_line(error)})",
            help="make that where forward first needs it, keep it outside the module, or give its class __deepcopy__",
        ) from error


def _uncopied(module: nn.Module) -> Iterator[str]:
    for name, layer in module.named_modules():
        for own, item in vars(layer).items():
            if own in ("_modules", "_parameters"):
                continue
            try:
                copy.deepcopy(item, {id(part): part for part in module.modules()})
            except Exception:  # noqa: BLE001 - see `check_copies`
                yield f"`{own}` of {f'the layer {name}' if name else 'the model'} is a {type(item).__name__}"


def _closures(module: nn.Module) -> Iterator[str]:
    """The functions among the attributes and hooks of layers that hold layers of the model."""
    layers = {id(layer) for layer in module.modules()}
    for name, layer in module.named_modules():
        where = f"the layer {name}" if name else "the model"
        for own, item in vars(layer).items():
            if own in _HOOKS:
                yield from (f"a hook of {where}" for hook in item.values() if _holds(hook, layers))
            elif own not in ("_modules", "_parameters", "_buffers") and _holds(item, layers):
                yield f"`{own}` of {where}"


def _holds(item: Any, layers: set[int], depth: int = 0) -> bool:
    """Whether a function holds one of the layers where copying does not reach it: in its closure or its defaults."""
    if depth > _DEPTH:
        return False
    if isinstance(item, functools.partial):
        return _holds(item.func, layers, depth + 1)
    if not isinstance(item, types.FunctionType):
        return False
    values = [*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
    for cell in item.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:   # not set yet
            continue
    return any(
        id(getattr(value, "__self__", value)) in layers or _holds(value, layers, depth + 1) for value in values
    )
