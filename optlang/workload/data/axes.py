"""Which axes of the inputs have no fixed size, besides the samples: as seen in the data, or declared open."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optlang.diagnostics.suggest import closest
from optlang.interfaces import OptlangError
from optlang.plan.axes import AxisSizes, parsed, wrong

Shapes = tuple[tuple[int, ...], ...]
"""The shape of each input of one sample, in the order of the inputs."""


@dataclass(frozen=True, slots=True)
class OpenAxis:
    """An axis of any size; `places` are the inputs that have it, and which of their axes it is (0 is the samples).

    `low`, `usual` and `high` are the smallest and the largest size to answer, and the one to trace and to time with.
    `guessed` says that `low` and `high` are nobody's: the data have one size, and none was declared.
    """

    name: str
    places: tuple[tuple[str, int], ...]
    low: int
    usual: int
    high: int
    guessed: bool = False

    @property
    def text(self) -> str:
        """Its first place as studies name it: "tokens:1"."""
        name, axis = self.places[0]
        return f"{name}:{axis}"


@dataclass(frozen=True, slots=True)
class Observed:
    """The shapes that samples have, each with the number of samples that have it, in the order of their first ones."""

    counts: Mapping[Shapes, int]

    @property
    def varied(self) -> bool:
        """Whether samples differ in shape."""
        return len(self.counts) > 1

    def ordered(self) -> list[Shapes]:
        """The shapes, from the fewest numbers a sample to the most."""
        return sorted(self.counts, key=lambda shapes: (sum(map(math.prod, shapes)), shapes))

    @property
    def middle(self) -> Shapes:
        """The shape of the sample in the middle, when they are ordered by how many numbers they have."""
        half, seen = sum(self.counts.values()) / 2, 0
        for shapes in self.ordered():
            seen += self.counts[shapes]
            if seen >= half:
                return shapes
        raise AssertionError("no sample was seen")


def opened(
    observed: Observed, names: Sequence[str], declared: Sequence[AxisSizes] = (), timed: Sequence[AxisSizes] = ()
) -> tuple[OpenAxis, ...]:
    """The open axes of inputs that have these `names`: those whose sizes differ in the data, and those declared.

    Axes of two inputs are one where their sizes agree in all samples; the same axis of another input is declared with
    it then. `timed` are sizes that are the usual ones, in
    place of those of the data. Raises OptlangError for a declared axis that no input has, for a size of one that is
    not open, and where samples have different numbers of axes.
    """
    sizes = _sizes(observed, names)
    wanted = {(item.input, item.axis): item for item in declared}
    for setting, named in (("`dynamic`", declared), ("`shape`", timed)):
        for item in named:
            _check(setting, item, names, sizes)
    middle = list(observed.counts).index(observed.middle)
    together: list[list[tuple[str, int]]] = []
    # What is as large in all samples is opened too: a mask with its tokens.
    along = {(item.axis, sizes[item.input, item.axis]) for item in declared}
    for place, found in sizes.items():
        if len(set(found)) == 1 and place not in wanted and (place[1], found) not in along:
            continue
        # Height and width of one image are two, though all images may be square.
        group = next(
            (group for group in together if group[0][0] != place[0] and sizes[group[0]] == found), None
        )
        if group is None:
            together.append([place])
        else:
            group.append(place)
    chosen = {(item.input, item.axis): item for item in timed}
    for place, item in chosen.items():
        if not any(place in group for group in together):
            raise OptlangError(
                f"`shape` gives {item.place} the size {item.low}, and all samples have {sizes[place][0]} there",
                help=f'open the axis: dynamic = ["{item.place}"]',
            )
    return tuple(_one(group, sizes[group[0]], middle, wanted, chosen) for group in together)


def of_factory(said: Any, what: str) -> tuple[AxisSizes, ...]:
    """The axes that a data factory returned under 'dynamic', written as a target's.

    Raises OptlangError, naming `what`, where it returned anything else.
    """
    form = '"dynamic": ["tokens:1"], or with the sizes "tokens:1 = 8..128"'
    if said is None:
        return ()
    if not isinstance(said, list | tuple):
        raise OptlangError(f"'dynamic' of {what} is a {type(said).__name__}", help=f"return a list of texts: {form}")
    found: dict[str, AxisSizes] = {}
    for text in said:
        item = parsed(text) if isinstance(text, str) else None
        if item is None:
            raise OptlangError(f"'dynamic' of {what} contains {text!r}, which names no axis", help=f"return {form}")
        trouble = wrong("dynamic", item)
        if trouble is not None:
            raise OptlangError(f"'dynamic' of {what} cannot have \"{text}\": {trouble[0]}", help=trouble[1])
        if item.place in found:
            raise OptlangError(f"'dynamic' of {what} names \"{item.place}\" twice", help="keep one of them")
        found[item.place] = item
    return tuple(found.values())


def check(setting: str, declared: Sequence[AxisSizes], observed: Observed, names: Sequence[str]) -> None:
    """Raise OptlangError, which begins with `setting`, for a declared axis that no input has."""
    sizes = _sizes(observed, names)
    for item in declared:
        _check(setting, item, names, sizes)


def united(first: Sequence[AxisSizes], second: Sequence[AxisSizes]) -> tuple[AxisSizes, ...]:
    """The axes of both; one that both name has the sizes of `first`, or of `second` where that alone says some."""
    found = {item.place: item for item in second}
    for item in first:
        if item.low is not None or item.place not in found:
            found[item.place] = item
    # Inputs that are opened together have the sizes that are said first.
    return tuple(sorted(found.values(), key=lambda item: item not in first))


def _sizes(observed: Observed, names: Sequence[str]) -> dict[tuple[str, int], tuple[int, ...]]:
    """The sizes that each axis of each input has in the shapes that were seen."""
    sizes: dict[tuple[str, int], tuple[int, ...]] = {}
    for index, name in enumerate(names):
        shapes = [found[index] for found in observed.counts if index < len(found)]
        if len({len(shape) for shape in shapes}) > 1:
            raise OptlangError(
                f"samples of {name} have different numbers of axes: "
                f"{' and '.join(str(list(shape)) for shape in _two(shapes))}",
                help="give all samples the same axes; their sizes may differ",
            )
        for axis, found in enumerate(zip(*shapes, strict=True), start=1):
            sizes[name, axis] = found
    return sizes


def _one(
    places: list[tuple[str, int]], sizes: tuple[int, ...], middle: int, wanted: Mapping[tuple[str, int], AxisSizes],
    chosen: Mapping[tuple[str, int], AxisSizes],
) -> OpenAxis:
    found = _of_data(places, sizes, middle, wanted)
    usual = next((item.low for place, item in chosen.items() if place in places), None)
    if usual is None:
        return found
    low, high = (max(1, usual // 2), 2 * usual) if found.guessed else (min(found.low, usual), max(found.high, usual))
    return replace(found, low=low, usual=usual, high=high)


def _of_data(
    places: list[tuple[str, int]], sizes: tuple[int, ...], middle: int, wanted: Mapping[tuple[str, int], AxisSizes]
) -> OpenAxis:
    usual, low, high = sizes[middle], min(sizes), max(sizes)
    said = next((item for place, item in wanted.items() if place in places and item.low is not None), None)
    name = f"{places[0][0]}_{places[0][1]}"
    if said is not None:
        assert said.low is not None
        assert said.high is not None
        low, high = min(low, said.low), max(high, said.high)
        if len(set(sizes)) == 1:
            low, high = said.low, said.high
        return OpenAxis(name, tuple(places), low, min(max(usual, low), high), high)
    if low == high:
        return OpenAxis(name, tuple(places), max(1, usual // 2), usual, 2 * usual, guessed=True)
    return OpenAxis(name, tuple(places), low, usual, high)


def _check(
    setting: str, item: AxisSizes, names: Sequence[str], sizes: Mapping[tuple[str, int], Sequence[int]]
) -> None:
    if item.input not in names:
        near = closest(item.input, names)
        raise OptlangError(
            f"{setting} names the input `{item.input}`, and the inputs are {', '.join(names)}",
            help=f'did you mean "{near}:{item.axis}"?' if near else f'name one of them: "{names[0]}:{item.axis}"',
        )
    if (item.input, item.axis) not in sizes:
        known = [axis for name, axis in sizes if name == item.input]
        raise OptlangError(
            f"{setting} names axis {item.axis} of `{item.input}`, which has "
            + (f"the axes 1 to {max(known)} behind the samples" if known else "no axis but the samples"),
            help=f'write "{item.input}:{max(known)}"' if known else f'remove "{item.input}:{item.axis}"',
        )


def _two(shapes: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    by_axes = {len(shape): shape for shape in shapes}
    return list(by_axes.values())[:2]
