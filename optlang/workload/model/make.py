"""Makes a model from its factory, and replays structural edits on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from optlang.interfaces import JSON, Edit, Factory, ModelState
from optlang.workload import imports
from optlang.workload.data.tensors import describe, imagined
from optlang.workload.model import conv1d, pretrained, returned
from optlang.workload.model.call import call, settled
from optlang.workload.model.parametrizations import modernized
from optlang.workload.seeds import seeded

# Initial weights are drawn from here, so that a factory gives the same model in every process.
_INITIAL_SEED = 0
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


@dataclass(frozen=True, slots=True)
class _Made:
    module: nn.Module
    notes: Mapping[str, JSON] = field(default_factory=dict)


def _made(factory: Factory, study: Path) -> _Made:
    create = imports.find(factory.calls, study)
    what = f"the model {imports.split(factory.calls)[1]}"
    with seeded(_INITIAL_SEED), imports.user_code(what, study):
        module = create(**factory.arguments)
    module = returned.ordinary(returned.module_of(module, what).cpu()).eval()
    notes: dict[str, JSON] = {}
    if factory.weights is not None:
        notes = pretrained.load(
            module, factory.weights, study, key=factory.weights_key, strict=factory.weights_strict
        )
    module = settled(modernized(conv1d.plain(module)))
    if returned.single(module):
        notes["model.converted"] = "float64 to float32"
    return _Made(module, notes)
