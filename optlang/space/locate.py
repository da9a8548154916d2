"""Where in the space of a study a recipe lies: the point that has its effect, found by reading it as its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count, permutations

from optlang.interfaces import JSON
from optlang.plan.domains import contains, every_value
from optlang.plan.expressions import Environment, If, KnobRef, Value, holds, outcomes
from optlang.plan.model import (
    Apply,
    Choice,
    Computed,
    Fixed,
    Group,
    Maybe,
    Models,
    Order,
    Plan,
    Repeat,
    Searched,
    Setting,
    Step,
    Target,
)
from optlang.space.recipe import Applied, Place, Point, Recipe, place_label, resolve, value_of
from optlang.space.space import Space

READINGS = 5_000
"""How many steps are looked at in all: a recipe can be read in more ways than anyone waits for, where many steps of one
technique may be left out."""


def locate(plan: Plan, space: Space, recipe: Recipe) -> Point | None:
    """The point of the space that has the recipe's effect; None where there is none, or none within `READINGS`."""
    places = {place.target.name: place for place in recipe.places}
    if len(places) < len(plan.targets):
        return None
    taken: Values | None = {}
    for target in plan.targets:
        taken = None if taken is None else _settled(plan, target, places[target.name], taken)
    if taken is None:
        return None
    for end, values in _match(plan, plan.steps, recipe.steps, 0, taken, count()):
        if end != len(recipe.steps):
            continue
        point = _present_knobs(plan, values)
        if space.contains(point) and resolve(plan, point).effect == recipe.effect:
            return point
    return None


def _settled(plan: Plan, target: Target, place: Place, taken: Values) -> Values | None:
    """The knobs that make the target what the place says; None where the study has no such runtime or setting."""
    for use in target.runtimes:
        if place_label(plan, target, use.label) != place.label or use.runtime != place.runtime:
            continue
        start: dict[str, Value] = taken if target.knob is None else {**taken, target.knob: use.label}
        found = _take(plan, use.settings, place.settings, start)
        for setting, value in ((target.threads, place.target.threads), (target.batch, place.target.batch)):
            found = None if found is None else _bind(plan, setting, value, found)
        return found
    return None


Values = dict[str, Value]


def _bind(plan: Plan, setting: Setting, wanted: JSON, values: Values) -> Values | None:
    if isinstance(setting, Models):
        return _bind_models(plan, setting, wanted, values)
    value = value_of(wanted)
    match setting:
        case Fixed(value=fixed):
            return values if fixed == value else None
        case Searched(knob=path):
            if path in values:
                return values if values[path] == value else None
            domain = next(knob.domain for knob in plan.knobs if knob.path == path)
            return {**values, path: value} if contains(domain, value) else None
        case Computed(expression=If() as expression):
            return _bind_outcome(plan, expression, value, values)
    # What is computed follows from the knobs: the whole recipe is compared at the end.
    return values


def _bind_outcome(plan: Plan, expression: If, value: Value, values: Values) -> Values:
    # Where the condition is false, the knob is taken away again when the whole point is known.
    for outcome in outcomes(expression):
        if isinstance(outcome, KnobRef) and outcome.path not in values:
            domain = next(knob.domain for knob in plan.knobs if knob.path == outcome.path)
            if contains(domain, value):
                return {**values, outcome.path: value}
    return values


def _present_knobs(plan: Plan, values: Values) -> Point:
    """The knobs that have a value and are there, at the values of those before them."""
    point: Values = {}
    for knob in plan.knobs:
        if knob.path in values and (knob.condition is None or holds(knob.condition, Environment(knob=point.get))):
            point[knob.path] = values[knob.path]
    return point


def _bind_models(plan: Plan, setting: Models, wanted: JSON, values: Values) -> Values | None:
    models = wanted if setting.several else [wanted]
    if not isinstance(models, list | tuple) or len(models) != len(setting.models):
        return None
    found: Values | None = values
    for use, model in zip(setting.models, models, strict=True):
        arguments = model["arguments"] if isinstance(model, Mapping) else None
        if not isinstance(arguments, Mapping) or model != use.factory(arguments):
            return None
        found = None if found is None else _take(plan, use.arguments, arguments, found)
    return found


def _take(plan: Plan, settings: Mapping[str, Setting], wanted: Mapping[str, JSON], values: Values) -> Values | None:
    found: Values | None = values
    for name, setting in settings.items():
        if found is not None and name in wanted:
            found = _bind(plan, setting, wanted[name], found)
    return found


def _match(
    plan: Plan, steps: tuple[Step, ...], wanted: tuple[Applied, ...], start: int, values: Values, tries: Iterator[int]
) -> Iterator[tuple[int, Values]]:
    """All ways to read `wanted[start:]` as a run of `steps`: where each ends, and the knobs that it takes."""
    if not steps:
        yield start, values
        return
    for end, taken in _match_one(plan, steps[0], wanted, start, values, tries):
        yield from _match(plan, steps[1:], wanted, end, taken, tries)


def _match_one(
    plan: Plan, step: Step, wanted: tuple[Applied, ...], start: int, values: Values, tries: Iterator[int]
) -> Iterator[tuple[int, Values]]:
    if next(tries) >= READINGS:
        return
    if step.when is not None and not isinstance(step, Maybe):
        # A condition that is false removes the step; which it is shows when the whole point is known. A `maybe` that is
        # out says so already.
        yield start, values
    match step:
        case Apply():
            if start < len(wanted) and wanted[start].technique == step.technique:
                taken = _take(plan, step.settings, wanted[start].settings, values)
                if taken is not None:
                    yield start + 1, taken
        case Choice():
            for branch in step.branches:
                yield from _match(plan, branch.steps, wanted, start, {**values, step.path: branch.name}, tries)
        case Maybe():
            yield start, {**values, step.path: False}
            yield from _match(plan, step.steps, wanted, start, {**values, step.path: True}, tries)
        case Repeat():
            counts = [step.count] if step.count is not None else [
                value for knob in plan.knobs if knob.path == step.counter for value in every_value(knob.domain)
            ]
            for count in counts:
                assert isinstance(count, int)
                if step.count is None and values.get(step.counter, count) != count:
                    continue
                taken = values if step.count is not None else {**values, step.counter: count}
                yield from _match(plan, step.steps * count, wanted, start, taken, tries)
        case Group():
            yield from _match(plan, step.steps, wanted, start, values, tries)
        case Order():
            members = {member.name: member.steps for member in step.members}
            for order in permutations(members):
                inner = tuple(item for name in order for item in members[name])
                yield from _match(plan, inner, wanted, start, {**values, step.path: order}, tries)
