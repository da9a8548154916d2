"""The first trials of a run: each technique alone, with its declared defaults, on each runtime of the study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations

from optlang.forms import TargetSpec
from optlang.plan.domains import contains
from optlang.plan.expressions import Environment, Value, holds
from optlang.plan.model import (
    BASELINE_RUNTIME,
    RECOVERY,
    Apply,
    Choice,
    Fixed,
    Group,
    Maybe,
    Order,
    Param,
    Plan,
    Repeat,
    RuntimeUse,
    Searched,
    Setting,
    Step,
    Technique,
    applies,
)
from optlang.search.recipe import Applied, Point, Recipe, resolve
from optlang.search.space import Space, values_of

# The order in which the field recommends to try them; the trade-off table is printed in it.
RECOMMENDED = ("graph", "cast", "training", "quant", "prune")

RECOVERED = "prune"
"""The module whose techniques are followed by a fine-tune on the ladder: pruned without one, a model says nothing."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One trial of the ladder: which technique stands alone ("none": the bare runtime), what it does, and the point of
    the study's space that does just that (None where the space has no such point)."""

    alone: str
    recipe: Recipe
    point: Point | None


def baseline_recipe(plan: Plan) -> Recipe:
    """The reference: no step, eager float32, on the study's target."""
    return Recipe((), _target(plan), "eager", BASELINE_RUNTIME)


def rungs(plan: Plan, space: Space, unavailable: Mapping[str, str]) -> Iterator[Rung]:
    """The ladder in the recommended order, without the baseline. Runtimes that cannot run here are left out."""
    baseline = baseline_recipe(plan)
    uses = [use for use in plan.targets[0].runtimes if use.label not in unavailable]
    recipes = [("none", _recipe(plan, (), use)) for use in uses]
    techniques = sorted(used_techniques(plan), key=lambda item: _rank(item.name))
    for technique in techniques:
        on = [use for use in uses if _fits(technique, plan, use)]
        # What changes weights alone is as large and as fast everywhere: one runtime tells all.
        on = on[:1] if "weights_only" in technique.traits else on
        recipes += [(technique.name, _recipe(plan, _alone(plan, technique), use)) for use in on]
    seen = {baseline.effect}
    for alone, recipe in recipes:
        if recipe.effect in seen:
            continue
        seen.add(recipe.effect)
        point = locate(plan, space, recipe)
        yield Rung(alone, recipe if point is None else resolve(plan, point), point)


def used_techniques(plan: Plan) -> list[Technique]:
    """The techniques that the study's steps name, in the order of the text."""
    names = dict.fromkeys(apply.technique for apply in applies(plan.steps))
    return [plan.technique(name) for name in names]


def _rank(name: str) -> tuple[int, str]:
    module = name.split(".", 1)[0]
    return (RECOMMENDED.index(module) if module in RECOMMENDED else len(RECOMMENDED), name)


def _alone(plan: Plan, technique: Technique) -> tuple[Applied, ...]:
    steps = [Applied(f"ladder.{technique.name}", technique.name, _defaults(technique.params))]
    if technique.name.split(".", 1)[0] == RECOVERED:
        recovery = plan.technique(RECOVERY)
        steps.append(Applied(f"ladder.{technique.name}.{recovery.name}", recovery.name, _defaults(recovery.params)))
    return tuple(steps)


def _defaults(params: tuple[Param, ...]) -> dict[str, Value]:
    values: dict[str, Value] = {param.name: param.default for param in params}
    present = Environment(knob=values.get)
    return {param.name: values[param.name] for param in params if param.when is None or holds(param.when, present)}


def _fits(technique: Technique, plan: Plan, use: RuntimeUse) -> bool:
    runtime = plan.runtime(use.runtime)
    return (
        "module" in technique.takes
        and (technique.gives[0] if technique.gives else "module") in runtime.takes
        and technique.name not in runtime.excludes
    )


def _recipe(plan: Plan, steps: tuple[Applied, ...], use: RuntimeUse) -> Recipe:
    params = {param.name: param for param in plan.runtime(use.runtime).params}
    settings = {
        name: _usual(plan, setting, params[name].default)
        for name, setting in use.settings.items()
    }
    present = Environment(knob=settings.get)
    kept = {
        name: value for name, value in settings.items()
        if (when := params[name].when) is None or holds(when, present)
    }
    return Recipe(steps, _target(plan), use.label, use.runtime, kept)


def _target(plan: Plan) -> TargetSpec:
    target = plan.targets[0]
    threads, batch = _usual(plan, target.threads, 1), _usual(plan, target.batch, 1)
    assert isinstance(threads, int)
    assert isinstance(batch, int)
    return TargetSpec(target.name, target.device, threads, batch)


def _usual(plan: Plan, setting: Setting, default: Value) -> Value:
    """What the study fixes; where it searches, the declared default, or the domain's first value."""
    match setting:
        case Fixed(value=value):
            return value
        case Searched(knob=path):
            domain = next(knob.domain for knob in plan.knobs if knob.path == path)
            return default if contains(domain, default) else next(values_of(domain))
    raise AssertionError(setting)


# ---- where in the space a recipe lies


def locate(plan: Plan, space: Space, recipe: Recipe) -> Point | None:
    """The point of the space that has the recipe's effect; None where there is none."""
    target = plan.targets[0]
    for use in target.runtimes:
        if use.label != recipe.label or use.runtime != recipe.runtime:
            continue
        start: dict[str, Value] = {} if target.knob is None else {target.knob: use.label}
        taken = _take(plan, use.settings, recipe.settings, start)
        for setting, value in ((target.threads, recipe.target.threads), (target.batch, recipe.target.batch)):
            taken = None if taken is None else _bind(plan, setting, value, taken)
        if taken is None:
            continue
        for end, values in _match(plan, plan.steps, recipe.steps, 0, taken):
            if end != len(recipe.steps):
                continue
            point = {knob.path: values[knob.path] for knob in plan.knobs if knob.path in values}
            if space.contains(point) and resolve(plan, point).effect == recipe.effect:
                return point
    return None


Values = dict[str, Value]


def _bind(plan: Plan, setting: Setting, value: Value, values: Values) -> Values | None:
    match setting:
        case Fixed(value=fixed):
            return values if fixed == value else None
        case Searched(knob=path):
            if path in values:
                return values if values[path] == value else None
            domain = next(knob.domain for knob in plan.knobs if knob.path == path)
            return {**values, path: value} if contains(domain, value) else None
    # What is computed follows from the knobs: the whole recipe is compared at the end.
    return values


def _take(plan: Plan, settings: Mapping[str, Setting], wanted: Mapping[str, Value], values: Values) -> Values | None:
    found: Values | None = values
    for name, setting in settings.items():
        if found is not None and name in wanted:
            found = _bind(plan, setting, wanted[name], found)
    return found


def _match(
    plan: Plan, steps: tuple[Step, ...], wanted: tuple[Applied, ...], start: int, values: Values
) -> Iterator[tuple[int, Values]]:
    """All ways to read `wanted[start:]` as a run of `steps`: where each ends, and the knobs that it takes."""
    if not steps:
        yield start, values
        return
    for end, taken in _match_one(plan, steps[0], wanted, start, values):
        yield from _match(plan, steps[1:], wanted, end, taken)


def _match_one(
    plan: Plan, step: Step, wanted: tuple[Applied, ...], start: int, values: Values
) -> Iterator[tuple[int, Values]]:
    if step.when is not None:
        # A condition that is false removes the step; which it is shows when the whole point is known.
        yield start, values
    match step:
        case Apply():
            if start < len(wanted) and wanted[start].technique == step.technique:
                taken = _take(plan, step.settings, wanted[start].settings, values)
                if taken is not None:
                    yield start + 1, taken
        case Choice():
            for branch in step.branches:
                yield from _match(plan, branch.steps, wanted, start, {**values, step.path: branch.name})
        case Maybe():
            yield start, {**values, step.path: False}
            yield from _match(plan, step.steps, wanted, start, {**values, step.path: True})
        case Repeat():
            counts = [step.count] if step.count is not None else [
                value for knob in plan.knobs if knob.path == step.path for value in values_of(knob.domain)
            ]
            for count in counts:
                assert isinstance(count, int)
                taken = values if step.count is not None else {**values, step.path: count}
                yield from _match(plan, step.steps * count, wanted, start, taken)
        case Group():
            yield from _match(plan, step.steps, wanted, start, values)
        case Order():
            members = {member.name: member.steps for member in step.members}
            for order in permutations(members):
                inner = tuple(item for name in order for item in members[name])
                yield from _match(plan, inner, wanted, start, {**values, step.path: order})

