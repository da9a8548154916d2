"""What two steps have against each other, where nothing but choices decides whether they are there.

Such pairs are alike but for their names, and a study may have tens of thousands of them: what the facts say of two
techniques and a runtime is looked up once, and no combinations are walked.
"""

from __future__ import annotations

from collections.abc import Iterator

from optlang.plan.expressions import Value
from optlang.plan.model import Apply, Impossible, Target
from optlang.space.alike import STAND_INS
from optlang.space.combinations import Index
from optlang.space.compatibility import Facts, conflicts, label_of
from optlang.space.positions import Place


class Pairs:
    """The pairs of plain steps on one target."""

    def __init__(self, target: Target, index: Index, facts: Facts) -> None:
        self._target = target
        self._index = index
        self._facts = facts
        knob = index.by_path.get(target.knob) if target.knob is not None else None
        self._free = knob is None or not knob.conditions()
        self._plain: dict[int, bool] = {}
        self._found: dict[tuple[str, str], list[tuple[str | None, str]]] = {}

    def knows(self, first: Place, second: Place) -> bool:
        """Whether each can be there without the other, by choices alone: then neither is ever dead for the other."""
        if not (self._free and self._is_plain(first) and self._is_plain(second)):
            return False
        a, b = first.guards, second.guards
        return not (a[: len(b)] == b or b[: len(a)] == a)

    def _is_plain(self, place: Place) -> bool:
        found = self._plain.get(place.index)
        if found is None:
            found = not (place.whens or place.orders or place.repeats)
            found = found and not any(self._index.by_path[path].only for path, _ in place.guards)
            self._plain[place.index] = found
        return found

    def look(self, first: Place, second: Place) -> Iterator[Impossible]:
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
