"""What the declared facts rule out of a study: the smallest combinations of values that cannot go together, and why.

Exact up to `combinations.LIMIT` combinations of the knobs involved; beyond that, and where a condition on a
continuous knob decides, `compatibility.incompatibility` is asked of each point that is drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod

from optlang.plan.expressions import Environment, Expression, Value, holds, show
from optlang.plan.model import Apply, Impossible, Knob, Plan, RuntimeUse, SetDomain, Step, Target
from optlang.space.combinations import DEEPEST, LIMIT, Index, assignments, bound, named, options
from optlang.space.compatibility import FIXED_SIZES, Conflict, DeclaredFacts, applied, conflicts
from optlang.space.feasibility_cache import AnswerCache, PlainPairs, renamed_cells, renamed_conflicts
from optlang.space.step_positions import Position, anywhere, clashing, involved, lifts, positions_of

Cell = Mapping[str, Value]

QUICK = 5_000
"""How many combinations are looked at all together; more are taken two steps at a time, where that finds the same."""


@dataclass(frozen=True, slots=True)
class Feasibility:
    """What cannot go together, and which steps or runtimes can never be taken: `never` has one conflict for each.

    `exact` is False where there were too many combinations to look at.
    """

    impossible: tuple[Impossible, ...]
    never: tuple[Conflict, ...] = ()
    exact: bool = True


def everywhere(steps: tuple[Step, ...], targets: Iterable[Target], index: Index, facts: DeclaredFacts) -> Feasibility:
    """What the facts rule out of these steps on several targets, all of which a trial is measured on."""
    found = [feasibility(steps, target, index, facts) for target in targets]
    impossible: Iterable[Impossible] = found[0].impossible
    if len(found) > 1:
        impossible = _smallest(cell for item in found for cell in item.impossible)
    never: dict[str, Conflict] = {}
    for conflict in (conflict for item in found for conflict in item.never):
        never.setdefault(conflict.path, conflict)
    return Feasibility(tuple(impossible), tuple(never.values()), all(item.exact for item in found))


def feasibility(steps: tuple[Step, ...], target: Target, index: Index, facts: DeclaredFacts) -> Feasibility:
    """What the declared facts rule out of these steps on this target."""
    study = _study(steps, target, index, facts)
    if study is None:
        return Feasibility(())
    lifted = study.lifted()
    if study.bound() > (LIMIT if lifted else QUICK):
        return Feasibility((), exact=False) if lifted else _by_pairs(study)
    return study.look()


def listed(plan: Plan) -> bool:
    """Whether `plan.impossible` lists all that the facts rule out; else each point needs `incompatibility`."""
    facts, index = DeclaredFacts.of(plan), Index(plan.knobs)
    return all(study is None or study.listed() for study in (
        _study(plan.steps, target, index, facts) for target in plan.targets
    ))


def _study(steps: tuple[Step, ...], target: Target, index: Index, facts: DeclaredFacts) -> _Study | None:
    """The steps that can be in the way of anything on this target; None where nothing can."""
    runtimes = [facts.runtimes[use.runtime] for use in target.runtimes]
    parties = involved([anywhere(position, runtimes) for position in positions_of(steps, facts)], target, facts)
    at_home = target.device == "cpu" and target.remote is None and not any(
        {"gpu", "browser"} & {*runtime.needs} or FIXED_SIZES in runtime.traits for runtime in runtimes
    )
    return _Study(steps, target, index, facts, parties) if parties or not at_home else None


def _by_pairs(study: _Study) -> Feasibility:
    """The same, two steps at a time: all there is to find where no third step can lift what two have together."""
    found: dict[frozenset[tuple[str, Value]], Impossible] = {}
    never: dict[Conflict, None] = {}
    plain = PlainPairs(study.target, study.index, study.facts)
    alike: AnswerCache[Feasibility] = AnswerCache(study.index, study.target)
    for parties in study.pairs():
        if len(parties) == 2 and plain.knows(*parties):
            impossible: Iterable[Impossible] = plain.look(*parties)
        else:
            known = alike.ask(parties, study.part)
            part = known[0] if known is not None else study.part(parties)
            if not part.exact:
                return part
            impossible, conflicts = part.impossible, part.never
            if known is not None:
                impossible = renamed_cells(impossible, parties, known[1])
                conflicts = tuple(renamed_conflicts(conflicts, parties))
            never |= dict.fromkeys(conflicts)
        for item in impossible:
            found[frozenset(item.values.items())] = item
    return Feasibility(tuple(_smallest(found.values())), tuple(never))


@dataclass(slots=True, eq=False)
class _Study:
    steps: tuple[Step, ...]
    target: Target
    index: Index
    facts: DeclaredFacts
    involved: Sequence[Position]

    def variables(self) -> tuple[list[Knob], list[Expression], dict[str, list[Value]]]:
        """The knobs involved, the conditions on continuous ones, and the counts that stand for all of a repeat's."""
        by_path = self.index.by_path
        wanted: set[str] = {self.target.knob} if self.target.knob is not None else set()
        whens: list[Expression] = []
        for position in self.involved:
            wanted |= {path for path, _ in position.guards} | set(position.orders)
            whens += [when for when in position.whens if when not in whens]
        compared = {path for when in whens for path in named(when)}
        open_whens = [when for when in whens if self._open(when, by_path)]
        wanted |= {path for when in whens if when not in open_whens for path in named(when)}
        knobs = [knob for knob in self.index.closed(wanted) if options(knob) is not None]
        tried = {knob.path: _rounds(knob) for knob in knobs if knob.role == "repeat" and knob.path not in compared}
        tried |= {
            knob.path: list(self._orders(knob)) for knob in knobs if knob.role == "order" and knob.path not in compared
        }
        # A condition on a continuous knob may hold or not, whatever the others are.
        knobs += [
            Knob(path=_unknown(when), column="", role="maybe", domain=SetDomain(values=(False, True)), dimension="bool")
            for when in open_whens
        ]
        return knobs, open_whens, tried

    def _orders(self, knob: Knob) -> dict[Value, list[Value]]:
        """The first of the orders in which the members involved come alike, and all that it stands for."""
        here = [position for position in self.involved if knob.path in position.orders]
        asked = {position.members[position.orders.index(knob.path)] for position in here}
        alike: dict[Value, list[Value]] = {}
        for order in options(knob) or ():
            assert isinstance(order, tuple), order
            alike.setdefault(tuple(label for label in order if label in asked), []).append(order)
        return {found[0]: found for found in alike.values()}

    def bound(self) -> int:
        """How many combinations there are to look at, at most."""
        knobs, _, tried = self.variables()
        if len(knobs) > DEEPEST:
            return 1 << 62
        return bound(knob for knob in knobs if knob.path not in tried) * prod(map(len, tried.values()))

    def part(self, parties: list[Position]) -> Feasibility:
        """The same of some of its steps alone."""
        part = replace(self, involved=parties)
        return part.look() if part.bound() <= LIMIT else Feasibility((), exact=False)

    def few(self, parties: list[Position]) -> bool:
        """Whether there is not too much to look at for some of its steps."""
        return replace(self, involved=parties).bound() <= LIMIT

    def lifted(self) -> bool:
        """Whether a third step may lift what two have together."""
        return any(map(lifts, self.involved))

    def pairs(self) -> Iterator[list[Position]]:
        """Each step alone, and each two that can be in each other's way."""
        for position in self.involved:
            yield [position]
        for first, second in clashing(self.involved):
            yield [first, second]

    def listed(self) -> bool:
        """Whether all that cannot go together is listed: no condition is unknown, and there is not too much to see."""
        if self.variables()[1]:
            return False
        lifted = self.lifted()
        if self.bound() <= (LIMIT if lifted else QUICK):
            return True
        if lifted:
            return False
        plain = PlainPairs(self.target, self.index, self.facts)
        alike: AnswerCache[bool] = AnswerCache(self.index, self.target)
        for parties in self.pairs():
            if len(parties) == 2 and plain.knows(*parties):
                continue
            known = alike.ask(parties, self.few)
            if not (known[0] if known is not None else self.few(parties)):
                return False
        return True

    def look(self) -> Feasibility:
        """Walk all combinations."""
        knobs, open_whens, tried = self.variables()
        feasible: list[Cell] = []
        conflicting: list[tuple[Cell, list[Conflict]]] = []
        seen: dict[tuple[int, ...], list[Conflict]] = {}
        for values in assignments(knobs, tried):
            found = self._conflicts(values, open_whens, seen)
            if found:
                conflicting.append((values, found))
            else:
                feasible.append(values)
        impossible = self._impossible(conflicting, feasible, tried, {_unknown(when) for when in open_whens})
        return Feasibility(impossible, tuple(self._never(conflicting, feasible, open_whens)))

    def _open(self, when: Expression, by_path: Mapping[str, Knob]) -> bool:
        return any(
            options(knob) is None or len(options(knob) or ()) > 1000
            for path in named(when)
            if (knob := by_path.get(path)) is not None
        )

    def _applied(self, values: Cell, open_whens: Sequence[Expression]) -> list[Apply]:
        environment = Environment(knob=values.get)

        def true(when: Expression) -> bool:
            if when in open_whens:
                return bool(values[_unknown(when)])
            return holds(when, environment)

        if any(position.orders or position.repeats for position in self.involved):
            kept = {position.step.path for position in self.involved}
            return [step for step in applied(self.steps, values, true) if step.path in kept]
        # Without orders and rounds the order of the text is the order of the run.
        return [
            position.step
            for position in self.involved
            if all(values.get(path) == value for path, value in position.guards) and all(map(true, position.whens))
        ]

    def _use(self, values: Cell) -> RuntimeUse:
        return self.target.use(values)

    def _conflicts(
        self, values: Cell, open_whens: Sequence[Expression], seen: dict[tuple[int, ...], list[Conflict]]
    ) -> list[Conflict]:
        use = self._use(values)
        steps = self._applied(values, open_whens)
        key = (id(use), *map(id, steps))
        if key not in seen:
            seen[key] = conflicts(steps, use, self.target, self.facts)
        return seen[key]

    # ---- the smallest combinations

    def _impossible(
        self,
        conflicting: list[tuple[Cell, list[Conflict]]],
        feasible: list[Cell],
        tried: Mapping[str, list[Value]],
        unknown: set[str],
    ) -> tuple[Impossible, ...]:
        found: dict[tuple[tuple[str, Value], ...], Impossible] = {}
        goes = _Feasible(feasible)
        by_path = self.index.by_path
        orders = {path: self._orders(by_path[path]) for path in tried if by_path[path].role == "order"}
        looked: set[tuple[object, ...]] = set()
        for values, reasons in conflicting:
            for conflict in reasons:
                cause = self._cause(conflict, values)
                key = (conflict, *cause.items())
                if key in looked:
                    continue
                looked.add(key)
                least = _least(cause, values, goes)
                if least is None or not least or unknown & least.keys():
                    continue
                for spread in _spread(least, tried, self.index.by_path, orders):
                    found.setdefault(tuple(spread.items()), Impossible(values=spread, reason=conflict.reason))
        return tuple(_smallest(found.values()))

    def _cause(self, conflict: Conflict, values: Cell) -> dict[str, Value]:
        """The values that put the parties of a conflict there, in the order of the knobs."""
        paths: set[str] = set()
        for position in self.involved:
            if position.step.path in (conflict.path, conflict.other):
                paths |= {path for path, _ in position.guards} | set(position.orders)
                for when in position.whens:
                    paths |= {path for path in named(when) if path in values}
                    paths |= {_unknown(when)} & values.keys()
        if self.target.knob is not None and any(
            use.path in (conflict.path, conflict.other) for use in self.target.runtimes
        ):
            paths.add(self.target.knob)
        return {path: value for path, value in values.items() if path in paths and value is not None}

    # ---- what can never be taken

    def _never(
        self, conflicting: list[tuple[Cell, list[Conflict]]], feasible: list[Cell], open_whens: Sequence[Expression]
    ) -> Iterator[Conflict]:
        alive = {step.path for values in feasible for step in self._applied(values, open_whens)}
        labels = {self._use(values).path for values in feasible}
        dead = [position.step.path for position in self.involved if position.step.path not in alive]
        told: set[str] = set()
        for path in dead:
            cells = [
                found
                for values, found in conflicting
                if path not in told and any(step.path == path for step in self._applied(values, open_whens))
            ]
            conflict = _always(cells, path)
            if conflict is not None and not told & {conflict.path, conflict.other}:
                told |= {path, conflict.path}
                turned = replace(conflict, path=path, other=conflict.path, turned=True)
                yield conflict if conflict.path in dead else turned
        for use in self.target.runtimes:
            if use.path in labels:
                continue
            cells = [found for values, found in conflicting if self._use(values).path == use.path]
            conflict = _always(cells, use.path)
            if conflict is not None and not {conflict.path, conflict.other} & set(dead):
                code = "E501" if conflict.code == "E501" else "E504"
                yield Conflict(code, conflict.reason, use.path, conflict.path, way_out=conflict.way_out)


def _smallest(found: Iterable[Impossible]) -> list[Impossible]:
    """Those that hold no other one within themselves."""
    by_values = {frozenset(item.values.items()): item for item in found}
    sizes = sorted({len(values) for values in by_values})
    return [
        item
        for values, item in by_values.items()
        if not any(
            frozenset(part) in by_values
            for count in sizes if count < len(values)
            for part in combinations(values, count)
        )
    ]


def _always(cells: list[list[Conflict]], path: str) -> Conflict | None:
    """The conflict of `path` that comes up in all of these cells, or the first of those that come up in some."""
    mine = [conflict for found in cells for conflict in found if path in (conflict.path, conflict.other)]
    times = Counter(conflict for found in cells for conflict in dict.fromkeys(found))
    everywhere = [conflict for conflict in mine if times[conflict] == len(cells)]
    return next(iter(everywhere or mine), None)


def _least(cause: dict[str, Value], values: Cell, feasible: _Feasible) -> dict[str, Value] | None:
    """The fewest of the cause's values that no feasible cell has all of; more of the cell's where these do not do."""
    paths = list(cause)
    for count in range(len(paths) + 1):
        for chosen in combinations(paths, count):
            part = {path: cause[path] for path in chosen}
            if not feasible.extends(part):
                return part
    # Something else that is out (or in) is needed for the conflict, say a step that would have turned the form back.
    rest = {path: value for path, value in values.items() if path not in cause and value is not None}
    part = {**cause, **rest}
    if feasible.extends(part):
        return None
    for path in rest:
        fewer = {key: value for key, value in part.items() if key != path}
        if not feasible.extends(fewer):
            part = fewer
    return part


class _Feasible:
    """The combinations that go, to be asked whether one of them has some values."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = cells
        self._of: dict[tuple[str, ...], set[tuple[Value, ...]]] = {}

    def extends(self, part: Mapping[str, Value]) -> bool:
        """Whether a combination has all of these values."""
        paths = tuple(part)
        if paths not in self._of:
            self._of[paths] = {tuple(cell[path] for path in paths) for cell in self._cells}
        return tuple(part.values()) in self._of[paths]


def _rounds(knob: Knob) -> list[Value]:
    # No round, one, and two that stand for any more.
    listed: list[Value] = [value for value in options(knob) or () if isinstance(value, int)]
    more = [value for value in listed if isinstance(value, int) and value >= 2]
    return [value for value in listed if value not in more] + more[:1]


def _spread(
    part: dict[str, Value], tried: Mapping[str, list[Value]], knobs: Mapping[str, Knob],
    orders: Mapping[str, Mapping[Value, list[Value]]],
) -> list[dict[str, Value]]:
    """The combination for each count of rounds, and each order, that the one in it stands for."""
    found: list[dict[str, Value]] = [{}]
    for path, value in part.items():
        each: list[Value] = [value]
        if path in tried and isinstance(value, int) and value >= 2:
            each = [item for item in options(knobs[path]) or () if isinstance(item, int) and item >= 2]
        elif path in orders:
            each = orders[path][value]
        found = [{**one, path: item} for one in found for item in each]
    return found


def _unknown(when: Expression) -> str:
    return f"when {show(when)}"
