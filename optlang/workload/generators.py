"""Generators of random numbers that belong to an object: a DataLoader, a data set, a layer. The process's own are none
of them.

Without a hand on them what an object draws depends on what was drawn from it before: on how many passes over the data
another training has made in this process.
"""

from __future__ import annotations

import functools
import random
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy
import torch
from torch import Tensor, nn

Generator: TypeAlias = torch.Generator | numpy.random.Generator | numpy.random.RandomState | random.Random

_KINDS = (torch.Generator, numpy.random.Generator, numpy.random.RandomState, random.Random)
_DEPTH = 8
_LOOKED_AT = 5000
"""Objects that are looked at, at most: a list of all files of a data set has no generators at its end."""

_LEAVES = (
    Tensor, numpy.ndarray, nn.Module, str, bytes, int, float, bool, type(None), type, types.ModuleType,
    types.BuiltinFunctionType,
)


def of(root: Any) -> list[Generator]:
    """The generators that `root` holds, in the order in which its attributes name them; each once.

    They are looked for in attributes, lists, tuples, dictionaries, in what functions are bound to, and among the global
    names of the modules that its functions and classes are from. The process's own generators are left out.
    """
    found: list[Generator] = []
    modules: set[int] = set()
    waiting, seen = [(root, 0)], {id(item) for item in _of_the_process()}
    for looked_at in range(_LOOKED_AT):
        if looked_at >= len(waiting):
            break
        value, depth = waiting[looked_at]
        if isinstance(value, _LEAVES) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, _KINDS):
            found.append(value)
        elif depth < _DEPTH:
            waiting += ((item, depth + 1) for item in _held(value)[:_LOOKED_AT])
            for names in _namespaces(value):
                if id(names) not in modules:
                    modules.add(id(names))
                    waiting += ((item, depth + 1) for item in list(names.values()) if isinstance(item, _KINDS))
    return found


def _of_the_process() -> tuple[Generator, ...]:
    """What the functions of the modules `random` and `numpy.random` draw from, and torch's."""
    python: Any = random.seed
    arrays: Any = numpy.random.random_sample
    return python.__self__, arrays.__self__, torch.default_generator


def _held(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, types.FunctionType):
        return [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
    return list(vars(value).values()) if hasattr(value, "__dict__") else []


def _namespaces(value: Any) -> Iterator[dict[str, Any]]:
    """The global names that a function sees, or those that the methods of an object see."""
    if isinstance(value, types.FunctionType):
        yield value.__globals__
        return
    for kind in type(value).__mro__:
        module = sys.modules.get(kind.__module__)
        if module is not None and kind is not object:
            yield vars(module)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty one raises
    except ValueError:
        return False
    return True


def seed(generator: Generator, number: int) -> None:
    """Begin again, with the numbers that belong to `number`."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(number % 2**63)
    elif isinstance(generator, numpy.random.Generator):
        kind: Any = type(generator.bit_generator)
        generator.bit_generator.state = kind(number).state
    elif isinstance(generator, numpy.random.RandomState):
        generator.seed(number % 2**32)
    else:
        generator.seed(number)


def state(generator: Generator) -> Any:
    """Where it stands."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, numpy.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, numpy.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.getstate()


def set_state(generator: Generator, kept: Any) -> None:
    """Have it stand where it stood."""
    if isinstance(generator, torch.Generator):
        generator.set_state(kept)
    elif isinstance(generator, numpy.random.Generator):
        generator.bit_generator.state = kept
    elif isinstance(generator, numpy.random.RandomState):
        generator.set_state(kept)
    else:
        generator.setstate(kept)
