"""Makes plain parameters of the weights that a state's module computes.

A parametrization (weight_norm, a mask) is for training. What cuts, zeroes or casts weights works on the weights
themselves, and what is deployed holds them: so the first step that is no training begins with this, and so does the
build of every artifact.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from optlang.interfaces import JSON, Context, Edit, ModelState, Refusal
from optlang.techniques.shared.masks import NOTE, with_masked

if TYPE_CHECKING:
    from torch import nn

    from optlang.workload.data.dataset import Dataset

PLAIN_WEIGHTS = "optlang.workload.model.parametrizations:replay"
"""The edit that makes plain weights."""

_NOTE = "parametrized.baked"


def without_parametrizations(state: ModelState, data: Dataset, study: Path) -> ModelState:
    """`state` itself where its module computes no weights, else one with plain weights and the same answers.

    That is proved on examples. It is an edit of its own; the note `parametrized.baked` has the weights by name, with
    what computed them. The zeros of masks are meant: training holds them. Raises `Refusal` with the weight's name where
    it is another at each call, or the answers change.
    """
    if state.form not in ("module", "graph"):
        return state
    import torch

    from optlang.workload import imports
    from optlang.workload.export.tracing import agree, answers_of, tolerance
    from optlang.workload.model import parametrizations

    names = parametrizations.parametrized(state.model)
    if not names:
        return state
    module = copy.deepcopy(state.model).eval()
    for name, kind in names.items():
        holder, _, own = name.rpartition(".")
        layer = module.get_submodule(holder)
        if not torch.equal(parametrizations.value_of(layer, own), parametrizations.value_of(layer, own)):
            raise Refusal(
                f"{name} is computed by {kind}, and is another at each call",
                help="a parametrization that computes the same weight at each call in eval mode",
            )
    example = data.bind(module).example(2)
    with torch.no_grad(), imports.user_code("the model's forward", study):
        wanted = answers_of(module, example)
        parametrizations.bake(module, names)
        what = f"the model with plain weights in place of parametrizations ({_few(names)})"
        agree(wanted, list(answers_of(module, example).values()), what, tolerance(module, example))
    masked = [name for name, kind in names.items() if kind == parametrizations.MASK]
    known = state.notes.get(_NOTE, {})
    assert isinstance(known, dict)
    notes: dict[str, JSON] = {**state.notes, _NOTE: {**known, **names}}
    if masked:
        notes[NOTE] = with_masked(state, masked)[NOTE]
    edit = Edit(PLAIN_WEIGHTS, {"names": list(names)})
    return ModelState(state.form, module, state.factory, (*state.edits, edit), notes, state.requests)


def as_module(state: ModelState, what: str, context: Context) -> ModelState:
    """`state` without parametrizations; `Refusal` where it is no module, which alone can be, or do, `what`."""
    if state.form != "module":
        raise Refusal(f"only a module can {what}, and the model is in the form {state.form}")
    return without_parametrizations(state, context.data, context.study)


def with_edit(state: ModelState, module: nn.Module, edit: Edit | None, notes: Mapping[str, JSON]) -> ModelState:
    """The state of the changed `module`: with one more edit of its structure, if any, and these notes too."""
    edits = state.edits if edit is None else (*state.edits, edit)
    return ModelState("module", module, state.factory, edits, {**state.notes, **notes})


def _few(names: dict[str, str]) -> str:
    return ", ".join(list(names)[:4]) + (", …" if len(names) > 4 else "")
