"""The first trials of a run: each technique alone, with its declared defaults, on each runtime of the study."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from optlang.forms import JSON, TargetSpec
from optlang.plan.domains import contains
from optlang.plan.expressions import Const, Environment, If, KnobRef, Value, holds, outcomes
from optlang.plan.flow import as_done
from optlang.plan.model import (
    BASELINE_RUNTIME,
    RECOVERY,
    Apply,
    Choice,
    Computed,
    Fixed,
    FloatDomain,
    Group,
    Maybe,
    Models,
    Order,
    Param,
    Plan,
    Repeat,
    RuntimeUse,
    Searched,
    Setting,
    Step,
    Target,
    Technique,
    applies,
)
from optlang.search.recipe import Applied, Place, Point, Recipe, label_of, resolve, value_of
from optlang.search.space import Space, values_of

# The order in which the field recommends to try them; the trade-off table is printed in it.
RECOMMENDED = ("graph", "cast", "training", "quant", "prune")

EAGER_DEVICE = "cpu"
"""Where eager, which is the reference, runs."""

RECOVERED = "prune"
"""The module whose techniques are followed by a fine-tune on the ladder: pruned without one, a model says nothing."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One trial of the ladder: which technique stands alone ("none": the bare runtime), what it does, and the point of
    the study's space that does just that (None where the space has no such point)."""

    alone: str
    recipe: Recipe
    point: Point | None


def baseline_recipe(plan: Plan, unavailable: Collection[str] = ()) -> Recipe:
    """The reference: no step, eager float32; on targets where that does not run, the first runtime that does."""
    return Recipe((), tuple(_reference(plan, target, unavailable) for target in plan.targets))


def _reference(plan: Plan, target: Target, unavailable: Collection[str]) -> Place:
    if target.device == EAGER_DEVICE:
        return Place(_spec(plan, target), label_of(plan, target, "eager"), BASELINE_RUNTIME)
    return _place(plan, target, _usable(plan, target, unavailable)[0])


def rungs(plan: Plan, space: Space, unavailable: Mapping[str, str]) -> Iterator[Rung]:
    """The ladder in the recommended order, without the baseline. Runtimes that cannot run here are left out."""
    baseline = baseline_recipe(plan, unavailable)
    combinations = list(_combinations(plan, unavailable))
    recipes = [("none", _recipe(plan, (), uses)) for uses in combinations]
    # What only makes sense behind another step would fail here, and say nothing of what it is worth.
    techniques = [item for item in used_techniques(plan) if "not_alone" not in item.traits]
    techniques.sort(key=lambda item: _rank(item.name))
    for technique in techniques:
        suited = [
            tuple(use if use is not None and _fits(technique, plan, use) else None for use in uses)
            for uses in combinations
        ]
        on = [uses for uses in suited if any(use is not None for use in uses)]
        # What changes weights alone is as large and as fast everywhere: one runtime tells all.
        on = on[:1] if "weights_only" in technique.traits else on
        alone = _alone(plan, technique)
        if alone is not None:
            recipes += [(technique.name, _recipe(plan, alone, uses)) for uses in on]
    seen = {baseline.effect}
    for name, recipe in recipes:
        if recipe.effect in seen:
            continue
        seen.add(recipe.effect)
        point = locate(plan, space, recipe)
        yield Rung(name, recipe if point is None else resolve(plan, point), point)


def _combinations(plan: Plan, unavailable: Collection[str]) -> Iterator[tuple[RuntimeUse | None, ...]]:
    """One runtime a target, so that each runtime is there at least once; a target whose turns are over has its first.

    Each technique stands once on each runtime, not on each combination of all targets' runtimes.
    """
    usable = [_usable(plan, target, unavailable) for target in plan.targets]
    for turn in range(max(map(len, usable))):
        yield tuple(uses[turn] if turn < len(uses) else uses[0] for uses in usable)


def _usable(plan: Plan, target: Target, unavailable: Collection[str]) -> list[RuntimeUse]:
    """The runtimes that can run here, without those that an input takes away."""
    only = next((knob.only for knob in plan.knobs if knob.path == target.knob), {})
    return [
        use for use in target.runtimes
        if use.path not in unavailable and only.get(use.label) != Const(value=False)
    ]


def used_techniques(plan: Plan) -> list[Technique]:
    """The techniques that the study's steps name, in the order of the text."""
    names = dict.fromkeys(apply.technique for apply in applies(plan.steps))
    return [plan.technique(name) for name in names]


def _rank(name: str) -> tuple[int, str]:
    module = name.split(".", 1)[0]
    return (RECOMMENDED.index(module) if module in RECOMMENDED else len(RECOMMENDED), name)


def _alone(plan: Plan, technique: Technique) -> tuple[Applied, ...] | None:
    """The technique with its defaults, and what follows it; None where a parameter has neither a default nor a value
    in the study."""
    steps: list[Applied] = []
    for name in (technique.name, *([RECOVERY] if technique.name.split(".", 1)[0] == RECOVERED else [])):
        settings = _defaults(plan, plan.technique(name))
        if settings is None:
            return None
        path = f"ladder.{technique.name}" if not steps else f"ladder.{technique.name}.{name}"
        steps.append(Applied(path, name, settings))
    return tuple(steps)


def _defaults(plan: Plan, technique: Technique) -> dict[str, JSON] | None:
    values: dict[str, JSON] = {}
    for param in technique.params:
        values[param.name] = param.default
        if param.required:
            said = [step.settings.get(param.name) for step in applies(plan.steps) if step.technique == technique.name]
            settings = [item for item in said if item is not None and not isinstance(item, Computed)]
            if not settings:
                return None
            values[param.name] = _usual(plan, settings[0], None)
    return _present(technique.params, values)


def _present(params: tuple[Param, ...], values: Mapping[str, JSON]) -> dict[str, JSON]:
    """The values of the parameters that are there at these values."""
    environment = Environment(knob=lambda name: value_of(values.get(name)))
    return {
        param.name: values[param.name]
        for param in params
        if param.name in values and (param.when is None or holds(param.when, environment))
    }


def _fits(technique: Technique, plan: Plan, use: RuntimeUse) -> bool:
    runtime = plan.runtime(use.runtime)
    technique = as_done(technique, runtime)
    return (
        "module" in technique.takes
        and (technique.gives[0] if technique.gives else "module") in runtime.takes
        and not {technique.name, technique.name.rpartition(".")[2], *technique.traits}.intersection(runtime.excludes)
    )


def _recipe(plan: Plan, steps: tuple[Applied, ...], uses: Sequence[RuntimeUse | None]) -> Recipe:
    pairs = zip(plan.targets, uses, strict=True)
    return Recipe(steps, tuple(_place(plan, target, use) for target, use in pairs if use is not None))


def _place(plan: Plan, target: Target, use: RuntimeUse) -> Place:
    params = {param.name: param for param in plan.runtime(use.runtime).params}
    settings = {
        name: _usual(plan, setting, params[name].default)
        for name, setting in use.settings.items()
    }
    kept = _present(plan.runtime(use.runtime).params, settings)
    return Place(_spec(plan, target), label_of(plan, target, use.label), use.runtime, kept)


def _spec(plan: Plan, target: Target) -> TargetSpec:
    threads, batch = _usual(plan, target.threads, 1), _usual(plan, target.batch, 1)
    assert isinstance(threads, int)
    assert isinstance(batch, int)
    return TargetSpec(target.name, target.device, threads, batch)


def _usual(plan: Plan, setting: Setting, default: Value) -> JSON:
    """What the study fixes; where it searches or computes, the declared default, or the domain's first value."""
    match setting:
        case Fixed(value=value):
            return value
        case Searched(knob=path):
            domain = next(knob.domain for knob in plan.knobs if knob.path == path)
            if contains(domain, default):
                return default
            return domain.low if isinstance(domain, FloatDomain) else next(values_of(domain))
        case Models(models=models, several=several):
            made: list[JSON] = []
            for use in models:
                arguments = {name: _usual(plan, item, None) for name, item in use.arguments.items()}
                made.append({"calls": use.calls, "arguments": arguments, "weights": use.weights})
            return made if several else made[0]
    return default


# ---- where in the space a recipe lies


def locate(plan: Plan, space: Space, recipe: Recipe) -> Point | None:
    """The point of the space that has the recipe's effect; None where there is none."""
    places = {place.target.name: place for place in recipe.places}
    if len(places) < len(plan.targets):
        return None
    taken: Values | None = {}
    for target in plan.targets:
        taken = None if taken is None else _settled(plan, target, places[target.name], taken)
    if taken is None:
        return None
    for end, values in _match(plan, plan.steps, recipe.steps, 0, taken):
        if end != len(recipe.steps):
            continue
        point = _present_knobs(plan, values)
        if space.contains(point) and resolve(plan, point).effect == recipe.effect:
            return point
    return None


def _settled(plan: Plan, target: Target, place: Place, taken: Values) -> Values | None:
    """The knobs that make the target what the place says; None where the study has no such runtime or setting."""
    for use in target.runtimes:
        if label_of(plan, target, use.label) != place.label or use.runtime != place.runtime:
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
        if not isinstance(model, Mapping) or (model["calls"], model["weights"]) != (use.calls, use.weights):
            return None
        arguments = model["arguments"]
        assert isinstance(arguments, Mapping)
        found = None if found is None else _take(plan, use.arguments, arguments, found)
    return found


def _take(plan: Plan, settings: Mapping[str, Setting], wanted: Mapping[str, JSON], values: Values) -> Values | None:
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
                value for knob in plan.knobs if knob.path == step.counter for value in values_of(knob.domain)
            ]
            for count in counts:
                assert isinstance(count, int)
                if step.count is None and values.get(step.counter, count) != count:
                    continue
                taken = values if step.count is not None else {**values, step.counter: count}
                yield from _match(plan, step.steps * count, wanted, start, taken)
        case Group():
            yield from _match(plan, step.steps, wanted, start, values)
        case Order():
            members = {member.name: member.steps for member in step.members}
            for order in permutations(members):
                inner = tuple(item for name in order for item in members[name])
                yield from _match(plan, inner, wanted, start, {**values, step.path: order})

