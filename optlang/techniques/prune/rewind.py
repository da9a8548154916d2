"""Sets the weights that pruning left back to what they were in an earlier state."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context, Factory, ModelState, Refusal
from optlang.techniques.shared import masks
from optlang.workload.failures import refused

if TYPE_CHECKING:
    from torch import Tensor, nn


def rewind(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Give the weights that are not pruned the values of an earlier state (Frankle and Carbin, ICLR 2019).

    All parameters and buffers are set back; the zeros that a pruning meant stay zero, and channels and heads that were
    removed stay removed: what was done to the model's structure is done to the earlier state again. `to` "start" is the
    model as the study makes it, with the weights that its factory draws or its file holds (of a pretrained one those:
    Chen et al., NeurIPS 2020), "baseline" the reference after its steps. `checkpoint` is a model of the same factory
    with weights of its own, say those after a few epochs (late rewinding: Frankle et al., ICML 2020).

    Raises `Refusal` where nothing was pruned before, where the earlier state is of another shape or has zeros that
    would count as pruned, or where the weights are what they were already.
    """
    import torch

    if state.form != "module":
        raise Refusal(f"only a module can be set back, and the model is in the form {state.form}")
    masks = _masks(state)
    if not masks and not any(edit.calls.startswith(f"{__package__}.") for edit in state.edits):
        raise Refusal(
            "nothing was pruned before: to set all weights back is to undo the steps before this one",
            help="magnitude, two_four, channels, heads or units before rewind",
        )
    earlier, what = _earlier(state, settings, context)
    before, own = earlier.state_dict(), state.model.state_dict()
    _fits(before, own, what)
    for name, mask in masks.items():
        if bool(((before[name] == 0) & ~mask).any()):
            raise Refusal(
                f"{name} has zeros in {what} that no step pruned, and that training would hold at zero from now on",
                help="leave that layer out of the pruning with keep",
            )
        before[name] = before[name].masked_fill(mask, 0.0)
    if all(torch.equal(before[name], item) for name, item in own.items()):
        raise Refusal(f"the weights are those of {what} already", help="a training between the pruning and rewind")
    module: nn.Module = copy.deepcopy(state.model).eval()
    module.load_state_dict(before)
    return ModelState("module", module, state.factory, state.edits, state.notes)


def _masks(state: ModelState) -> dict[str, Tensor]:
    """Where the zeros that are meant lie, by the names of the parameters that have some."""
    parameters = dict(state.model.named_parameters())
    found = {name: parameters[name].detach() == 0 for name in masks.masked(state.notes) if name in parameters}
    return {name: mask for name, mask in found.items() if bool(mask.any())}


def _earlier(state: ModelState, settings: Mapping[str, Any], context: Context) -> tuple[nn.Module, str]:
    """The earlier state in the state's structure, and how to speak of it."""
    from optlang.workload.model.make import edited, make

    factory, edits = state.factory, state.edits
    if settings["checkpoint"] is not None:
        given, what = Factory(**settings["checkpoint"]), "the checkpoint"
        module = make(given, context.study)
    elif settings["to"] == "baseline":
        assert context.baseline is not None, "`rewind` declares that it needs the baseline"
        baseline, what = context.baseline(), "the baseline"
        if baseline.form != "module":
            raise Refusal(f"the baseline is in the form {baseline.form}, and weights can be had of a module only")
        done = len(baseline.edits)
        if baseline.factory != factory or baseline.edits != edits[:done]:
            raise Refusal(
                "the model was not made from the baseline: a step before this one has put another in its place",
                help="to = start sets it back to its own beginning",
            )
        module, edits = copy.deepcopy(baseline.model), edits[done:]
    else:
        module, what = make(factory, context.study), "the model as it is made"
    with refused(
        f"what was done to the model cannot be done to {what}",
        help="a checkpoint of the same factory with the same arguments",
    ):
        return edited(module, edits, context.study), what


def _fits(state: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str) -> None:
    for name in [*own, *state]:
        if name not in state or name not in own or state[name].shape != own[name].shape:
            ours, theirs = (str(tuple(item[name].shape)) if name in item else "absent" for item in (own, state))
            raise Refusal(
                f"{name} is {ours} in the model and {theirs} in {what}",
                help="a checkpoint of the same factory with the same arguments",
            )
