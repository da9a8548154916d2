"""Where in its space a study does one technique and nothing else: the point, and the values of what is left open.

A knob has the declared default of the parameter that it stands for where its domain has that and the point may run,
else the domain's value nearest to it; what the study fixes stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import combinations, islice

from optlang.plan.domains import contains, every_value
from optlang.plan.expressions import KnobRef, Value, outcomes
from optlang.plan.model import (
    Apply,
    Choice,
    Computed,
    Domain,
    Fixed,
    FloatDomain,
    Group,
    IntDomain,
    Knob,
    Maybe,
    Models,
    Order,
    OrderDomain,
    Param,
    Plan,
    Repeat,
    Searched,
    SetDomain,
    Setting,
    Step,
    Technique,
    applies,
)
from optlang.space.recipe import Applied, NoValueError, Point, Recipe, resolve
from optlang.space.space import Exhausted, Space

DRAWS = 100
"""Points that are looked at until one is found at which a technique stands alone."""

NEAR, FLOATS = 5, 8
"""Of a knob with many values so many neighbors on each side are looked at, and the ends; of a continuous one so many
steps from end to end."""

# The path of a step without the numbers of its rounds.
_ROUND = re.compile(r"\[\d+\]")


def path_of(step: Applied) -> str:
    """The path in the study of a step of a recipe: that of its `Apply`."""
    return _ROUND.sub("", step.path)


def recoveries_of(plan: Plan, use: Apply) -> list[Apply]:
    """The study's own trainings that may recover what this step loses, the likeliest first: those after it in the text,
    then the others that go with it, then those of other branches."""
    listed = list(applies(plan.steps))
    place = listed.index(use)

    def distance(item: Apply) -> tuple[bool, bool]:
        return (route(plan.steps, {use.path, item.path}) is None, listed.index(item) < place)

    wanted = plan.technique(use.technique).recovered_by
    return sorted((item for item in listed if _recovers(plan.technique(item.technique), item, wanted)), key=distance)


def _recovers(technique: Technique, use: Apply, wanted: str | None) -> bool:
    """The declared recovery, or a training of what is there: weights alone, or `distill` of the model as it stands, in
    its whole width."""
    if technique.name == wanted:
        return True
    if technique.recovered_by is not None or "training" not in technique.needs or "module" not in technique.gives:
        return False
    if "weights_only" in technique.traits:
        return True
    student, width = use.settings.get("student"), use.settings.get("width")
    return isinstance(student, Fixed) and student.value is None and isinstance(width, Fixed) and width.value == 1


def route(steps: tuple[Step, ...], wanted: Collection[str]) -> dict[str, Value] | None:
    """The branches, `maybe`s and counts that lead to the wanted steps and past all others, by the paths of their knobs.

    A count is 1 or 0: the least one of the domain that is not less is meant. None where two wanted steps lie in
    different branches of one choice.
    """
    found: dict[str, Value] = {}
    for step in steps:
        inner: list[tuple[Step, ...]] = []
        match step:
            case Choice():
                on = [branch for branch in step.branches if _leads(branch.steps, wanted)]
                if len(on) > 1:
                    return None
                taken = on[0] if on else min(step.branches, key=lambda branch: len(list(applies(branch.steps))))
                found[step.path] = taken.name
                inner = [taken.steps]
            case Maybe():
                found[step.path] = _leads(step.steps, wanted)
                inner = [step.steps]
            case Repeat():
                if step.count is None:
                    found[step.counter] = max(int(_leads(step.steps, wanted)), _whole(found.get(step.counter)))
                inner = [step.steps]
            case Group():
                inner = [step.steps]
            case Order():
                inner = [member.steps for member in step.members]
        for part in inner:
            below = route(part, wanted)
            if below is None:
                return None
            found |= {path: value for path, value in below.items() if not _whole(found.get(path))}
    return found


def _whole(value: Value) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _leads(steps: tuple[Step, ...], wanted: Collection[str]) -> bool:
    return any(item.path in wanted for item in applies(steps))


class DefaultValues:
    """The values that knobs have where nothing else is asked for."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # What a pipeline's parameter leaves open, the technique that it is passed to may declare.
        self._defaults = dict(_defaults(plan)) | {
            knob.path: knob.default for knob in plan.knobs if knob.default is not None
        }

    def value(self, knob: Knob, domain: Domain) -> Value:
        """The knob's value, of `domain`, which may be a part of its own."""
        return nearest(domain, self._defaults.get(knob.path))

    def points(self, space: Space, wanted: Collection[str], labels: Mapping[str, str]) -> Iterator[Point]:
        """Points that may run, the likeliest to do the wanted steps alone first.

        `labels` are those of the runtimes by the paths of their knobs. First comes the point of the usual values, then
        those that differ from it in one or two of the knobs that decide about others, the nearest values first.
        """
        way = route(self._plan.steps, wanted)
        if way is None:
            return
        seen: list[Point] = []
        for change in islice(self._changes(space, way, labels), DRAWS):
            point = self._drawn(space, way, labels, dict(change))
            if point is not None and point not in seen:
                seen.append(point)
                if space.forbidden(point) is None:
                    yield point

    def _changes(
        self, space: Space, way: Mapping[str, Value], labels: Mapping[str, str]
    ) -> Iterator[tuple[tuple[str, Value], ...]]:
        """None, then other values of one deciding knob, then of two; what lies nearer comes first."""
        ranked = [
            (rank, (knob.path, value))
            for knob in self._plan.knobs if knob.path in space.deciding and knob.path not in labels
            for rank, value in enumerate(_by_distance(knob.domain, self._wished(knob, knob.domain, way)))
        ]
        yield ()
        for _, item in sorted(ranked, key=lambda pair: pair[0]):
            yield (item,)
        pairs = [pair for pair in combinations(ranked, 2) if pair[0][1][0] != pair[1][1][0]]
        for one, other in sorted(pairs, key=lambda pair: pair[0][0] + pair[1][0]):
            yield one[1], other[1]

    def _drawn(
        self, space: Space, way: Mapping[str, Value], labels: Mapping[str, str], change: Mapping[str, Value]
    ) -> Point | None:
        def ask(knob: Knob, domain: Domain) -> Value:
            if knob.path in labels or knob.path in change:
                wish: Value = labels.get(knob.path, change.get(knob.path))
                if not contains(domain, wish):
                    raise LookupError(knob.path)
                return wish
            return self._wished(knob, domain, way)

        try:
            return space.draw(ask)
        except (Exhausted, LookupError):
            return None

    def _wished(self, knob: Knob, domain: Domain, way: Mapping[str, Value]) -> Value:
        """The knob's value on the route to the wanted steps."""
        usual = self.value(knob, domain)
        wish = way.get(knob.path)
        if wish is None:
            return usual
        if isinstance(wish, int) and not isinstance(wish, bool):
            # Where a number of rounds is declared and some are wanted, so many are done.
            declared = wish > 0 and knob.path in self._defaults and _whole(usual) > 0
            return usual if declared else _least(domain, wish)
        return wish if contains(domain, wish) else usual


def _by_distance(domain: Domain, value: Value) -> list[Value]:
    """Other values of the domain, the nearest first: all of an unordered one, some of one that has many."""
    match domain:
        case FloatDomain(low=low, high=high, log=log):
            shares = [step / FLOATS for step in range(FLOATS + 1)]
            values: Iterable[Value] = (
                min(high, low * (high / low) ** share if log else low + share * (high - low)) for share in shares
            )
        case IntDomain(low=low, high=high):
            near = int(value) if isinstance(value, int | float) else low
            values = dict.fromkeys((*range(max(low, near - NEAR), min(high, near + NEAR) + 1), low, high))
        case _:
            values = islice(every_value(domain), DRAWS)
    others = [item for item in values if item != value]
    if isinstance(domain, SetDomain | OrderDomain):
        return others
    return sorted(others, key=lambda item: _distance(item, value))


def _distance(one: Value, other: Value) -> float:
    if isinstance(one, bool | str) or isinstance(other, bool | str):
        return 0.0
    return abs(one - other) if isinstance(one, int | float) and isinstance(other, int | float) else 0.0


def resolved(plan: Plan, point: Point) -> Recipe | None:
    """What the point does; None where a setting has no value there."""
    try:
        return resolve(plan, point)
    except NoValueError:
        return None


def nearest(domain: Domain, default: Value) -> Value:
    """The domain's value that is nearest to the default: the default itself, the nearest number, else the first."""
    if contains(domain, default):
        return default
    number = isinstance(default, int | float) and not isinstance(default, bool)
    match domain:
        case FloatDomain(low=low, high=high) | IntDomain(low=low, high=high):
            return min(max(low, default), high) if number and isinstance(default, int | float) else low
    values = list(every_value(domain))
    if number and isinstance(default, int | float):
        numbers = [item for item in values if isinstance(item, int | float) and not isinstance(item, bool)]
        return min(numbers, key=lambda item: abs(item - default), default=values[0])
    return values[0]


def _least(domain: Domain, count: Value) -> Value:
    counts = [value for value in every_value(domain) if isinstance(value, int)]
    return min((value for value in counts if value >= _whole(count)), default=max(counts))


def _defaults(plan: Plan) -> Iterator[tuple[str, Value]]:
    """The knobs that stand for a parameter, with its declared default. The first use of a knob comes last."""
    found = [
        pair for step in applies(plan.steps)
        for pair in _of_settings(step.settings, plan.technique(step.technique).params)
    ]
    for target in plan.targets:
        found += _of_setting(target.threads, 1)
        found += _of_setting(target.batch, 1)
        for use in target.runtimes:
            found += _of_settings(use.settings, plan.runtime(use.runtime).params)
    return reversed(found)


def _of_settings(settings: Mapping[str, Setting], params: tuple[Param, ...]) -> Iterator[tuple[str, Value]]:
    defaults = {param.name: param.default for param in params}
    for name, setting in settings.items():
        yield from _of_setting(setting, defaults.get(name))


def _of_setting(setting: Setting, default: Value) -> Iterator[tuple[str, Value]]:
    match setting:
        case Searched(knob=path):
            yield path, default
        case Computed(expression=expression):
            for outcome in outcomes(expression):
                if isinstance(outcome, KnobRef):
                    yield outcome.path, default
        case Models(models=models):
            for use in models:
                for argument in use.arguments.values():
                    yield from _of_setting(argument, None)
