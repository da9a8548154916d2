"""What a computed setting evaluates to, and whether that is a value of its parameter, the same for check and search.

`check` looks for points at which there is none: exactly up to `combinations.LIMIT` combinations of the knobs involved,
less what the facts and the study's forbids rule out. Beyond that it tries the ends of what can be searched, and the
rest is decided at each draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from optlang.plan.domains import contains, show_domain
from optlang.plan.expressions import (
    Environment,
    Expression,
    KnobRef,
    RoundRef,
    Value,
    evaluate,
    holds,
    references,
)
from optlang.plan.model import (
    Computed,
    FloatDomain,
    Impossible,
    IntDomain,
    Knob,
    Models,
    Param,
    Plan,
    Repeat,
    Setting,
    Step,
    Target,
)
from optlang.plan.units import show
from optlang.space.combinations import (
    DEEPEST,
    LIMIT,
    Assignment,
    Index,
    TooManyError,
    assignments,
    bound,
    named,
    options,
    rules_out,
)
from optlang.space.step_positions import walk

COUNTS = (
    Param(
        name="threads", dimension="count", domain=IntDomain(low=1, high=1024), default=1, help="threads of the runtime"
    ),
    Param(name="batch", dimension="count", domain=IntDomain(low=1, high=65536), default=1, help="samples in one call"),
)
"""What a target declares besides its device and its runtimes."""

MOST_ROUNDS = 64
"""How many rounds of a `repeat` are looked at, from both ends."""

MOST_LOOKS = 1_000_000
"""How often settings of one study are evaluated in all; what comes after is decided at each draw."""


class NoValue(Exception):  # noqa: N818 - a point without a value is an answer
    """Why an expression has no value at a point, or none that its parameter may have; `reason` begins with a verb."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def value_of(setting: Computed, param: Param | None, environment: Environment) -> Value:
    """What a setting evaluates to for its declared parameter (None: an argument of the user's own); raises NoValue."""
    try:
        value = evaluate(setting.expression, environment)
    except ZeroDivisionError:
        raise NoValue("divides by zero") from None
    except OverflowError:
        raise NoValue("is too large a number") from None
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NoValue("is too large a number")
        value = round(value) if setting.dimension == "count" else value
    if value is None:
        optional = param.default is None and not param.required if param is not None else _is_plain(setting)
        if not optional:
            raise NoValue("has no value")
    elif param is not None and param.domain is not None and not _fits(param, value):
        near = float(f"{value:.9g}") if isinstance(value, float) else value
        shown, allowed = show(near, param.dimension), show_domain(param.domain, param.dimension)
        raise NoValue(f"is {shown}, and {allowed} is allowed")
    return value


def _is_plain(setting: Computed) -> bool:
    return isinstance(setting.expression, KnobRef)


def _fits(param: Param, value: Value) -> bool:
    """Whether a computed value lies in the domain, but for what arithmetic with fractions is off."""
    assert param.domain is not None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return True
    return any(contains(param.domain, item) for item in (value, float(f"{value:.9g}")))


# ---- where settings are computed


@dataclass(frozen=True, slots=True)
class Use:
    """A computed setting, and when it is used: with these values of knobs, under these conditions, in these repeats."""

    path: str
    name: str
    setting: Computed
    param: Param | None
    guards: tuple[tuple[str, Value], ...]
    whens: tuple[Expression, ...]
    repeats: tuple[Repeat, ...]

    def conditions(self) -> tuple[Expression, ...]:
        """All conditions that it is under."""
        own = self.setting.when
        return (*self.whens, own) if own is not None else self.whens


def declared(plan: Plan) -> dict[str, tuple[Param, ...]]:
    """The parameters of the techniques and runtimes of a plan, by their names."""
    found = {item.name: item.params for item in plan.techniques}
    return found | {item.name: item.params for item in plan.runtimes}


def uses(
    steps: tuple[Step, ...], targets: Iterable[Target], params: Mapping[str, tuple[Param, ...]]
) -> Iterator[Use]:
    """All computed settings of steps and targets; `params` are those of techniques and runtimes by their names."""
    for target in targets:
        own: dict[str, Setting] = {"threads": target.threads, "batch": target.batch}
        yield from _computed(target.name, own, COUNTS, (), (), ())
        for use in target.runtimes:
            guards = ((target.knob, use.label),) if target.knob is not None else ()
            yield from _computed(use.path, use.settings, params[use.runtime], guards, (), ())
    for step, at in walk(steps):
        # A searched count of rounds is looked at as one of the repeats.
        needed = tuple(guard for guard in at.guards if guard[1] is not None)
        yield from _computed(step.path, step.settings, params[step.technique], needed, at.whens, at.repeats)


def _computed(
    path: str,
    settings: Mapping[str, Setting],
    params: Sequence[Param],
    guards: tuple[tuple[str, Value], ...],
    whens: tuple[Expression, ...],
    repeats: tuple[Repeat, ...],
) -> Iterator[Use]:
    declared = {param.name: param for param in params}
    for name, setting in settings.items():
        if isinstance(setting, Computed):
            yield Use(path, name, setting, declared.get(name), guards, whens, repeats)
        elif isinstance(setting, Models):
            under = (*whens, setting.when) if setting.when is not None else whens
            for model in setting.models:
                for argument, given in model.arguments.items():
                    if isinstance(given, Computed):
                        yield Use(f"{path}.{name}", argument, given, None, guards, under, repeats)


# ---- where they have no value


@dataclass(frozen=True, slots=True)
class MissingValue:
    """A setting that has no value at a point: why, the knobs that show it, the rounds, and whether it never has one."""

    use: Use
    reason: str
    knobs: tuple[tuple[str, Value], ...]
    rounds: tuple[tuple[str, int, int], ...]
    never: bool


class MissingValueSearch:
    """Looks at the settings of one study."""

    def __init__(self, index: Index, impossible: Sequence[Impossible], forbids: Sequence[Expression]) -> None:
        self.index = index
        self.impossible = impossible
        self.forbids = forbids
        self.left = MOST_LOOKS
        self._forbids_of: dict[str, list[int]] = {}
        self._cells_of: dict[str, list[int]] = {}
        for number, rule in enumerate(forbids):
            for path in named(rule):
                self._forbids_of.setdefault(path, []).append(number)
        for number, cell in enumerate(impossible):
            for path in cell.values:
                self._cells_of.setdefault(path, []).append(number)

    def trouble(self, use: Use) -> MissingValue | None:
        """The first point at which a setting has no value; None where there is none, or too much to look at."""
        wanted = {path for path, _ in use.guards}
        for condition in (use.setting.expression, *use.conditions()):
            wanted |= named(condition)
        wanted |= {repeat.counter for repeat in use.repeats if repeat.count is None}
        knobs, forbids, cells = self._rules(wanted)
        narrowed = {knob.path: _ends(knob) for knob in knobs if options(knob) is None}
        if bound(knobs) > LIMIT:
            narrowed |= {knob.path: _ends(knob) for knob in knobs if isinstance(knob.domain, IntDomain)}
        total = math.prod(len(narrowed.get(knob.path) or options(knob) or (None,)) for knob in knobs)
        if total > LIMIT or len(knobs) > DEEPEST:
            return None
        return self._look(use, knobs, narrowed, forbids, cells)

    def _rules(self, wanted: set[str]) -> tuple[list[Knob], list[Expression], list[Impossible]]:
        """The knobs involved, with what is ruled out of them: directly, and by way of others where there are few."""
        paths = {knob.path for knob in self.index.closed(wanted)}
        within = self._grown(paths) or paths
        forbids, cells = set[int](), set[int]()
        for path in within:
            forbids |= {number for number in self._forbids_of.get(path, ()) if named(self.forbids[number]) <= within}
            cells |= {
                number for number in self._cells_of.get(path, ()) if self.impossible[number].values.keys() <= within
            }
        return (
            self.index.closed(within),
            [self.forbids[number] for number in sorted(forbids)],
            [self.impossible[number] for number in sorted(cells)],
        )

    def _grown(self, paths: set[str]) -> set[str] | None:
        """These knobs and all that rules join them to; None where they have too many combinations."""
        found: set[str] = set()
        waiting = sorted(paths)
        total = 1
        while waiting:
            path = waiting.pop()
            if path in found:
                continue
            found.add(path)
            total *= len(options(self.index.by_path[path]) or (None,))
            if total > LIMIT:
                return None
            joined = [named(self.forbids[number]) for number in self._forbids_of.get(path, ())]
            joined += [{*self.impossible[number].values} for number in self._cells_of.get(path, ())]
            waiting += [knob.path for names in joined for knob in self.index.closed(names - found)]
        return found

    def _look(
        self, use: Use, knobs: list[Knob], narrowed: Mapping[str, Sequence[Value]], forbids: Sequence[Expression],
        cells: Sequence[Impossible],
    ) -> MissingValue | None:
        found: MissingValue | None = None
        fine = False
        try:
            for values in assignments(knobs, narrowed):
                environment = Environment(knob=values.get)
                if any(_meets(cell, values) for cell in cells):
                    continue
                if any(rules_out(rule, environment) for rule in forbids):
                    continue
                for rounds in _rounds(use, values):
                    self.left -= 1
                    if self.left < 0:
                        return None
                    if not _in_use(use, values, rounds):
                        continue
                    try:
                        value_of(use.setting, use.param, _environment(values, rounds))
                        fine = True
                    except NoValue as error:
                        if found is None:
                            found = self._trouble(use, error.reason, values, rounds)
                if found is not None and fine:
                    break
        except TooManyError:
            return None
        if found is None:
            return None
        never = not fine and not narrowed
        return MissingValue(use, found.reason, found.knobs, found.rounds, never)

    def _trouble(
        self, use: Use, reason: str, values: Assignment, rounds: Mapping[str, tuple[int, int]]
    ) -> MissingValue:
        shown = named(use.setting.expression)
        # What is absent is so because of others.
        absent = {path for path in shown if values.get(path) is None and path in self.index.by_path}
        deciding = {item for path in absent for item in named(self.index.by_path[path].condition)}
        shown |= {path for path in deciding if values.get(path) is not None}
        counted = {item.path for item in references(use.setting.expression) if isinstance(item, RoundRef)}
        knobs = tuple((path, value) for path, value in values.items() if path in shown)
        return MissingValue(
            use, reason, knobs, tuple((path, *pair) for path, pair in rounds.items() if path in counted), never=False
        )


def _ends(knob: Knob) -> list[Value]:
    """Both ends of what is too much to try; of an order, as it stands."""
    match knob.domain:
        case FloatDomain(low=low, high=high) | IntDomain(low=low, high=high):
            # Zero is what divisions are afraid of.
            return [low, *([0 if isinstance(low, int) else 0.0] if low < 0 < high else []), high]
    return list(options(knob) or [])


def _meets(cell: Impossible, values: Assignment) -> bool:
    return all(values.get(path) == value for path, value in cell.values.items())


def _rounds(use: Use, values: Assignment) -> Iterator[Mapping[str, tuple[int, int]]]:
    """Each round of the repeats around a setting: its number and how many there are, by the path of the repeat."""
    counts: list[int] = []
    for repeat in use.repeats:
        count = repeat.count if repeat.count is not None else values.get(repeat.counter)
        counts.append(count if isinstance(count, int) else 0)
    numbers = [
        [*range(1, MOST_ROUNDS // 2 + 1), *range(count - MOST_ROUNDS // 2 + 1, count + 1)]
        if count > MOST_ROUNDS else range(1, count + 1)
        for count in counts
    ]
    for chosen in product(*numbers):
        yield {
            repeat.path: (number, count)
            for repeat, number, count in zip(use.repeats, chosen, counts, strict=True)
        }


def _environment(values: Assignment, rounds: Mapping[str, tuple[int, int]]) -> Environment:
    def round_of(ref: RoundRef) -> int:
        number, count = rounds[ref.path]
        return number if ref.which == "round" else count

    return Environment(knob=values.get, rounds=round_of)


def _in_use(use: Use, values: Assignment, rounds: Mapping[str, tuple[int, int]]) -> bool:
    environment = _environment(values, rounds)
    return all(values.get(path) == value for path, value in use.guards) and all(
        holds(condition, environment) for condition in use.conditions()
    )
