"""Proves what a technique did to a model's structure, whichever technique it was: every one passes through `proved`.

Which numbers an edit removes is read from the edit itself: it is replayed on a copy whose weights are numbered. The
answers without them must be those of the whole model with these numbers at zero. Where they are not, because the model
computes with all its channels together (a norm, a softmax, a scale by the width), its channels must be exchangeable:
see `symmetry`. Where whole modules went, the answers may be those of the model that skips them. What computes new
weights instead of removing some (folded norms, factors) proves itself.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from optlang.interfaces import Context, Edit, ModelState, OptlangError, Refusal
from optlang.techniques.shared import coupled, cuts
from optlang.techniques.shared.parametrizations import PLAIN_WEIGHTS
from optlang.techniques.shared.routes import rerouted
from optlang.techniques.shared.skipped import skipping
from optlang.techniques.shared.symmetry import Symmetry, answers, tensors, unequal
from optlang.workload.failures import FAILURES, attempt, refused

if TYPE_CHECKING:
    from torch import Tensor, nn

SAMPLES = 8
"""On how many samples models are compared."""

# Whole numbers that float32 tells apart; a number beyond is written with two digits.
_DIGIT = 2**23


def proved(before: ModelState, after: ModelState, context: Context) -> None:
    """Raise `Refusal` where `after` lost other numbers than its edits say, or unties weights that layers share."""
    from optlang.workload import imports
    from optlang.workload.model.parametrizations import plain_copy

    if before.form != "module" or after.form != "module" or after.factory != before.factory:
        return
    known = len(before.edits)
    if after.edits[:known] != before.edits:
        return
    if after.edits[known:] and after.edits[known].calls == PLAIN_WEIGHTS:
        # Proved already, by `baked` itself; what follows it is an edit of plain weights.
        before = replace(before, model=plain_copy(before.model), edits=after.edits[: known + 1])
        known += 1
    _still_shared(before.model, after.model)
    new = after.edits[known:]
    if not new:
        return
    example = context.data.bind(before.model).example(SAMPLES)
    with imports.user_code("the model's forward", context.study):
        answers(before.model, example)
    lost = removed(before.model, new, context.study)
    if lost is None or not lost.any:
        return
    if lost.untied:
        raise Refusal(
            f"{lost.untied[0]} and {lost.untied[1]} are one weight, and would be two after this step",
            help=f'keep = ["{_holder(lost.untied[0])}", "{_holder(lost.untied[1])}"]',
        )
    cut = replayed(before.model, new, context.study)
    _same_shapes(cut, after.model)
    why = refuted(before.model, cut, lost.masks, example)
    if why is None or _by_blocks(before.model, cut, lost, example) or _by_groups(before.model, lost, example):
        return
    layers = lost.layers
    some = ", ".join(layers[:4]) + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")
    raise Refusal(
        f"without some channels of {some} the model gives {why} than with these at zero: its code tells them apart by "
        "their number (it permutes, regroups or takes apart)",
        help="leave those layers alone: keep = [" + ", ".join(f'"{item}"' for item in layers) + "]",
    )


def _same_shapes(made: nn.Module, model: nn.Module) -> None:
    """`Refusal` where a model is not what its edits make of it, so that no file could bring it back."""
    own = {name: tuple(item.shape) for name, item in model.named_parameters()}
    found = {name: tuple(item.shape) for name, item in made.named_parameters()}
    for name in [*own, *found]:
        if own.get(name) != found.get(name):
            raise Refusal(
                f"{name} is {own.get(name, 'absent')} in the step's model, and its edits make it "
                f"{found.get(name, 'absent')}",
                help="an edit's `calls` must make the same change to a fresh model of the same shape",
            )


# ---- what an edit removes


@dataclass(frozen=True, slots=True)
class Lost:
    """The numbers of a model that an edit removes: a mask for each tensor that loses some.

    `ordered` is whether those that are left stand in the order in which they were; `untied` are two tensors of the
    edited model that were one.
    """

    masks: Mapping[str, Tensor]
    ordered: bool
    untied: tuple[str, str] | None

    @property
    def any(self) -> bool:
        """Whether anything is removed."""
        return bool(self.masks)

    @property
    def layers(self) -> list[str]:
        """The layers that lose outputs; where there are none, all that lose something."""
        import torch

        rows = [
            name for name, mask in self.masks.items()
            if mask.ndim > 1 and bool(torch.any(mask.flatten(1).all(1)))
        ]
        return list(dict.fromkeys(_holder(name) for name in rows or self.masks))


def removed(module: nn.Module, edits: Sequence[Edit], study: Path) -> Lost | None:
    """What `edits` remove of `module`; None where they compute numbers instead of taking some of those that are there.

    Raises `Refusal` where an edit cannot be replayed.
    """
    import torch

    own = {name: item for name, item in _once(module).items() if item.is_floating_point() and item.numel()}
    if any(item.dtype not in (torch.float32, torch.float64) for item in own.values()):
        return None
    total = sum(item.numel() for item in own.values())
    digits = 1 if total < _DIGIT else 2
    found: dict[str, Tensor] = {}
    for digit in range(digits):
        numbered = copy.deepcopy(module)
        start = 1
        with torch.no_grad():
            for item in (tensors(numbered)[name] for name in own):
                numbers = torch.arange(start, start + item.numel())
                numbers = numbers % _DIGIT if digit == 0 and digits > 1 else numbers // _DIGIT if digit else numbers
                item.copy_(numbers.reshape(item.shape))
                start += item.numel()
        edited = replayed(numbered, edits, study, copied=False)
        for name, item in tensors(edited).items():
            if item.is_floating_point() and item.numel():
                if item.dtype not in (torch.float32, torch.float64):
                    return None
                found[name] = found.get(name, torch.zeros(item.shape, dtype=torch.float64)) + (
                    item.detach().double() * (_DIGIT if digit else 1)
                )
    kept = torch.zeros(total + 1, dtype=torch.bool)
    for item in found.values():
        if bool((item != item.round()).any()) or float(item.min()) < 1 or float(item.max()) > total:
            return None
        kept[item.long().flatten()] = True
    masks: dict[int, Tensor] = {}
    start = 1
    for item in own.values():
        masks[id(item)] = ~kept[start : start + item.numel()].reshape(item.shape)
        start += item.numel()
    lost = {name: masks[id(item)] for name, item in tensors(module).items() if id(item) in masks}
    ordered = all(bool((item.flatten().diff() > 0).all()) for item in found.values())
    lost = {name: mask for name, mask in lost.items() if bool(mask.any())}
    return Lost(lost, ordered, _doubled(edited, found, total))


def _doubled(edited: nn.Module, found: Mapping[str, Tensor], total: int) -> tuple[str, str] | None:
    """Two parameters of the edited model that hold the same number of the whole one."""
    import torch

    holders = torch.full((total + 1,), -1)
    names = [name for name, _ in edited.named_parameters() if name in found]
    for position, name in enumerate(names):
        numbers = found[name].long().flatten()
        others = holders[numbers]
        if bool((others >= 0).any()):
            return names[int(others.max())], name
        holders[numbers] = position
    return None


def replayed(module: nn.Module, edits: Sequence[Edit], study: Path, *, copied: bool = True) -> nn.Module:
    """A copy of `module` with `edits` made again."""
    from optlang.workload.model import make

    with refused(
        f"what the step did to the model cannot be done again ({edits[-1].calls})",
        help="an edit's `calls` must make the same change to a fresh model of the same shape",
    ):
        return make.edited(copy.deepcopy(module) if copied else module, edits, study)


def refuted(
    module: nn.Module, cut: nn.Module, lost: Mapping[str, Tensor], example: Mapping[str, Tensor]
) -> str | None:
    """How the answers of `cut` differ from those of `module` with what it lost at zero; None where they do not."""
    import torch

    silent = copy.deepcopy(module)
    own = tensors(silent)
    with torch.no_grad():
        for name, mask in lost.items():
            if not name.endswith(("running_mean", "running_var")):  # a norm of nothing is nothing
                own[name].masked_fill_(mask, 0.0)
    wanted = answers(silent, example)
    found = attempt(lambda: answers(cut, example))
    return "no answers rather" if isinstance(found, Exception) else unequal(found, wanted)


def trains(module: nn.Module, example: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the answers of a copy in training, which may take another path; None where it gives none."""
    trial = copy.deepcopy(module).train()
    try:
        found = attempt(lambda: answers(trial, example))
    except OptlangError:  # answers that are no tensors: losses, boxes
        return None
    return None if isinstance(found, Exception) else {name: tuple(item.shape) for name, item in found.items()}


# ---- weights that layers share


def shared(module: nn.Module) -> list[list[str]]:
    """The parameters that several layers have, each by all its names."""
    holders: dict[int, dict[int, str]] = {}
    for prefix, layer in module.named_modules():
        for name, item in layer.named_parameters(recurse=False, remove_duplicate=False):
            holders.setdefault(id(item), {}).setdefault(id(layer), f"{prefix}.{name}" if prefix else name)
    return [list(names.values()) for names in holders.values() if len(names) > 1]


def partners(module: nn.Module) -> dict[str, str]:
    """The layers with a weight that another layer has too, each with the first of those others."""
    found: dict[str, str] = {}
    for names in shared(module):
        holders = [_holder(name) for name in names]
        for holder in holders:
            found.setdefault(holder, next(item for item in holders if item != holder))
    return found


def _still_shared(before: nn.Module, after: nn.Module) -> None:
    own = dict(after.named_parameters(remove_duplicate=False))
    for names in shared(before):
        left = [name for name in names if name in own]
        if len({id(own[name]) for name in left}) > 1:
            raise Refusal(
                f"{left[0]} and {left[1]} are one weight, and would be two after this step",
                help=f'keep = ["{_holder(left[0])}", "{_holder(left[1])}"]',
            )


def _once(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_buffers()), **dict(module.named_parameters())}


def _holder(name: str) -> str:
    return name.rpartition(".")[0] or name


# ---- whole blocks


def _by_blocks(module: nn.Module, cut: nn.Module, lost: Lost, example: Mapping[str, Tensor]) -> bool:
    """Whether what was lost are whole modules, without which `cut` answers as `module` does when they are skipped."""
    own = tensors(module)
    counted = {name for name, item in own.items() if item.is_floating_point() and item.numel()}
    left = set(lost.masks)
    blocks: list[str] = []
    for name, layer in module.named_modules():
        inside = {f"{name}.{item}" for item in tensors(layer)} & counted
        whole = bool(inside) and inside <= left and all(bool(lost.masks[item].all()) for item in inside)
        if name and whole and not any(name.startswith(f"{other}.") for other in blocks):
            blocks.append(name)
            left -= inside
    if left or not blocks:
        return False
    with skipping(module, blocks):
        wanted = attempt(lambda: answers(module, example))
    found = attempt(lambda: answers(cut, example))
    return not isinstance(wanted, Exception) and not isinstance(found, Exception) and unequal(found, wanted) is None


# ---- channels of coupled groups


def _by_groups(module: nn.Module, lost: Lost, example: Mapping[str, Tensor]) -> bool:
    """Whether what was lost are whole channels of coupled groups, each of which is proved by itself.

    Its channels can be exchanged, and as many went from each of its blocks; or the model without them, and nothing else
    cut, gives the answers of the model with them at zero.
    """
    try:
        with coupled.drawn(copy.deepcopy(module), example) as graph:
            groups, _ = coupled.groups(graph, ())
        symmetry = Symmetry(module, example)
        lacking = {group: _gone(group, lost.masks) for group in groups}
        gone = {group: channels for group, channels in lacking.items() if channels}
        for group in symmetry.asymmetric(list(gone)):
            moved = rerouted(module, group, groups, symmetry, example)
            if moved is not None:
                gone[moved] = gone.pop(group)
        if not lost.ordered or not _covered(module, gone, lost.masks):
            return False
        doubtful = symmetry.asymmetric(list(gone))
        doubtful += [group for group, channels in gone.items() if group not in doubtful and uneven(group, channels)]
        for group in doubtful:
            cut = cuts.cut(copy.deepcopy(module), {group.root: gone[group]}, [group])
            if refuted_group(module, cut, group, gone[group], example) is not None:
                return False
        return True
    except FAILURES as error:
        coupled.reason(error)
        return False


def refuted_group(
    module: nn.Module, cut: nn.Module, group: coupled.Group, channels: Collection[int], example: Mapping[str, Tensor]
) -> str | None:
    """As `refuted`, where `cut` has lost these channels of a group and nothing else.

    Attention divides by the root of the width of its heads, and some code by the width: so the model with the channels
    at zero may have one of the layers scaled as that changes.
    """
    import torch

    masks = silenced(module, {group: channels})
    why = refuted(module, cut, masks, example)
    share = 1 - len(set(channels)) / group.channels
    for layer in group.giving if why is not None and share else ():
        for power in (0.5, 1.0):
            scaled = copy.deepcopy(module)
            with torch.no_grad():
                for item in scaled.get_submodule(layer).parameters(recurse=False):
                    item.mul_(share**-power)
            if refuted(scaled, cut, masks, example) is None:
                return None
    return why


def uneven(group: coupled.Group, channels: Collection[int]) -> bool:
    """Whether `channels` are more in some of the group's blocks than in others."""
    size = group.channels // group.blocks
    return len({sum(channel // size == block for channel in channels) for block in range(group.blocks)}) > 1


def silenced(module: nn.Module, gone: Mapping[coupled.Group, Collection[int]]) -> dict[str, Tensor]:
    """Masks of the numbers that go with these channels of groups."""
    import torch

    own = tensors(module)
    masks: dict[str, Tensor] = {}
    for group, channels in gone.items():
        for axis in group.axes:
            mask = masks.setdefault(axis.tensor, torch.zeros(own[axis.tensor].shape, dtype=torch.bool))
            positions = sorted({position for channel in channels for position in axis.positions[channel]})
            mask.index_fill_(axis.axis, torch.tensor(positions, dtype=torch.long), True)
    return masks


def _covered(module: nn.Module, gone: Mapping[coupled.Group, Collection[int]], lost: Mapping[str, Tensor]) -> bool:
    """Whether nothing else was lost than what goes with these channels, and all of that."""
    import torch

    masks = silenced(module, gone)
    own = tensors(module)
    ours = {name for name, mask in masks.items() if bool(mask.any())}
    return ours == set(lost) and all(torch.equal(masks[name], lost[name]) for name in ours if name in own)


def _gone(group: coupled.Group, masks: Mapping[str, Tensor]) -> set[int]:
    """The channels of a group that were lost in the layer that gives them."""
    axis = group.axes[0]
    mask = masks.get(axis.tensor)
    if mask is None:
        return set()
    whole = mask.movedim(axis.axis, 0).reshape(mask.shape[axis.axis], -1).all(1)
    return {channel for channel, at in enumerate(axis.positions) if at and bool(whole[list(at)].all())}
