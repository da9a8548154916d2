"""Finds the blocks of a model that can be removed whole, and removes them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from optlang.interfaces import JSON
from optlang.techniques.shared.proof import shared, trains
from optlang.techniques.shared.skipped import skipping, watching
from optlang.techniques.shared.symmetry import answers, unequal
from optlang.workload.failures import attempt, first_line

# A block has more than one layer of weights: a layer with its norm and activation is none.
_LEAST = 2


@dataclass(frozen=True, slots=True)
class Stack:
    """A list of blocks in a model: an `nn.ModuleList` or `nn.Sequential`, with all its children's keys in order.

    `blocks` are the keys of those with several layers of weights, `open` of those that may be removed, as far as shapes
    tell.
    """

    name: str
    keys: tuple[str, ...]
    blocks: tuple[str, ...]
    open: tuple[str, ...]

    def path(self, key: str) -> str:
        """The name of a block."""
        return _path(self.name, key)


def _path(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


Numbers = Mapping[str, Mapping[str, int]]
"""Numbers that count blocks: by the module that has them, or its configuration ("MODULE config")."""


def stacks(module: nn.Module, example: Mapping[str, Tensor]) -> tuple[list[Stack], dict[str, str]]:
    """The lists of blocks in `module` whose blocks give what they take, and why others are not removed, by name.

    A block inside another is no block of its own, as long as the outer list has several.
    """
    lists = {
        name: layer for name, layer in module.named_modules()
        if isinstance(layer, nn.ModuleList | nn.Sequential) and len(layer)
    }
    parts = {
        _path(name, key): child for name, layer in lists.items()
        for key, child in layer.named_children() if _weights(child) >= _LEAST
    }
    shapes: dict[str, list[tuple[Any, Any]]] = {name: [] for name in parts}

    def see(name: str, taken: Any, given: Any) -> None:
        shapes[name].append((_kind(taken), _kind(given)))

    with watching(module, list(parts), see):
        answers(module, example)
    tied = {name for names in shared(module) for name in names}
    why = {name: _why(name, child, shapes[name], tied) for name, child in parts.items()}
    found = [
        Stack(
            name, tuple(layer._modules), tuple(key for key in layer._modules if _path(name, key) in parts),
            tuple(key for key in layer._modules if why.get(_path(name, key), "") is None),
        )
        for name, layer in lists.items()
    ]
    chosen = _outermost([item for item in found if item.open])
    left = {}
    for stack in chosen:
        left.update({
            stack.path(key): reason for key in stack.keys if (reason := why.get(stack.path(key)))
        })
    if not chosen:
        left = {name: reason for name, reason in why.items() if reason and len(shapes[name]) > 1}
    return chosen, left


def _outermost(found: Sequence[Stack]) -> list[Stack]:
    """Of lists within blocks of lists the outer ones, where all that is in them are blocks.

    A list of one block loses none: it counts only where there is no other. What gates the channels within a residual
    block is such a one.
    """
    several = [item for item in found if len(item.blocks) > 1]
    if several and len(several) < len(found):
        return _outermost(several)
    chosen: list[Stack] = []
    for stack in sorted(found, key=lambda item: item.name.count(".") if item.name else -1):
        paths = [stack.path(key) for key in stack.open]
        if any(_inside(stack.name, other.path(key)) for other in chosen for key in other.open):
            continue
        inner = [other for other in found if any(_inside(other.name, path) for path in paths)]
        if not inner or (len(stack.open) > 1 and stack.open == stack.blocks):
            chosen.append(stack)
    return chosen


def _inside(name: str, block: str) -> bool:
    return name == block or name.startswith(f"{block}.")


def _weights(module: nn.Module) -> int:
    """How many layers of weights a module has."""
    return sum(
        any(item.ndim > 1 for item in layer.parameters(recurse=False)) for layer in module.modules()
    )


def _kind(value: Tensor | None) -> tuple[Any, ...] | None:
    return None if value is None else (*value.shape, value.dtype)


def _why(name: str, block: nn.Module, shapes: Sequence[tuple[Any, Any]], tied: set[str]) -> str | None:
    """Why a block cannot be removed, by what it was called with; None where it may be."""
    if len(shapes) != 1:
        return "it is not called" if not shapes else f"it is called {len(shapes)} times, with one set of weights"
    taken, given = shapes[0]
    if taken is None or taken != given:
        return f"what it takes and what it gives have other shapes ({_shown(taken)} and {_shown(given)})"
    if not taken[-1].is_floating_point:
        return "it takes whole numbers"
    other = next((f"{name}.{own}" for own, _ in block.named_parameters() if f"{name}.{own}" in tied), None)
    return f"{other} is the weight of another layer too" if other else None


def _shown(kind: tuple[Any, ...] | None) -> str:
    return "no tensor" if kind is None else "×".join(str(item) for item in kind[:-1]) or "a number"


# ---- removing


def remove(module: nn.Module, kept: Mapping[str, Sequence[str]], numbers: Numbers) -> Callable[[], None]:
    """Keep these blocks of the lists, by their keys, in place; what is returned undoes it.

    A list of modules is numbered again, and so are numbers of their position that blocks have (`layer_idx`).
    """
    undo = ExitStack()
    for name, keys in kept.items():
        stack = module.get_submodule(name)
        before = dict(stack._modules)
        undo.callback(_fill, stack, before)
        positions = [list(before).index(key) for key in keys]
        for layer, attribute, old in _positions(list(before.values())):
            if old in positions:
                setattr(layer, attribute, positions.index(old))
            undo.callback(setattr, layer, attribute, old)
        numbered = isinstance(stack, nn.ModuleList)
        _fill(stack, {str(index) if numbered else key: before[key] for index, key in enumerate(keys)})
    for name, values in numbers.items():
        holder = _holder(module, name)
        for attribute, value in values.items():
            old = getattr(holder, attribute)
            setattr(holder, attribute, value)
            undo.callback(setattr, holder, attribute, old)
    return undo.close


def renamed(module: nn.Module, kept: Mapping[str, Sequence[str]], name: str) -> str | None:
    """What a parameter of `module` is called when these blocks are kept; None where it is gone."""
    for stack, keys in kept.items():
        start = f"{stack}." if stack else ""
        if not name.startswith(start):
            continue
        key, _, rest = name.removeprefix(start).partition(".")
        if key not in module.get_submodule(stack)._modules:
            continue
        if key not in keys:
            return None
        if isinstance(module.get_submodule(stack), nn.ModuleList):
            return f"{start}{keys.index(key)}.{rest}"
    return name


def _fill(stack: nn.Module, modules: Mapping[str, nn.Module | None]) -> None:
    stack._modules.clear()
    stack._modules.update(modules)


def _holder(module: nn.Module, name: str) -> Any:
    layer, _, own = name.partition(" ")
    found = module.get_submodule(layer)
    return getattr(found, own) if own else found


def _positions(blocks: Sequence[nn.Module | None]) -> Iterator[tuple[nn.Module, str, int]]:
    """The attributes of blocks that are the block's position in all of them: the layer, the name, the position."""
    inner = [dict(block.named_modules()) for block in blocks if block is not None]
    if len(inner) != len(blocks) or len(blocks) < 2:
        return
    for name, layer in inner[0].items():
        for attribute in [key for key, value in vars(layer).items() if type(value) is int and value == 0]:
            layers = [item.get(name) for item in inner]
            values = [vars(item).get(attribute) if item is not None else None for item in layers]
            if values == list(range(len(blocks))) and all(type(value) is int for value in values):
                yield from ((item, attribute, index) for index, item in enumerate(layers) if item is not None)


class Removing:
    """Finds out which blocks can be removed from a module, one by one: the answers must be those with it skipped.

    `left` says why others cannot. What counts blocks (`depth`, a configuration's `num_hidden_layers`) is changed where
    the model does not run otherwise.
    """

    def __init__(
        self, module: nn.Module, found: Sequence[Stack], example: Mapping[str, Tensor], chosen: Callable[[str], bool]
    ) -> None:
        self._module, self._example, self._stacks = copy.deepcopy(module).eval(), example, list(found)
        self._shapes = trains(self._module, example)
        self.left: dict[str, str] = {}
        self.open: list[str] = []
        names = [
            (stack.path(key), len(stack.blocks)) for stack in found for key in stack.open if chosen(stack.path(key))
        ]
        for name, count in names:
            # The last block of a list stays anyway.
            why = self.arguments([name], training=False) if count > 1 else {}
            if isinstance(why, str):
                self.left[name] = why
            else:
                self.open.append(name)

    def in_training(self) -> bool:
        """Leave alone what breaks the model in training mode, which may take another path; whether anything does."""
        self.left |= {name: why for name in self.open if isinstance(why := self.arguments([name]), str)}
        before, self.open = self.open, [name for name in self.open if name not in self.left]
        return self.open != before

    def kept(self, gone: Sequence[str]) -> dict[str, list[str]]:
        """The keys that stay, of the lists that lose some of these blocks."""
        return {
            stack.name: [key for key in stack.keys if stack.path(key) not in gone]
            for stack in self._stacks if any(stack.path(key) in gone for key in stack.keys)
        }

    def arguments(self, gone: Sequence[str], *, training: bool = True) -> dict[str, JSON] | str:
        """What `remove` takes to remove these blocks, or why they cannot be removed."""
        with skipping(self._module, gone):
            wanted = attempt(lambda: answers(self._module, self._example))
        if isinstance(wanted, Exception):
            return first_line(wanted)
        reason = ""
        for numbers in self._numbers(gone):
            why = self._differ(gone, numbers, wanted, training)
            if why is None:
                return {
                    "kept": {name: list(keys) for name, keys in self.kept(gone).items()},
                    "numbers": {name: dict(values) for name, values in numbers.items()},
                }
            reason = reason or why
        return reason

    def _differ(
        self, gone: Sequence[str], numbers: Numbers, wanted: Mapping[str, Tensor], training: bool
    ) -> str | None:
        undo = remove(self._module, self.kept(gone), numbers)
        try:
            found = attempt(lambda: answers(self._module, self._example))
            if isinstance(found, Exception):
                return f"the model's code counts on it ({first_line(found)})"
            if unequal(found, wanted) is not None:
                return "without it the model gives other answers than with its input for its output"
            if training and self._shapes is not None and trains(self._module, self._example) != self._shapes:
                return "in training mode the model's code counts on it"
            return None
        finally:
            undo()

    def _numbers(self, gone: Sequence[str]) -> Iterator[Numbers]:
        """Nothing; all that may count the blocks of the lists that lose some; each of that by itself."""
        every: list[tuple[str, str, int]] = []
        for stack in self._stacks:
            lost = sum(stack.path(key) in gone for key in stack.keys)
            if not lost:
                continue
            parts = stack.name.split(".") if stack.name else []
            for count in range(len(parts)):
                above = ".".join(parts[:count])
                layer = self._module.get_submodule(above)
                every += [(above, name, len(stack.keys) - lost) for name in _counting(layer, len(stack.keys))]
                config = getattr(layer, "config", None)
                if config is not None and hasattr(config, "__dict__"):
                    every += [
                        (f"{above} config", name, len(stack.keys) - lost)
                        for name in _counting(config, len(stack.keys)) if "layer" in name
                    ]
        yield {}
        for count in (len(every), *([1] if len(every) > 1 else [])):
            for chosen in itertools.combinations(every, count) if every else ():
                found: dict[str, dict[str, int]] = {}
                for holder, name, value in chosen:
                    found.setdefault(holder, {})[name] = value
                yield found


def _counting(holder: Any, count: int) -> list[str]:
    return [name for name, value in vars(holder).items() if type(value) is int and value == count]
