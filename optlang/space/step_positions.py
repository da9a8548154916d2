"""The steps of a study by where they stand, and which of them can be in the way of one another, or of a runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from optlang.plan.expressions import Expression, Value
from optlang.plan.model import Apply, Choice, Group, Maybe, Order, Repeat, Runtime, Step, Target, Technique
from optlang.space.compatibility import DeclaredFacts, apart, done_alone, risky


@dataclass(frozen=True, slots=True)
class Around:
    """What is around a step: values of knobs that it needs, conditions, orders with the member in each, and repeats."""

    guards: tuple[tuple[str, Value], ...] = ()
    whens: tuple[Expression, ...] = ()
    orders: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    repeats: tuple[Repeat, ...] = ()


@dataclass(frozen=True, slots=True)
class Position:
    """A technique in the text, and what is around it."""

    step: Apply
    technique: Technique
    guards: tuple[tuple[str, Value], ...]
    whens: tuple[Expression, ...]
    orders: tuple[str, ...]
    members: tuple[str, ...]
    repeats: tuple[str, ...]
    index: int


def positions_of(steps: tuple[Step, ...], facts: DeclaredFacts) -> list[Position]:
    """All steps, in the order of the text."""
    return [
        Position(
            step, facts.techniques[step.technique], at.guards, at.whens, at.orders, at.members,
            tuple(repeat.path for repeat in at.repeats), index,
        )
        for index, (step, at) in enumerate(walk(steps))
    ]


def walk(steps: tuple[Step, ...], around: Around = Around()) -> Iterator[tuple[Apply, Around]]:
    """All applied techniques in the order of the text, each with what is around it."""
    for step in steps:
        at = replace(around, whens=(*around.whens, step.when)) if step.when is not None else around
        match step:
            case Apply():
                yield step, at
            case Choice(path=path, branches=branches):
                for branch in branches:
                    yield from walk(branch.steps, replace(at, guards=(*at.guards, (path, branch.name))))
            case Maybe(path=path, steps=inner):
                yield from walk(inner, replace(at, guards=(*at.guards, (path, True))))
            case Repeat(count=count, steps=inner):
                # The count of a searched repeat matters as a whole, so any of its values stands for the guard.
                guards = (*at.guards, (step.counter, None)) if count is None else at.guards
                yield from walk(inner, replace(at, guards=guards, repeats=(*at.repeats, step)))
            case Group(steps=inner):
                yield from walk(inner, at)
            case Order(path=path, members=parts):
                for part in parts:
                    within = replace(at, orders=(*at.orders, path), members=(*at.members, part.name))
                    yield from walk(part.steps, within)


def together(first: Position, second: Position) -> bool:
    """Whether both can be taken: two branches of one choice never are."""
    values = dict(first.guards)
    return all(path not in values or values[path] == value for path, value in second.guards)


def _turned(first: Position, second: Position) -> bool:
    """Whether the second may run before the first, though it stands behind it."""
    return bool(set(first.orders) & set(second.orders)) or bool(set(first.repeats) & set(second.repeats))


def involved(positions: list[Position], target: Target, facts: DeclaredFacts) -> list[Position]:
    """The steps that can be in the way of another, or of a runtime."""
    found: set[int] = set()
    for position in positions:
        technique = position.technique
        if "gpu" in technique.needs and target.device != "cuda":
            found.add(position.index)
        if "module" not in technique.takes:
            found.add(position.index)
        for use in target.runtimes:
            runtime = facts.runtimes[use.runtime]
            if any(form not in runtime.takes for form in technique.gives) or facts.refuses(runtime, technique):
                found.add(position.index)
        # A step in a repeat meets what it left itself a round before.
        if position.repeats and any(form not in technique.takes for form in technique.gives):
            found.add(position.index)
    for first, second in clashing(positions):
        found |= {first.index, second.index}
    if found:
        # A step that turns one form into another may remove a conflict.
        found |= {
            item.index for item in positions
            if item.technique.gives != ("module",) or set(item.technique.takes) != {"module"}
        }
    return [position for position in positions if position.index in found]


def clashing(positions: Iterable[Position]) -> Iterator[tuple[Position, Position]]:
    """The pairs of positions, in the order of the run, that can be taken both and be in each other's way."""
    named: dict[str, list[Position]] = {}
    for position in positions:
        named.setdefault(position.technique.name, []).append(position)
    for group in named.values():
        for others in named.values():
            one, other = group[0].technique, others[0].technique
            straight = risky(one, other) or apart(one, other)
            if not straight and not risky(other, one):
                continue
            for first in group:
                for second in others:
                    # What runs in the order of the text only is in the way of what comes behind it.
                    if first.index < second.index and (straight or _turned(first, second)) and together(first, second):
                        yield first, second


def anywhere(position: Position, runtimes: Iterable[Runtime]) -> Position:
    """With the forms that it takes and gives on any of the runtimes: some may carry it out themselves."""
    technique = position.technique
    if not any(runtime.carries_out(technique.name) for runtime in runtimes):
        return replace(position, technique=done_alone(technique))
    takes = technique.takes if technique.prepares else (*technique.takes, "graph")
    wider = {"takes": takes, "gives": (*technique.gives, "graph")}
    return replace(position, technique=technique.model_copy(update=wider))


def lifts(position: Position) -> bool:
    """Whether it turns an exported model into something else, and so may lift what two other steps have together."""
    technique = position.technique
    return "module" not in technique.takes or bool(set(technique.takes) - {"module"} - set(technique.gives))
