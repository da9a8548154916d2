"""Removes whole blocks of a model, and does so again on a fresh one."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, Edit, ModelState, Refusal
from optlang.techniques.prune.cutter import counted, share_removed
from optlang.techniques.prune.sparsity import recounted
from optlang.techniques.shared import masks
from optlang.techniques.shared.parametrizations import as_module, with_edit
from optlang.workload import imports
from optlang.workload.model.layers import left_alone, reasons

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.techniques.prune.blocks import Stack

_REPLAY = "optlang.techniques.prune.layers:replay"
# Keeps 10 * (1 - 0.8) = 1.9999999999999996 from counting as one block.
_ROUNDING = 1e-9


def layers(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Remove the blocks that matter least: encoder layers of a Transformer, residual blocks.

    A block is one of an `nn.ModuleList` or `nn.Sequential` that gives what it takes, of the same shape, and has several
    layers of weights. `amount` "ratio": the share `ratio` of the blocks that can be removed, the nearest whole number
    stays, the smaller of two as near; "count": so many. At least one stays in each list.

    `importance` "influence" is how far a block turns what passes through it (Block Influence: Men et al., ShortGPT,
    2024), "loss" how much the task's loss rises without it (as in Shortened LLaMA: Kim et al., 2024), both on
    `samples` training samples; "last" takes the last blocks of each list (Sajjad et al., 2023), "alternate" every
    other one, evenly spread (LayerDrop: Fan et al., ICLR 2020), "random" any. Blocks are compared across lists by the
    first two and by chance; the patterns take the same share of each list.

    The answers are those of the model with these blocks skipped: what comes in goes out again. Blocks without which it
    gives other answers or does not run are left alone, and the note `prune.left` says why. Notes too:
    `prune.removed_blocks` and `prune.removed_parameters`, the shares removed since the model was made, `prune.blocks`,
    what each list has left, and `prune.gone`, the blocks that this step removed. Raises `Refusal` where no block can be
    removed, or none would be.
    """
    from optlang.techniques.prune.blocks import Removing, remove, renamed, stacks

    state = as_module(state, "lose blocks", context)
    module: nn.Module = copy.deepcopy(state.model).eval()
    example = context.data.bind(module).example(2)
    with imports.at_home(context.study):
        with imports.user_code("the model's forward", context.study):
            found, left = stacks(module, example)
        chosen = _chosen(module, settings)
        removing = Removing(module, found, example, chosen)
        left = {name: why for name, why in left.items() if chosen(name)}
        if not removing.open:
            raise _nothing(found, left | removing.left, settings)
        gone = _gone(state.model, found, removing.open, settings, context)
        arguments = removing.arguments(gone)
        if isinstance(arguments, str) and removing.in_training() and removing.open:
            gone = _gone(state.model, found, removing.open, settings, context)
            arguments = removing.arguments(gone)
        if isinstance(arguments, str):
            raise Refusal(
                f"{', '.join(gone)} cannot be removed together, though each can by itself: {arguments}",
                help="remove fewer blocks, or name in only those of one list",
            )
        left |= removing.left
        before = counted(module)[0]
        remove(module, arguments["kept"], arguments["numbers"])  # type: ignore[arg-type]
    every = sum(len(stack.blocks) for stack in found)
    counts: dict[str, JSON] = {
        stack.name or "the model": sum(stack.path(key) not in gone for key in stack.blocks) for stack in found
    }
    notes: dict[str, JSON] = {
        "prune.removed_blocks": share_removed(state, "blocks", 1 - len(gone) / every),
        "prune.removed_parameters": share_removed(state, "parameters", counted(module)[0] / before),
        "prune.blocks": counts, "prune.gone": list(gone),
        **({"prune.left": left} if left else {}),
        **recounted(state.notes, module),
    }
    if masks.masked(state.notes):
        found_names = (renamed(state.model, removing.kept(gone), name) for name in masks.masked(state.notes))
        notes[masks.NOTE] = sorted(name for name in found_names if name is not None)
    return with_edit(state, module, Edit(_REPLAY, arguments), notes)


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Remove the same blocks from `module`, a fresh model of the shape that it had before."""
    from optlang.techniques.prune.blocks import remove

    remove(module, arguments["kept"], arguments["numbers"])
    return module


def _chosen(module: nn.Module, settings: Mapping[str, Any]) -> Any:
    """Whether a block is open to removal, by its name; what it holds may be kept for other steps, and keeps it too."""
    names = [name for name, _ in module.named_modules()]
    kept = left_alone(settings["keep"], (), names)
    alone = left_alone((), settings["only"], names)
    return lambda name: name not in alone and not any(
        other == name or other.startswith(f"{name}.") for other in kept
    )


def _nothing(found: Sequence[Stack], left: Mapping[str, str], settings: Mapping[str, Any]) -> Refusal:
    if not found and not left:
        return Refusal(
            "the model has no list (nn.ModuleList, nn.Sequential) of blocks that give what they take, in one shape",
            help="channels and heads make layers narrower", depends="model",
        )
    some = reasons(left)
    return Refusal(
        f"no block is left to remove{f': {some}' if some else ''}",
        help="channels and heads make layers narrower" if some else "shorten keep, or widen only",
        depends="settings" if settings["keep"] or settings["only"] else "model",
    )


# ---- which blocks


def _gone(
    module: nn.Module, found: Sequence[Stack], names: Sequence[str], settings: Mapping[str, Any], context: Context
) -> list[str]:
    """The blocks that go, in the model's order; `Refusal` where none would."""
    stacks = {stack.name: [path for key in stack.keys if (path := stack.path(key)) in names] for stack in found}
    # One stays in each list, also where it could go by itself.
    most = {
        stack.name: len(stacks[stack.name]) - (len(stacks[stack.name]) == len(stack.blocks)) for stack in found
    }
    surplus = _surplus(len(names), settings)
    if surplus < 1 or not sum(most.values()):
        some = ", ".join(f"{name or 'the model'} has {len(own)}" for name, own in stacks.items() if own)
        wanted = f"count {settings['count']}" if settings["amount"] == "count" else f"ratio {settings['ratio']:g}"
        raise Refusal(
            f"no block was removed: one always stays in each list, and {wanted} leaves the others too ({some})",
            help="a larger ratio or count",
        )
    if settings["importance"] in ("last", "alternate"):
        gone = _by_pattern(stacks, most, surplus, settings["importance"])
    else:
        scores = _scores(module, names, settings, context)
        gone = set()
        for name in sorted(names, key=lambda item: (scores[item], names.index(item))):
            stack = next(key for key, own in stacks.items() if name in own)
            if len(gone) < surplus and sum(other in gone for other in stacks[stack]) < most[stack]:
                gone.add(name)
    return [name for name in names if name in gone]


def _surplus(blocks: int, settings: Mapping[str, Any]) -> int:
    if settings["amount"] == "count":
        return int(settings["count"])
    return blocks - math.ceil(blocks * (1 - float(settings["ratio"])) - 0.5 - _ROUNDING)


def _scores(
    module: nn.Module, names: Sequence[str], settings: Mapping[str, Any], context: Context
) -> dict[str, float]:
    from optlang.techniques.prune.block_scores import influence, loss

    if settings["importance"] == "random":
        import torch

        generator = torch.Generator().manual_seed(context.seed)
        return dict(zip(names, torch.rand(len(names), generator=generator).tolist(), strict=True))
    score = influence if settings["importance"] == "influence" else loss
    return score(module, names, int(settings["samples"]), context)


def _by_pattern(
    stacks: Mapping[str, Sequence[str]], most: Mapping[str, int], surplus: int, pattern: str
) -> set[str]:
    """As large a share of each list, of its last blocks or of blocks evenly spread."""
    every = sum(map(len, stacks.values()))
    exact = {name: surplus * len(own) / every for name, own in stacks.items()}
    counts = {name: min(most[name], int(share)) for name, share in exact.items()}
    for name in sorted(exact, key=lambda item: int(exact[item]) - exact[item]):
        if sum(counts.values()) < surplus and counts[name] < most[name]:
            counts[name] += 1
    gone: set[str] = set()
    for name, own in stacks.items():
        count, size = counts[name], len(own)
        if pattern == "last":
            gone.update(own[size - count :])
        else:
            gone.update(own[int((index + 0.5) * size / count)] for index in range(count))
    return gone
