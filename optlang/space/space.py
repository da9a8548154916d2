"""The space of a plan: draws points knob by knob, counts them, and knows which are forbidden."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TypeAlias

from optlang.plan.domains import contains, every_value, size
from optlang.plan.expressions import (
    Environment,
    Expression,
    Value,
    evaluate,
    holds,
    show,
    show_value,
)
from optlang.plan.model import (
    Domain,
    FloatDomain,
    Impossible,
    Knob,
    ListDomain,
    OrderDomain,
    Plan,
    Rule,
    SetDomain,
)
from optlang.space.combinations import deciding, named, rules_out
from optlang.space.compatibility import incompatibility
from optlang.space.computed import declared, uses
from optlang.space.feasibility import listed
from optlang.space.known_refusals import KnownRefusals
from optlang.space.recipe import NoValueError, Point, resolve

Ask: TypeAlias = Callable[[Knob, Domain], Value]
"""Gives a value of the domain for a knob. The domain is the knob's own, less what the facts rule out at this point."""

COUNTED_AT_MOST = 100_000
"""Combinations of the deciding knobs up to which the space is counted exactly and looked ahead into."""

FEW = 1000
"""Values up to which a knob that decides about branches is looked ahead into."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many points a space has: the combinations of its finite knobs, and which knobs are continuous besides.

    `exact` is False where there are too many combinations of deciding knobs to count, or to list what the facts rule
    out of them; `points` is then an upper bound.
    """

    points: int
    exact: bool
    continuous: tuple[str, ...]


class CellIndex:
    """Impossible cells, by the values that they are of: which of them a point meets with one more value."""

    def __init__(self, cells: Sequence[Impossible]) -> None:
        self._cells = cells
        self._of: dict[tuple[str, Value], list[int]] = {}
        self._partners: dict[tuple[str, Value], set[tuple[str, Value]]] = {}
        for number, cell in enumerate(cells):
            items = tuple(cell.values.items())
            for item in items:
                self._of.setdefault(item, []).append(number)
                if len(items) == 2:
                    self._partners.setdefault(item, set()).update(other for other in items if other != item)
        self._more = {
            item: [number for number in numbers if len(cells[number].values) != 2] for item, numbers in self._of.items()
        }

    def first(self, point: Mapping[str, Value], path: str, value: Value) -> int | None:
        """The number of a cell that the point meets with this value for a knob, and does not meet without it."""
        item = (path, value)
        if item not in self._of:
            return None
        if not self._partners.get(item, set()).isdisjoint(point.items()):
            return self._scan(point, item, self._of[item])
        return self._scan(point, item, self._more[item])

    def _scan(self, point: Mapping[str, Value], item: tuple[str, Value], numbers: Sequence[int]) -> int | None:
        for number in numbers:
            values = self._cells[number].values
            if all(
                key == item[0] or (key in point and point[key] == wanted) for key, wanted in values.items()
            ):
                return number
        return None

    def met(self, point: Mapping[str, Value]) -> Impossible | None:
        """The first cell that the point meets."""
        found = [number for path, value in point.items() if (number := self.first(point, path, value)) is not None]
        return self._cells[min(found)] if found else None


class _Absent:
    """A knob that is not there."""


class Exhausted(Exception):  # noqa: N818 - the end of a space is an answer
    """No point is left to draw."""


class Space:
    """The knobs of a plan with their conditions, impossible cells and forbids.

    `unavailable` maps the paths of runtimes that cannot be used on this machine (`here.runtime.openvino`) to the
    reason; `refusals`, which may grow, are what a run found refused.
    """

    def __init__(
        self, plan: Plan, unavailable: Mapping[str, str] | None = None, refusals: KnownRefusals | None = None
    ) -> None:
        self.plan = plan
        self._refusals = refusals
        self.knobs = plan.knobs
        self.cells = plan.impossible + tuple(
            Impossible(values={target.knob: use.label}, reason=(unavailable or {})[use.path])
            for target in plan.targets if target.knob is not None
            for use in target.runtimes if use.path in (unavailable or {})
        )
        self._partly = tuple(knob for knob in plan.knobs if knob.only)
        self._listed = listed(plan)
        self._computes = any(True for _ in uses(plan.steps, plan.targets, declared(plan)))
        self._in_cells = frozenset(path for cell in self.cells for path in cell.values)
        self._against = CellIndex(self.cells)
        # What decides whether a choice has branches is looked ahead into as well.
        wanted = {path for knob in self._partly for path in (knob.path, *deciding(knob))}
        self._ahead = self._in_cells | {
            knob.path for knob in plan.knobs if knob.path in wanted and (size(knob.domain) or FEW + 1) <= FEW
        }

    def draw(self, ask: Ask) -> Point:
        """A point, knob by knob in the order of the text; raises `Exhausted` where the facts leave nothing.

        Branches that are not there, and values that could only end in an impossible cell or a choice without branches,
        are not offered. Where a continuous knob has left nothing, the point is drawn all the same, to be refused as a
        whole (see `forbidden`).
        """
        point: dict[str, Value] = {}
        looked, clean = False, True
        for index, knob in enumerate(self.knobs):
            if knob.condition is not None and not holds(knob.condition, Environment(knob=point.get)):
                continue
            domain = _there(knob, point)
            if knob.path in self._ahead:
                open_ = frozenset(later.path for later in self.knobs[index + 1:] if later.path not in self._ahead)
                left = tuple(
                    value for value in every_value(domain)
                    if clean and self._goes_on(point, knob.path, value, index + 1, open_)
                )
                if not left and not looked and not knob.conditions():
                    raise Exhausted
                # Looking ahead takes what is not decided yet for granted: what it promised may not come.
                domain = _narrowed(domain, left) if left else domain
                looked = True
            value = ask(knob, domain)
            clean = clean and self._against.first(point, knob.path, value) is None
            point[knob.path] = value
        return point

    def _goes_on(
        self, point: dict[str, Value], path: str, value: Value, index: int, undecided: Collection[str]
    ) -> bool:
        """Whether the knobs from `index` on can be set so that no impossible cell is met, if this knob has `value`.

        No cell is met at `point` as it is.
        """
        if self._against.first(point, path, value) is not None:
            return False
        return self._extends({**point, path: value}, index, undecided)

    def _extends(self, point: dict[str, Value], index: int, undecided: Collection[str]) -> bool:
        """The same for the knobs from `index` on alone; `point` is changed."""
        ahead = [knob for knob in self.knobs[index:] if knob.path in self._ahead]
        # For each knob that is set, what else it may be.
        waiting: list[Iterator[Value | _Absent]] = []
        while len(waiting) < len(ahead):
            waiting.append(self._ways(ahead[len(waiting)], point, undecided))
            while True:
                knob = ahead[len(waiting) - 1]
                point.pop(knob.path, None)
                value = next(waiting[-1], None)
                if value is None:
                    waiting.pop()
                    if not waiting:
                        return False
                    continue
                if isinstance(value, _Absent):
                    break
                if self._against.first(point, knob.path, value) is None:
                    point[knob.path] = value
                    break
        return True

    def _ways(self, knob: Knob, point: Point, undecided: Collection[str]) -> Iterator[Value | _Absent]:
        """What a knob may be at a point: absent, or one of its values."""
        present = _presence(knob, point, undecided)
        if present is not True:
            yield _Absent()
        if present is not False:
            for value in every_value(knob.domain):
                if _value_presence(knob, value, point, undecided) is not False:
                    yield value

    def without_refusals(self) -> Space:
        """The same space as it was before a run found anything refused."""
        found = copy(self)
        found._refusals = None
        return found

    def forbidden(self, point: Point) -> str | None:
        """Why this whole point must not run (the forbid's own words), None where it may."""
        reason = self._ruled_out(point)
        return reason if reason is not None else self._refused(point)

    def _refused(self, point: Point) -> str | None:
        """What only a whole point shows: facts that were too much to list, settings without a value, and what
        was refused before."""
        reason = None if self._listed else incompatibility(self.plan, point)
        if reason is None and (self._computes or self._refusals):
            try:
                recipe = resolve(self.plan, point)
            except NoValueError as error:
                return error.message
            refusal = self._refusals.against(recipe) if self._refusals else None
            return None if refusal is None else refusal.reason
        return reason

    def _ruled_out(self, point: Point) -> str | None:
        """The same, of what the deciding knobs alone tell."""
        for knob in self._partly:
            if knob.path in point and not knob.open(point[knob.path], Environment(knob=point.get)):
                label = str(point[knob.path])
                return f"{knob.column} is {label} only where {show(knob.only[label])}"
        cell = self._against.met(point)
        if cell is not None:
            return cell.reason
        for rule in self.plan.forbids:
            try:
                if evaluate(rule.expression, Environment(knob=point.get)):
                    return rule_words(rule)
            except ZeroDivisionError:
                return f"`{show(rule.expression)}` divides by zero"
        return None

    def contains(self, point: Point) -> bool:
        """Whether the point has just the knobs that are present at it, each inside its domain, and is not forbidden."""
        given = dict(point)
        try:
            drawn = self.draw(lambda knob, domain: _taken(given, knob.path, domain))
        except (Exhausted, LookupError):
            return False
        return drawn == given and self.forbidden(point) is None

    def size(self) -> Size:
        """Counts the points that may run: conditions, impossible cells and forbids respected."""
        continuous = tuple(knob.column for knob in self.knobs if isinstance(knob.domain, FloatDomain))
        deciding = self.deciding
        inner = [knob for knob in self.knobs if knob.path in deciding]
        always = prod(size(knob.domain) or 1 for knob in inner if not knob.conditions())
        if always > COUNTED_AT_MOST or any(isinstance(knob.domain, FloatDomain) for knob in inner):
            return Size(self._upper_bound(), False, continuous)
        total = 0
        for count, found in enumerate(self._allowed(deciding)):
            if count == COUNTED_AT_MOST:
                return Size(self._upper_bound(), False, continuous)
            if found is not None:
                total += prod(size(knob.domain) or 1 for knob in found[1])
        return Size(total, self._listed, continuous)

    def points(self) -> Iterator[Point]:
        """All points that may run, in the order of the text; a continuous knob has no values to list (ValueError)."""
        for found in self._allowed(self.deciding):
            if found is None:
                continue
            point, free = found
            for values in product(*(tuple(every_value(knob.domain)) for knob in free)):
                whole = {**point, **{knob.path: value for knob, value in zip(free, values, strict=True)}}
                if self._refused(whole) is None:
                    yield {knob.path: whole[knob.path] for knob in self.knobs if knob.path in whole}

    @property
    def deciding(self) -> frozenset[str]:
        """The knobs that decide which others there are, or whether a point may run."""
        found = self._in_cells | {knob.path for knob in self._partly}
        found = found.union(*map(deciding, self.knobs))
        return found.union(*(named(rule.expression) for rule in self.plan.forbids))

    def _allowed(self, deciding: Collection[str]) -> Iterator[tuple[Point, tuple[Knob, ...]] | None]:
        """Each combination of the deciding knobs that may run, with the other knobs that are there.

        None stands for those that begin in a way that is ruled out: no forbid and no cell waits for the last knob.
        """
        last = {knob.path: number for number, knob in enumerate(self.knobs)}
        rules: dict[int, list[Expression]] = {}
        for rule in self.plan.forbids:
            due = max((last[path] for path in named(rule.expression)), default=-1)
            rules.setdefault(due, []).append(rule.expression)
        point: dict[str, Value] = {}
        free: list[Knob] = []
        environment = Environment(knob=point.get)
        # Where a knob has more values to come: its number, they, and how many free knobs stand before it.
        waiting: list[tuple[int, Iterator[Value], int]] = []

        def forbidden(number: int) -> bool:
            return any(rules_out(rule, environment) for rule in rules.get(number, ()))

        def goes(number: int) -> bool:
            """Whether the knobs from this one on up to the next one that decides are fine; that one waits."""
            for later in range(number, len(self.knobs)):
                knob = self.knobs[later]
                if _presence(knob, point, ()):
                    if knob.path in deciding:
                        waiting.append((later, every_value(_there(knob, point)), len(free)))
                        return True
                    free.append(knob)
                if forbidden(later):
                    return False
            return True

        if forbidden(-1) or not goes(0):
            yield None
            return
        if not waiting:
            yield point, tuple(free)
        while waiting:
            number, values, before = waiting[-1]
            knob = self.knobs[number]
            del free[before:]
            point.pop(knob.path, None)
            for value in values:
                met = self._against.first(point, knob.path, value) is not None
                met = met or not knob.open(value, environment)
                point[knob.path] = value
                depth = len(waiting)
                if met or forbidden(number) or not goes(number + 1):
                    yield None
                elif len(waiting) == depth:
                    yield dict(point), tuple(free)
                break
            else:
                waiting.pop()

    def _upper_bound(self) -> int:
        bound = 1
        for knob in self.knobs:
            bound *= (size(knob.domain) or 1) + (1 if knob.condition is not None else 0)
        return bound

    def explain(self, point: Point) -> str:
        """The point in words: its knobs, by their columns."""
        columns = {knob.path: knob.column for knob in self.knobs}
        return ", ".join(f"{columns[path]} = {show_value(value)}" for path, value in point.items()) or "no knobs"


def rule_words(rule: Rule) -> str:
    """A forbid or requirement with its author's reason, in one line."""
    return f"{rule.text} ({rule.because})" if rule.because else rule.text


def _narrowed(domain: Domain, left: tuple[Value, ...]) -> Domain:
    if len(left) == size(domain) or isinstance(domain, OrderDomain):
        # An order is drawn as a whole; one that cannot be is refused when all is drawn.
        return domain
    scalars = tuple(value for value in left if value is not None and not isinstance(value, tuple))
    assert len(scalars) == len(left), "only orders have tuples as values"
    return SetDomain(values=scalars) if isinstance(domain, SetDomain) else ListDomain(values=scalars)


def _there(knob: Knob, point: Point) -> Domain:
    """The knob's domain less the branches that are not there at `point`; all of it where none is."""
    if not knob.only:
        return knob.domain
    environment = Environment(knob=point.get)
    left = tuple(value for value in every_value(knob.domain) if knob.open(value, environment))
    return _narrowed(knob.domain, left) if left else knob.domain


def _presence(knob: Knob, point: Point, undecided: Collection[str]) -> bool | None:
    """Whether the knob is there at `point`; None where that depends on a knob that is not decided yet."""
    return True if knob.condition is None else _told(knob.condition, point, undecided)


def _value_presence(knob: Knob, value: Value, point: Point, undecided: Collection[str]) -> bool | None:
    """The same of one of its values."""
    condition = knob.only.get(value) if isinstance(value, str) else None
    return True if condition is None else _told(condition, point, undecided)


def _told(condition: Expression, point: Point, undecided: Collection[str]) -> bool | None:
    def value(path: str) -> Value:
        if path in undecided and path not in point:
            raise LookupError(path)
        return point.get(path)

    try:
        return holds(condition, Environment(knob=value))
    except LookupError:
        return None


def _taken(given: Mapping[str, Value], path: str, domain: Domain) -> Value:
    value = given[path]
    if not contains(domain, value):
        raise LookupError(path)
    return value
