"""How tensors are nested and named: one, a tuple or a dictionary, and the flat names that files and runtimes use."""

from __future__ import annotations

import inspect
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
        return _stacked([piece for piece in pieces if isinstance(piece, Tensor)], padding)
    if isinstance(first, dict):
        return {
            name: _stacked([piece[name] for piece in pieces if isinstance(piece, dict)], padding) for name in first
        }
    columns = zip(*[piece for piece in pieces if isinstance(piece, tuple)], strict=True)
    return tuple(_stacked(column, padding) for column in columns)


def _stacked(pieces: Sequence[Tensor], padding: float) -> Tensor:
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

    Nested answers are flattened, the names joined by "_"; None is left out. Raises OptlangError for anything else.
    """
    if isinstance(value, Tensor):
        return {"output": value}
    found: dict[str, Tensor] = {}

    def walk(item: Any, name: str) -> None:
        if isinstance(item, Tensor):
            found[name] = item
        elif isinstance(item, Mapping):
            for key, inner in item.items():
                walk(inner, f"{name}_{key}" if name else str(key))
        elif isinstance(item, tuple | list):
            for index, inner in enumerate(item):
                walk(inner, f"{name or 'output'}_{index}")
        elif item is not None:
            raise OptlangError(
                f"the model answers with a {type(item).__name__}",
                help="forward must return a tensor, a tuple of tensors or a dictionary of tensors",
            )

    walk(value, "")
    if not found:
        raise OptlangError("the model's answer holds no tensor", help="forward must return at least one tensor")
    return found


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


def forward_names(module: torch.nn.Module) -> tuple[tuple[str, ...], bool]:
    """The names of `forward`'s positional arguments, and whether it takes any further ones (`*args`, `**kwargs`)."""
    parameters = inspect.signature(module.forward).parameters.values()
    kinds = inspect.Parameter
    named = tuple(item.name for item in parameters if item.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD))
    return named, any(item.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD) for item in parameters)


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
