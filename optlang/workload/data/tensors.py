"""How tensors are nested and named: one, a tuple or a dictionary, and the flat names that files and runtimes use."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy
import torch
from torch import Tensor

from optlang.interfaces import JSON, Array, OptlangError

Tensors: TypeAlias = "Tensor | tuple[Tensor, ...] | dict[str, Tensor]"
"""What a model takes, gives or is compared with."""

# Values of integer inputs are kept up to this many, so that an example of token ids is a real one.
_KEPT_VALUES = 4096


def tensor(value: Any, what: str) -> Tensor:
    """`value` (an array, a tensor, a sequence of numbers) as a tensor on the CPU; float64 becomes float32."""
    if not isinstance(value, Tensor):
        try:
            array = numpy.asarray(value)
        except ValueError as error:
            raise OptlangError(f"{what} cannot be read as an array: {error}") from error
        if array.dtype.kind not in "biuf":
            raise OptlangError(
                f"{what} is an array of {array.dtype}",
                help="samples of different shapes are for a map-style Dataset or a DataLoader"
                if array.dtype.kind == "O" else "give numbers: float32 for measurements, int64 for labels",
            )
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(numpy.int64)
        if not array.flags.writeable or not array.flags.c_contiguous or not array.dtype.isnative:
            array = numpy.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        value = torch.from_numpy(array)
    value = value.detach().cpu()
    assert isinstance(value, Tensor)
    return value.float() if value.dtype == torch.float64 else value


def array(item: Tensor) -> Array:
    """A tensor as an array; in float32 where it has 16 bits: numpy has no bfloat16, and answers are measured alike."""
    return (item.float() if item.dtype in (torch.float16, torch.bfloat16) else item).numpy(force=True)


def nested(value: Any, what: str) -> Tensors:
    """`value` with tensors in the place of arrays: a dictionary and a tuple stay what they are."""
    if isinstance(value, Mapping):
        if not value:
            raise OptlangError(f"{what} is an empty dictionary")
        return {str(name): tensor(item, f"{what}['{name}']") for name, item in value.items()}
    if isinstance(value, tuple) or (isinstance(value, list) and value and _is_array(value[0])):
        if not value:
            raise OptlangError(f"{what} is an empty tuple")
        return tuple(tensor(item, f"{what}[{index}]") for index, item in enumerate(value))
    return tensor(value, what)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | numpy.ndarray) and value.ndim > 0


def leaves(value: Tensors) -> tuple[Tensor, ...]:
    """The tensors of `value` in order."""
    if isinstance(value, Tensor):
        return (value,)
    return tuple(value.values()) if isinstance(value, dict) else tuple(value)


def mapped(value: Tensors, change: Callable[[Tensor], Tensor]) -> Tensors:
    """`value` with every tensor replaced by what `change` gives for it."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: change(item) for name, item in value.items()}
    return tuple(change(item) for item in value)


def joined(pieces: Sequence[Tensors], padding: float = 0) -> Tensors:
    """Batches, joined along their first axis; those of different sizes are filled up with `padding` to the largest."""
    first = pieces[0]
    if isinstance(first, Tensor):
        return stacked([piece for piece in pieces if isinstance(piece, Tensor)], padding)
    if isinstance(first, dict):
        return {
            name: stacked([piece[name] for piece in pieces if isinstance(piece, dict)], padding) for name in first
        }
    columns = zip(*[piece for piece in pieces if isinstance(piece, tuple)], strict=True)
    return tuple(stacked(column, padding) for column in columns)


def stacked(pieces: Sequence[Tensor], padding: float) -> Tensor:
    """One tensor of several, joined along the first axis; those of other sizes are filled up with `padding`."""
    shapes = {piece.shape[1:] for piece in pieces}
    if len(shapes) > 1 and len({len(shape) for shape in shapes}) == 1:
        most = [max(sizes) for sizes in zip(*shapes, strict=True)]
        pieces = [_filled(piece, most, padding) for piece in pieces]
    return torch.cat(list(pieces))


def _filled(piece: Tensor, shape: Sequence[int], padding: float) -> Tensor:
    made = piece.new_full((len(piece), *shape), padding)
    made[(slice(None), *(slice(size) for size in piece.shape[1:]))] = piece
    return made


def flat_outputs(value: Any) -> dict[str, Tensor]:
    """A model's answer by name: one tensor is "output", a tuple "output_0", "output_1", …, a dictionary keeps its keys.

    A dataclass is as a dictionary of its fields. Nested answers are flattened, the names joined by "_"; None is left
    out, and so are caches of attention (see `caches`). Raises OptlangError for anything else.
    """
    if isinstance(value, Tensor):
        return {"output": value}
    found: dict[str, Tensor] = {}

    def walk(item: Any, name: str) -> None:
        if isinstance(item, Tensor):
            found[name] = item
        elif (members := members_of(item)) is not None:
            for key, inner, _ in members:
                walk(inner, f"{name}_{key}" if name else f"output_{key}" if isinstance(key, int) else key)
        elif item is not None and not _is_cache(item):
            where = f" in `{name}`" if name else ""
            raise OptlangError(
                f"the model answers with a {type(item).__name__}{where}",
                help="forward must return a tensor, a tuple of tensors or a dictionary of tensors",
            )

    walk(value, "")
    if not found:
        raise OptlangError("the model's answer holds no tensor", help="forward must return at least one tensor")
    return found


def members_of(value: Any) -> list[tuple[int | str, Any, str]] | None:
    """What an answer consists of: the key of each member, the member, and how Python reaches it ("[0]", ".logits").

    None for what has no members.
    """
    if isinstance(value, Mapping):
        return [(str(key), inner, f"[{json.dumps(key)}]") for key, inner in value.items()]
    if isinstance(value, tuple | list):
        return [(index, inner, f"[{index}]") for index, inner in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in dataclasses.fields(value)]
        return [(name, getattr(value, name), f".{name}") for name in names]
    return None


def _is_cache(value: Any) -> bool:
    """Whether it is what Transformers keeps of attention for the next token: nothing that a task scores."""
    return any(item.__name__ == "Cache" and item.__module__.startswith("transformers.") for item in type(value).__mro__)


def caches(value: Any, name: str = "") -> list[str]:
    """The members of an answer that `flat_outputs` leaves out since they are caches of attention."""
    if _is_cache(value):
        return [name or "output"]
    return [found for key, inner, _ in members_of(value) or () for found in caches(inner, f"{name}.{key}".strip("."))]


def check_batched(outputs: Mapping[str, Tensor], samples: int) -> None:
    """Raise OptlangError where an answer to so many samples has another first axis (the state of an LSTM, say)."""
    for name, item in outputs.items():
        if item.shape[:1] != (samples,):
            raise OptlangError(
                f"the model answers {samples} samples with {name} of the shape {tuple(item.shape)}: the first axis of "
                "an answer is the samples",
                help="let forward return what the task needs and nothing else: no hidden state, no loss",
            )


def structured(outputs: Mapping[str, Tensor]) -> Tensors:
    """Outputs by name as the model gave them: what `flat_outputs` made flat, undone."""
    names = list(outputs)
    if names == ["output"]:
        return outputs["output"]
    if names == [f"output_{index}" for index in range(len(names))]:
        return tuple(outputs.values())
    return dict(outputs)


def forward_names(module: torch.nn.Module) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """The names of `forward`'s arguments in order, those that are given by name alone, and whether it takes any others.

    The first include what must be given by name; the second are those that may be left out (`*, mask=None`). Any others
    are taken by `*args` and `**kwargs`.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    kinds = inspect.Parameter
    only = [item for item in parameters if item.kind is kinds.KEYWORD_ONLY]
    named = tuple(item.name for item in parameters if item.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD))
    named += tuple(item.name for item in only if item.default is kinds.empty)
    optional = tuple(item.name for item in only if item.default is not kinds.empty)
    return named, optional, any(item.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD) for item in parameters)


def describe(inputs: Mapping[str, Tensor]) -> dict[str, JSON]:
    """Example inputs as JSON: shapes and dtypes, and the values where they are few integers (ids, lengths)."""
    described: dict[str, JSON] = {}
    for name, item in inputs.items():
        about: dict[str, JSON] = {"shape": list(item.shape), "dtype": str(item.dtype).removeprefix("torch.")}
        if not item.is_floating_point() and item.numel() <= _KEPT_VALUES:
            about["values"] = item.flatten().tolist()
        described[name] = about
    return described


def imagined(described: Mapping[str, Any]) -> dict[str, Tensor]:
    """Inputs like the described ones: ones where the values are not known."""
    made: dict[str, Tensor] = {}
    for name, about in described.items():
        dtype = getattr(torch, about["dtype"])
        if "values" in about:
            made[name] = torch.tensor(about["values"], dtype=dtype).reshape(about["shape"])
        else:
            made[name] = torch.ones(about["shape"], dtype=dtype)
    return made
