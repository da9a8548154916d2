"""Enumerates the values that knobs can have together, conditions respected, to ask what holds in some or in all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import permutations

from optlang.plan.domains import values_of
from optlang.plan.expressions import Environment, Expression, KnobRef, Value, holds, references
from optlang.plan.model import Impossible, Knob, OrderDomain

LIMIT = 100_000
"""How many combinations are looked at; a question about more has no exact answer here."""

Assignment = Mapping[str, Value]


class TooManyError(Exception):
    """More combinations than `LIMIT`."""


def named(expression: Expression | None) -> set[str]:
    """The paths of the knobs that a condition names."""
    if expression is None:
        return set()
    return {item.path for item in references(expression) if isinstance(item, KnobRef)}


def closed(knobs: Sequence[Knob], wanted: Iterable[str]) -> list[Knob]:
    """The wanted knobs and all that their conditions name, in their order."""
    by_path = {knob.path: knob for knob in knobs}
    found: set[str] = set()
    waiting = [path for path in wanted if path in by_path]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [item for item in named(by_path[path].condition) if item in by_path]
    return [knob for knob in knobs if knob.path in found]


def options(knob: Knob) -> list[Value] | None:
    """All values of a knob; None where they cannot be listed."""
    if isinstance(knob.domain, OrderDomain):
        return list(permutations(knob.domain.labels))
    found = values_of(knob.domain)
    return list(found) if found is not None else None


def assignments(knobs: Sequence[Knob], values: Mapping[str, Sequence[Value]] | None = None) -> Iterator[Assignment]:
    """Every combination of values of these knobs, which must be closed; a knob that is absent has None.

    `values` narrows what is tried for some of them. Raises TooManyError where a knob is continuous.
    """
    listed: list[tuple[Knob, Sequence[Value]]] = []
    for knob in knobs:
        tried = values.get(knob.path) if values is not None else None
        tried = tried if tried is not None else options(knob)
        if tried is None:
            raise TooManyError
        listed.append((knob, tried))
    current: dict[str, Value] = {}
    environment = Environment(knob=current.get)

    def walk(index: int) -> Iterator[Assignment]:
        if index == len(listed):
            yield dict(current)
            return
        knob, tried = listed[index]
        present = knob.condition is None or holds(knob.condition, environment)
        for value in tried if present else (None,):
            current[knob.path] = value
            yield from walk(index + 1)
        del current[knob.path]

    return walk(0)


def ever(expression: Expression, knobs: Sequence[Knob]) -> bool | None:
    """Whether some combination of values makes `expression` true; None where that cannot be told."""
    try:
        for count, values in enumerate(assignments(closed(knobs, named(expression)))):
            if count >= LIMIT:
                return None
            if holds(expression, Environment(knob=values.get)):
                return True
    except (TooManyError, LookupError, ZeroDivisionError):
        return None
    return False


def ruled_out(values: Assignment, impossible: Sequence[Impossible]) -> bool:
    """Whether the listed impossible combinations take this one out."""
    return any(all(values.get(path) == value for path, value in item.values.items()) for item in impossible)


def most(knobs: Sequence[Knob], impossible: Sequence[Impossible]) -> int | None:
    """How many points there are at most, forbids left aside; None where a knob is continuous or there are too many."""
    structural = set().union(*(named(knob.condition) for knob in knobs)) if knobs else set[str]()
    structural |= {path for item in impossible for path in item.values}
    inner = closed(knobs, structural)
    rest = [knob for knob in knobs if knob not in inner]
    sizes: list[tuple[Knob, int]] = []
    for knob in rest:
        listed = options(knob)
        if listed is None:
            return None
        sizes.append((knob, len(listed)))
    total = 0
    try:
        for count, values in enumerate(assignments(inner)):
            if count >= LIMIT:
                return None
            if ruled_out(values, impossible):
                continue
            points = 1
            for knob, size in sizes:
                if knob.condition is None or holds(knob.condition, Environment(knob=values.get)):
                    points *= size
            total += points
    except TooManyError:
        return None
    return total
