"""Answers about one step or two that are looked up, because the same question was asked before under other names.

A generated study asks the same question thousands of times: may this technique, in a branch under a condition, be
followed by that one. `AnswerCache` writes a question with its names numbered in the order in which they appear; two
questions that read the same have the same answer, apart from the names. `PlainPairs` answers for two steps that only
choices decide about: what the facts say of two techniques and a runtime is looked up, and no combinations are walked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeAlias, TypeVar

from optlang.plan.expressions import Binary, Const, Expression, If, In, KnobRef, Unary, Value
from optlang.plan.model import Apply, FloatDomain, Impossible, IntDomain, Knob, OrderDomain, Target
from optlang.space.combinations import Index, named
from optlang.space.compatibility import Conflict, DeclaredFacts, conflicts, label_of
from optlang.space.step_positions import Position

STAND_INS = ("\0", "\1")
"""Paths that are no step's, until the paths and labels of the steps that are asked about take their positions."""

T = TypeVar("T")
Atom: TypeAlias = "_Name | str | int | float | bool | None"
Key: TypeAlias = tuple[object, ...]


class _Name(str):
    """A path or a label: what two questions that are alike may differ in."""

    __slots__ = ()


class AnswerCache(Generic[T]):
    """Answers to questions about one step or two, on one target; T is an answer in the names of the first asker."""

    def __init__(self, index: Index, target: Target) -> None:
        self._index = index
        self._known = {"none", target.name, *(use.label for use in target.runtimes)}
        self._always = [target.knob] if target.knob is not None else []
        self._known.update(self._always)
        self._read: dict[int, tuple[list[Atom], set[str]]] = {}
        self._answers: dict[Key, tuple[T, list[str]]] = {}

    def ask(
        self, parties: Sequence[Position], answer: Callable[[list[Position]], T]
    ) -> tuple[T, Mapping[str, str]] | None:
        """The answer, and the asker's names by those in it; None where the steps are in orders or repeats."""
        if any(position.orders or position.repeats for position in parties):
            return None
        key, names = self._key(parties)
        if key not in self._answers:
            pairs = zip(parties, STAND_INS, strict=False)
            stands = [replace(item, step=item.step.model_copy(update={"path": path})) for item, path in pairs]
            self._answers[key] = answer(stands), names
        found, theirs = self._answers[key]
        return found, dict(zip(theirs, names, strict=True))

    def _key(self, parties: Sequence[Position]) -> tuple[Key, list[str]]:
        atoms: list[Atom] = []
        paths = set(self._always)
        for position in parties:
            mine, involved = self._atoms(position)
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

    def _atoms(self, position: Position) -> tuple[list[Atom], set[str]]:
        if position.index not in self._read:
            paths = {path for path, _ in position.guards}
            for when in position.whens:
                paths |= named(when)
            knobs = self._index.closed(paths)
            atoms: list[Atom] = [position.step.technique, len(position.guards), len(position.whens)]
            for path, value in position.guards:
                atoms += [_Name(path), *_value(value)]
            for when in position.whens:
                atoms += _expression(when)
            for knob in knobs:
                atoms += _knob(knob)
            self._read[position.index] = atoms, {knob.path for knob in knobs}
        return self._read[position.index]


class PlainPairs:
    """The pairs of plain steps on one target."""

    def __init__(self, target: Target, index: Index, facts: DeclaredFacts) -> None:
        self._target = target
        self._index = index
        self._facts = facts
        knob = index.by_path.get(target.knob) if target.knob is not None else None
        self._free = knob is None or not knob.conditions()
        self._plain: dict[int, bool] = {}
        self._found: dict[tuple[str, str], list[tuple[str | None, str]]] = {}

    def knows(self, first: Position, second: Position) -> bool:
        """Whether each can be there without the other, by choices alone: then neither is ever dead for the other."""
        if not (self._free and self._is_plain(first) and self._is_plain(second)):
            return False
        a, b = first.guards, second.guards
        return not (a[: len(b)] == b or b[: len(a)] == a)

    def _is_plain(self, position: Position) -> bool:
        found = self._plain.get(position.index)
        if found is None:
            found = not (position.whens or position.orders or position.repeats)
            found = found and not any(self._index.by_path[path].only for path, _ in position.guards)
            self._plain[position.index] = found
        return found

    def look(self, first: Position, second: Position) -> Iterator[Impossible]:
        """What is impossible of the two together, and is not of one of them alone."""
        labels = label_of(first.step.path), label_of(second.step.path)
        # A branch is there only with all that is around it, so that the innermost values say the rest.
        innermost = (first.guards[-1], second.guards[-1])
        for taken, reason in self._said(first.step, second.step):
            values: dict[str, Value] = dict(innermost)
            if taken is not None and self._target.knob is not None:
                values[self._target.knob] = taken
            for stand_in, label in zip(STAND_INS, labels, strict=True):
                reason = reason.replace(stand_in, label)
            yield Impossible(values=values, reason=reason)

    def _said(self, first: Apply, second: Apply) -> list[tuple[str | None, str]]:
        """On which runtimes two such steps do not go together (None: on all), and why, with stand-ins for labels."""
        key = (first.technique, second.technique)
        if key not in self._found:
            named = zip((first, second), STAND_INS, strict=True)
            self._found[key] = list(self._conflicts([step.model_copy(update={"path": path}) for step, path in named]))
        return self._found[key]

    def _conflicts(self, pair: list[Apply]) -> Iterator[tuple[str | None, str]]:
        uses = self._target.runtimes
        found = [conflicts(pair, use, self._target, self._facts) for use in uses]
        alone = [
            any(conflicts([step], use, self._target, self._facts) for step in pair) for use in uses
        ]
        for use, conflict, known in zip(uses, found, alone, strict=True):
            mutual = [item.reason for item in conflict if {item.path, item.other} == set(STAND_INS)]
            if all(found) and (mutual or (conflict and not known)):
                yield None, (mutual or [conflict[0].reason])[0]
                return
            if conflict and not known and not all(found):
                yield use.label, (mutual or [conflict[0].reason])[0]


def renamed_cells(
    cells: Iterable[Impossible], parties: Sequence[Position], names: Mapping[str, str]
) -> Iterable[Impossible]:
    """What was found out in the names of another question, in those of this one."""
    for cell in cells:
        values = {names.get(path, path): _renamed(value, names) for path, value in cell.values.items()}
        yield Impossible(values=values, reason=_said(cell.reason, parties))


def renamed_conflicts(found: Iterable[Conflict], parties: Sequence[Position]) -> Iterable[Conflict]:
    """The same of conflicts, which name steps and runtimes only."""
    paths = {stand_in: position.step.path for stand_in, position in zip(STAND_INS, parties, strict=False)}
    for item in found:
        other = paths.get(item.other, item.other) if item.other is not None else None
        yield replace(item, path=paths.get(item.path, item.path), other=other, reason=_said(item.reason, parties))


def _said(reason: str, parties: Sequence[Position]) -> str:
    for stand_in, position in zip(STAND_INS, parties, strict=False):
        reason = reason.replace(stand_in, label_of(position.step.path))
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
        case In(value=value, options=options):
            return ["in", *_expression(value), *_value(tuple(item if item is not None else "none" for item in options))]
        case If(condition=condition, then=then, otherwise=otherwise):
            return ["if", *_expression(condition), *_expression(then), *_expression(otherwise)]
        case rest:
            return ["as it is", rest.model_dump_json()]
