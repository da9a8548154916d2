"""Enumerates the values that knobs can have together, conditions respected, to ask what holds in some or in all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from optlang.plan.domains import every_value, values_of
from optlang.plan.expressions import Environment, Expression, KnobRef, Value, evaluate, holds, references
from optlang.plan.model import Impossible, Knob, OrderDomain

LIMIT = 100_000
"""How many combinations are looked at; a question about more has no exact answer here."""

DEEPEST = 200
"""How many knobs are looked at together."""

Assignment = Mapping[str, Value]


class TooManyError(Exception):
    """More combinations than `LIMIT`."""


def named(expression: Expression | None) -> set[str]:
    """The paths of the knobs that a condition names."""
    if expression is None:
        return set()
    return {item.path for item in references(expression) if isinstance(item, KnobRef)}


def deciding(knob: Knob) -> set[str]:
    """The paths of the knobs that decide whether this one is there, and which of its values are."""
    return {path for condition in knob.conditions() for path in named(condition)}


class Index:
    """The knobs of a study by their paths, in the order of the text."""

    def __init__(self, knobs: Iterable[Knob]) -> None:
        self.knobs = tuple(knobs)
        self.by_path = {knob.path: knob for knob in self.knobs}
        self._order = {knob.path: index for index, knob in enumerate(self.knobs)}

    def closed(self, wanted: Iterable[str]) -> list[Knob]:
        """The wanted knobs and all that their conditions name, in their order."""
        found: set[str] = set()
        waiting = [path for path in wanted if path in self.by_path]
        while waiting:
            path = waiting.pop()
            if path not in found:
                found.add(path)
                waiting += [item for item in deciding(self.by_path[path]) if item in self.by_path]
        return [self.by_path[path] for path in sorted(found, key=self._order.__getitem__)]


def options(knob: Knob) -> list[Value] | None:
    """All values of a knob; None where they cannot be listed."""
    if isinstance(knob.domain, OrderDomain):
        return list(every_value(knob.domain))
    found = values_of(knob.domain)
    return list(found) if found is not None else None


def assignments(knobs: Sequence[Knob], values: Mapping[str, Sequence[Value]] | None = None) -> Iterator[Assignment]:
    """Every combination of values of these knobs, which must be closed; a knob that is absent has None.

    `values` narrows what is tried for some. Raises TooManyError where a knob is continuous, or there are very many.
    """
    listed: list[tuple[Knob, Sequence[Value]]] = []
    if len(knobs) > DEEPEST:
        raise TooManyError
    for knob in knobs:
        tried = values.get(knob.path) if values is not None else None
        tried = tried if tried is not None else options(knob)
        if tried is None:
            raise TooManyError
        listed.append((knob, tried))
    within = {knob.path for knob in knobs}
    # A branch whose condition depends on what is not looked at may be there.
    open_ = {knob.path for knob in knobs if any(not named(item) <= within for item in knob.only.values())}
    # So may a knob: what is left out of the question (a continuous one) does not make it absent.
    loose = {knob.path for knob in knobs if not named(knob.condition) <= within}
    current: dict[str, Value] = {}
    environment = Environment(knob=current.get)

    def walk(index: int) -> Iterator[Assignment]:
        if index == len(listed):
            yield dict(current)
            return
        knob, tried = listed[index]
        present = knob.condition is None or knob.path in loose or holds(knob.condition, environment)
        for value in tried if present else (None,):
            if present and knob.path not in open_ and not knob.open(value, environment):
                continue
            current[knob.path] = value
            yield from walk(index + 1)
        current.pop(knob.path, None)

    return walk(0)


def ever(expression: Expression, index: Index) -> bool | None:
    """Whether some combination of values makes `expression` true; None where that is not known."""
    try:
        for count, values in enumerate(assignments(index.closed(named(expression)))):
            if count >= LIMIT:
                return None
            if holds(expression, Environment(knob=values.get)):
                return True
    except (TooManyError, LookupError):
        return None
    return False


def rules_out(rule: Expression, environment: Environment) -> bool:
    """Whether a forbid takes the point out; one that divides by zero says nothing of it, and it does not run."""
    try:
        return bool(evaluate(rule, environment))
    except ZeroDivisionError:
        return True


def bound(knobs: Iterable[Knob]) -> int:
    """How many combinations of these knobs there can be at most; a continuous one counts once."""
    total = 1
    for knob in knobs:
        total *= len(options(knob) or (None,))
    return total


def ruled_out(values: Assignment, impossible: Sequence[Impossible]) -> bool:
    """Whether the listed impossible combinations take this one out."""
    return any(all(values.get(path) == value for path, value in item.values.items()) for item in impossible)


def most(index: Index, impossible: Sequence[Impossible], forbids: Sequence[Expression] = ()) -> int | None:
    """How many points there are at most, less those of `forbids`; None for continuous knobs or too many points."""
    structural = {path for knob in index.knobs for path in deciding(knob)}
    structural |= {knob.path for knob in index.knobs if knob.only}
    structural |= {path for rule in forbids for path in named(rule)}
    structural |= {path for item in impossible for path in item.values}
    inner = index.closed(structural)
    within = {knob.path for knob in inner}
    rest = [knob for knob in index.knobs if knob.path not in within]
    sizes: list[tuple[Knob, int]] = []
    for knob in rest:
        listed = options(knob)
        if listed is None:
            return None
        sizes.append((knob, len(listed)))
    if bound(inner) > 100 * LIMIT:
        return None
    total = 0
    try:
        for count, values in enumerate(assignments(inner)):
            if count >= LIMIT:
                return None
            if ruled_out(values, impossible) or any(holds(rule, Environment(knob=values.get)) for rule in forbids):
                continue
            points = 1
            for knob, size in sizes:
                if knob.condition is None or holds(knob.condition, Environment(knob=values.get)):
                    points *= size
            total += points
    except TooManyError:
        return None
    return total
