"""Arrays of samples whose shapes may differ: how they are held, taken by equal shape, and padded. Imports no torch.

Where all samples have one shape an array is dense, its first axis the samples. Else it is an array of objects, one
array a sample: its length, slices and rows by number are those of a dense one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Array, Arrays

if TYPE_CHECKING:
    import numpy

Shapes = tuple[tuple[int, ...], ...]


def is_ragged(array: Array) -> bool:
    """Whether the samples of `array` differ in shape."""
    return bool(array.dtype.kind == "O")


def column(pieces: Sequence[Array]) -> Array:
    """Pieces (dense or of objects), one after the other."""
    import numpy

    if not any(is_ragged(piece) for piece in pieces) and len({piece.shape[1:] for piece in pieces}) <= 1:
        return numpy.concatenate(pieces) if len(pieces) > 1 else pieces[0]
    rows = [row for piece in pieces for row in piece]
    if len({row.shape for row in rows}) <= 1:
        return numpy.stack(rows)
    return _objects(rows)


def _objects(rows: Sequence[Array]) -> Array:
    import numpy

    made = numpy.empty(len(rows), dtype=object)
    for place, row in enumerate(rows):
        made[place] = row
    return made


def taken(arrays: Arrays, places: Any) -> dict[str, Array]:
    """The samples at `places` (numbers, or a slice); dense where these have one shape."""
    found = {}
    for name, item in arrays.items():
        rows = item[places]
        found[name] = column([rows]) if is_ragged(rows) and len(rows) else rows
    return found


def shapes_of(arrays: Arrays) -> list[Shapes]:
    """Of each sample its shapes, in the order of the names."""
    count = len(next(iter(arrays.values())))
    columns = [
        [row.shape for row in item] if is_ragged(item) else [item.shape[1:]] * count for item in arrays.values()
    ]
    return list(zip(*columns, strict=True))


def groups(arrays: Arrays) -> Iterator[tuple[Array, dict[str, Array]]]:
    """Samples of equal shapes together, as dense arrays with their places, in the order of their first ones."""
    import numpy

    count = len(next(iter(arrays.values())))
    if not any(is_ragged(item) for item in arrays.values()):
        yield numpy.arange(count), dict(arrays)
        return
    by_shape: dict[Shapes, list[int]] = {}
    for place, shapes in enumerate(shapes_of(arrays)):
        by_shape.setdefault(shapes, []).append(place)
    for found in by_shape.values():
        places = numpy.asarray(found)
        yield places, taken(arrays, places)


def calls(arrays: Arrays, size: int) -> Iterator[tuple[Array, dict[str, Array]]]:
    """Calls of exactly `size` samples of equal shapes, with the places of those that count.

    The last call of a shape is filled up with the first samples of that shape: an answer may depend on its neighbours.
    """
    import numpy

    for places, group in groups(arrays):
        count = len(places)
        for start in range(0, count, size):
            rows: Any = slice(start, start + size)
            if start + size > count:
                rows = numpy.arange(start, start + size) % count
            yield places[start : start + size], {name: item[rows] for name, item in group.items()}


def batches(arrays: Arrays, size: int) -> Iterator[dict[str, Array]]:
    """At most `size` samples of equal shapes at once; nothing is repeated."""
    for places, group in groups(arrays):
        for start in range(0, len(places), size):
            yield {name: item[start : start + size] for name, item in group.items()}


def in_order(pieces: Sequence[tuple[Array, Mapping[str, Array]]]) -> dict[str, Array]:
    """Arrays by name from pieces with their places; the samples in the order of their places."""
    import numpy

    places = numpy.concatenate([found for found, _ in pieces])
    joined = {name: column([piece[name] for _, piece in pieces]) for name in pieces[0][1]}
    if bool((numpy.diff(places) > 0).all()):
        return joined
    order = numpy.argsort(places)
    return {name: item[order] for name, item in joined.items()}


def padded(array: Array, value: float = 0, shape: Sequence[int] | None = None) -> Array:
    """A dense array: each sample is filled up with `value` at the end of its axes, to the largest one or to `shape`."""
    import numpy

    if not is_ragged(array):
        if shape is None or tuple(shape) == array.shape[1:]:
            return array
        rows: Sequence[Array] = list(array)
    else:
        rows = list(array)
    if len({row.ndim for row in rows}) > 1:
        raise ValueError("samples with different numbers of axes cannot be padded")
    if shape is None:
        shape = [max(sizes) for sizes in zip(*(row.shape for row in rows), strict=True)]
    made: numpy.ndarray[Any, Any] = numpy.full((len(rows), *shape), value, dtype=rows[0].dtype)
    for place, row in enumerate(rows):
        inside: tuple[Any, ...] = tuple(slice(size) for size in row.shape)
        made[(place, *inside)] = row
    return made


def one_size(*arrays: Array) -> list[Array]:
    """Arrays of as many samples, padded with zeros to the largest size of any of them."""
    if not any(is_ragged(item) for item in arrays) and len({item.shape[1:] for item in arrays}) == 1:
        return list(arrays)
    dense = [padded(item) for item in arrays]
    if len({item.ndim for item in dense}) > 1:
        return dense
    most = [max(sizes) for sizes in zip(*(item.shape[1:] for item in dense), strict=True)]
    return [padded(item, shape=most) for item in dense]


# ---- files


def save(path: Path, arrays: Arrays) -> int:
    """Write arrays to an .npz file, those of equal shapes together; the number of such groups, which `read` needs."""
    import numpy

    found = list(groups(arrays))
    # By their order: an input may have a name that savez takes for its own.
    stored = [item for _, group in found for item in group.values()]
    stored += [places for places, _ in found] if len(found) > 1 else []
    numpy.savez(path, *stored)
    return len(found)


def read(path: Path, names: Sequence[str], count: int) -> dict[str, Array]:
    """What `save` wrote: the arrays of these names, in `count` groups."""
    import numpy

    with numpy.load(path, allow_pickle=False) as stored:
        pieces = [
            {name: stored[f"arr_{number * len(names) + index}"] for index, name in enumerate(names)}
            for number in range(count)
        ]
        if count == 1:
            return pieces[0]
        places = [stored[f"arr_{count * len(names) + number}"] for number in range(count)]
    return in_order(list(zip(places, pieces, strict=True)))
