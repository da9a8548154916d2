"""Which questions about steps under conditions are alike but for names, so that each is answered once.

Generated studies ask the same thing thousands of times: may this technique, in a branch under a condition, be followed
by that one. The question is written down with its names numbered in the order in which they come; two that read the
same have answers that are the same, but for the names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeAlias, TypeVar

from optlang.plan.expressions import Binary, Const, Expression, If, KnobRef, Member, Unary, Value
from optlang.plan.model import FloatDomain, Impossible, IntDomain, Knob, OrderDomain, Target
from optlang.space.combinations import Index, named
from optlang.space.compatibility import Conflict, label_of
from optlang.space.positions import Place

STAND_INS = ("\0", "\1")
"""Paths that are no step's, until the paths and labels of the steps that are asked about take their places."""

T = TypeVar("T")
Atom: TypeAlias = "_Name | str | int | float | bool | None"
Key: TypeAlias = tuple[object, ...]


class _Name(str):
    """A path or a label: what two questions that are alike may differ in."""

    __slots__ = ()


class Alike(Generic[T]):
    """Answers to questions about one step or two, on one target; T is an answer in the names of the first asker."""

    def __init__(self, index: Index, target: Target) -> None:
        self._index = index
        self._known = {"none", target.name, *(use.label for use in target.runtimes)}
        self._always = [target.knob] if target.knob is not None else []
        self._known.update(self._always)
        self._read: dict[int, tuple[list[Atom], set[str]]] = {}
        self._answers: dict[Key, tuple[T, list[str]]] = {}

    def ask(self, parties: Sequence[Place], answer: Callable[[list[Place]], T]) -> tuple[T, Mapping[str, str]] | None:
        """The answer, and the asker's names by those in it; None where the steps are in orders or repeats."""
        if any(place.orders or place.repeats for place in parties):
            return None
        key, names = self._key(parties)
        if key not in self._answers:
            pairs = zip(parties, STAND_INS, strict=False)
            stands = [replace(place, step=place.step.model_copy(update={"path": path})) for place, path in pairs]
            self._answers[key] = answer(stands), names
        found, theirs = self._answers[key]
        return found, dict(zip(theirs, names, strict=True))

    def _key(self, parties: Sequence[Place]) -> tuple[Key, list[str]]:
        atoms: list[Atom] = []
        paths = set(self._always)
        for place in parties:
            mine, involved = self._atoms(place)
            atoms += mine
            paths |= involved
        # The order of the knobs in the text.
        atoms += [_Name(knob.path) for knob in self._index.closed(paths)]
        numbers: dict[str, int] = {}
        key: list[object] = []
        for atom in atoms:
            if isinstance(atom, _Name) and atom not in self._known:
                key.append((numbers.setdefault(atom, len(numbers)),))
            else:
                key.append((type(atom), atom))
        return tuple(key), list(numbers)

    def _atoms(self, place: Place) -> tuple[list[Atom], set[str]]:
        if place.index not in self._read:
            paths = {path for path, _ in place.guards}
            for when in place.whens:
                paths |= named(when)
            knobs = self._index.closed(paths)
            atoms: list[Atom] = [place.step.technique, len(place.guards), len(place.whens)]
            for path, value in place.guards:
                atoms += [_Name(path), *_value(value)]
            for when in place.whens:
                atoms += _expression(when)
            for knob in knobs:
                atoms += _knob(knob)
            self._read[place.index] = atoms, {knob.path for knob in knobs}
        return self._read[place.index]


def renamed_cells(
    cells: Iterable[Impossible], parties: Sequence[Place], names: Mapping[str, str]
) -> Iterable[Impossible]:
    """What was found out in the names of another question, in those of this one."""
    for cell in cells:
        values = {names.get(path, path): _renamed(value, names) for path, value in cell.values.items()}
        yield Impossible(values=values, reason=_said(cell.reason, parties))


def renamed_conflicts(conflicts: Iterable[Conflict], parties: Sequence[Place]) -> Iterable[Conflict]:
    """The same of conflicts, which name steps and runtimes only."""
    paths = {stand_in: place.step.path for stand_in, place in zip(STAND_INS, parties, strict=False)}
    for item in conflicts:
        other = paths.get(item.other, item.other) if item.other is not None else None
        yield replace(item, path=paths.get(item.path, item.path), other=other, reason=_said(item.reason, parties))


def _said(reason: str, parties: Sequence[Place]) -> str:
    for stand_in, place in zip(STAND_INS, parties, strict=False):
        reason = reason.replace(stand_in, label_of(place.step.path))
    return reason


def _renamed(value: Value, names: Mapping[str, str]) -> Value:
    if isinstance(value, tuple):
        return tuple(names.get(item, item) if isinstance(item, str) else item for item in value)
    return names.get(value, value) if isinstance(value, str) else value


def _value(value: Value) -> list[Atom]:
    if isinstance(value, tuple):
        return [len(value), *(atom for item in value for atom in _value(item))]
    return [_Name(value) if isinstance(value, str) else value]


def _knob(knob: Knob) -> list[Atom]:
    atoms: list[Atom] = [_Name(knob.path), knob.role]
    match knob.domain:
        case FloatDomain(low=low, high=high) | IntDomain(low=low, high=high):
            atoms += [type(knob.domain).__name__, low, high]
        case OrderDomain(labels=labels):
            atoms += ["order", *_value(labels)]
        case domain:
            atoms += ["values", *_value(tuple(domain.values))]
    atoms += _expression(knob.condition) if knob.condition is not None else [None]
    for label, condition in knob.only.items():
        atoms += [_Name(label), *_expression(condition)]
    return [*atoms, len(knob.only)]


def _expression(expression: Expression) -> list[Atom]:
    match expression:
        case Const(value=value):
            return ["const", *_value(value)]
        case KnobRef(path=path):
            return ["knob", _Name(path)]
        case Unary(operator=operator, operand=operand):
            return [operator, *_expression(operand)]
        case Binary(operator=operator, left=left, right=right):
            return [operator, *_expression(left), *_expression(right)]
        case Member(value=value, options=options):
            return ["in", *_expression(value), *_value(tuple(item if item is not None else "none" for item in options))]
        case If(condition=condition, then=then, otherwise=otherwise):
            return ["if", *_expression(condition), *_expression(then), *_expression(otherwise)]
        case rest:
            return ["as it is", rest.model_dump_json()]
