"""Makes a model from its factory, and replays structural edits on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from optlang.interfaces import Edit, Factory, OptlangError
from optlang.workload import imports
from optlang.workload.data.tensors import imagined
from optlang.workload.model import weights
from optlang.workload.model.parametrizations import modernized
from optlang.workload.seeds import seeded

# Initial weights are drawn from here, so that a factory gives the same model in every process.
_INITIAL_SEED = 0


def make(factory: Factory, study: Path) -> nn.Module:
    """The model of `factory` on the CPU, in eval mode, with its weights loaded where it names a file of them.

    Initial weights are the same each time. Hooks of torch.nn.utils (weight_norm, spectral_norm, prune) become
    parametrizations, which can be copied (see `parametrized.modernized`). Raises `UserCodeError` where the factory
    raises, OptlangError where it returns no module, a ScriptModule, or the weights do not fit.
    """
    create = imports.find(factory.calls, study)
    what = f"the model {imports.split(factory.calls)[1]}"
    with seeded(_INITIAL_SEED), imports.user_code(what, study):
        module = create(**factory.arguments)
    if not isinstance(module, nn.Module):
        raise OptlangError(
            f"{what} returned a {type(module).__name__}, not a torch.nn.Module",
            help="return the module from the factory",
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise OptlangError(
            f"{what} returned a {type(module).__name__}, which cannot be compressed: its layers are compiled already",
            help="return the torch.nn.Module itself, before torch.jit.script or torch.jit.trace",
        )
    # Compiling is the runtime's work; what torch.compile wraps is the same module.
    if type(module).__name__ == "OptimizedModule" and isinstance(getattr(module, "_orig_mod", None), nn.Module):
        module = module._orig_mod
    assert isinstance(module, nn.Module)
    module = module.cpu().eval()
    if factory.weights is not None:
        weights.fill(module, weights.read(factory.weights, study), f"the weights {factory.weights}")
    return modernized(module)


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
