"""Makes a model from its factory, and replays structural edits on it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from optlang.interfaces import JSON, Edit, Factory, ModelState, OptlangError
from optlang.workload import imports
from optlang.workload.data.tensors import describe, imagined
from optlang.workload.model import conv1d, pretrained
from optlang.workload.model.call import call, settled
from optlang.workload.model.parametrizations import modernized
from optlang.workload.seeds import seeded

# Initial weights are drawn from here, so that a factory gives the same model in every process.
_INITIAL_SEED = 0
# What wraps a module for training or for speed and answers as it does, and where it keeps it.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module",
    "AveragedModel": "module",
}
_SHAPE = "optlang.workload.model.make:shape"


def make(factory: Factory, study: Path) -> nn.Module:
    """The model of `factory` on the CPU, in eval mode, with its weights loaded where it names a file of them.

    Initial weights are the same each time. Hooks of torch.nn.utils (weight_norm, spectral_norm, prune) become
    parametrizations, which can be copied (see `parametrizations.modernized`), and Transformers' Conv1D is `nn.Linear`
    (see `conv1d`). Raises `UserCodeError` where the factory raises, OptlangError where it returns no module, a
    ScriptModule, or the weights do not fit.
    """
    return _made(factory, study).module


def initial(factory: Factory, study: Path, example: Mapping[str, Tensor]) -> ModelState:
    """The state that a study begins with: the model of `factory`, and what was noted when it was made.

    `example` are inputs by name: lazy layers get their shapes from them, which is recorded as the state's first edit.
    Raises what `make` does, and `UserCodeError` where the model with lazy layers cannot run on them.
    """
    made = _made(factory, study)
    if not any(map(is_lazy, made.module.parameters())):
        return ModelState("module", made.module, factory, notes=made.notes)
    edit = Edit(_SHAPE, {"example": describe(example)})
    with imports.user_code("running the model to learn the shapes of its lazy layers", study):
        module = edited(made.module, [edit], study)
    return ModelState("module", module, factory, (edit,), made.notes)


def rebuild(factory: Factory, edits: Sequence[Edit], study: Path) -> nn.Module:
    """The factory's model with `edits` replayed in order; weights are the initial ones, to be loaded over."""
    return edited(make(Factory(factory.calls, factory.arguments), study), edits, study)


def edited(module: nn.Module, edits: Sequence[Edit], study: Path) -> nn.Module:
    """`module` with `edits` replayed in order, its weights those that it has left; it is changed in place."""
    for edit in edits:
        replay = imports.find(edit.calls, study)
        example: Any = edit.arguments.get("example", {})
        changed = replay(module, edit.arguments, imagined(example))
        module = module if changed is None else changed
    return module.eval()


def shape(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Run `module` once on `example`, so that its lazy layers have shapes and initial weights, the same each time."""
    with seeded(_INITIAL_SEED), torch.no_grad():
        call(module.eval(), example)
    return module


def said(state: ModelState) -> tuple[str, ...]:
    """What was noted when `initial` made the state, in words for its user."""
    loaded = pretrained.said(state.notes, str(state.factory.weights))
    single = state.notes.get("model.converted")
    return (
        *([loaded] if loaded else []),
        *([f"the model was converted from {single}: data and answers are in float32"] if single else []),
    )


# ---- what factories return


@dataclass(frozen=True, slots=True)
class _Made:
    module: nn.Module
    notes: Mapping[str, JSON] = field(default_factory=dict)


def _made(factory: Factory, study: Path) -> _Made:
    create = imports.find(factory.calls, study)
    what = f"the model {imports.split(factory.calls)[1]}"
    with seeded(_INITIAL_SEED), imports.user_code(what, study):
        module = create(**factory.arguments)
    module = _unwrapped(_module(module, what))
    _check(module, what)
    module = _ordinary(module.cpu()).eval()
    notes: dict[str, JSON] = {}
    if factory.weights is not None:
        notes = pretrained.load(
            module, factory.weights, study, key=factory.weights_key, strict=factory.weights_strict
        )
    module = settled(modernized(conv1d.plain(module)))
    if _single(module):
        notes["model.converted"] = "float64 to float32"
    return _Made(module, notes)


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
    empty = next((name for name, item in (*module.named_parameters(), *module.named_buffers()) if item.is_meta), None)
    if empty is not None:
        raise OptlangError(
            f"{empty} of {what} is on the device meta, and has no values", help="make the model on the CPU"
        )


def _ordinary(module: nn.Module) -> nn.Module:
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


def _single(module: nn.Module) -> bool:
    """Convert `module` to float32 where all of its numbers are in float64, in place; whether they were.

    Data are in float32 always, and so are measurements; one that mixes types has its reasons, and is left alone.
    """
    numbers = [item for item in (*module.parameters(), *module.buffers()) if item.is_floating_point()]
    if not numbers or any(item.dtype != torch.float64 for item in numbers):
        return False
    module.float()
    return True
