"""The first trials of a run: each technique alone, as the study uses it, on each runtime of the study."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from optlang.interfaces import JSON, TargetSpec
from optlang.plan.expressions import Const, Environment, Value, holds
from optlang.plan.model import (
    BASELINE_RUNTIME,
    Apply,
    Fixed,
    Models,
    Param,
    Plan,
    RuntimeUse,
    Searched,
    Setting,
    Target,
    Technique,
    applies,
)
from optlang.search.ablation_points import DefaultValues, nearest, path_of, recoveries_of, resolved
from optlang.space.compatibility import DeclaredFacts, as_done, names_technique
from optlang.space.locate import locate
from optlang.space.recipe import Applied, Place, Point, Recipe, place_label, resolve, value_of
from optlang.space.space import Space

EAGER_DEVICES = ("cpu", "cuda")
"""Where eager, which is the reference, runs."""


def reference_path(target: Target) -> str:
    """What eager as the reference of a target is called among the runtimes that cannot run here."""
    return f"{target.name}.reference"


@dataclass(frozen=True, slots=True)
class AblationTrial:
    """One trial of the ladder: which technique stands alone ("none": the bare runtime), what it does, and the point of
    the study's space that does just that (None where the space has no such point)."""

    alone: str
    recipe: Recipe
    point: Point | None


def baseline_recipe(plan: Plan, unavailable: Collection[str] = ()) -> Recipe:
    """The reference: no step, eager float32; on targets where that does not run, the first runtime that does."""
    return Recipe((), tuple(_reference(plan, target, unavailable) for target in plan.targets))


def _reference(plan: Plan, target: Target, unavailable: Collection[str]) -> Place:
    eager = target.device in EAGER_DEVICES and target.remote is None
    if eager and reference_path(target) not in unavailable:
        return Place(_spec(plan, target), place_label(plan, target, "eager"), BASELINE_RUNTIME)
    return _place(plan, target, _usable(plan, target, unavailable)[0])


def ablation_trials(plan: Plan, space: Space, unavailable: Mapping[str, str]) -> Iterator[AblationTrial]:
    """The ladder in the recommended order, without the baseline. Runtimes that cannot run here are left out."""
    usual, facts = DefaultValues(plan), DeclaredFacts.of(plan)
    combinations = list(_combinations(plan, unavailable))
    found = [_bare(plan, space, usual, uses) for uses in combinations]
    # A technique that only makes sense behind another step fails alone, which says nothing of its value.
    for technique in in_order([item for item in used_techniques(plan) if "not_alone" not in item.traits]):
        suited = [
            tuple(use if use is not None and _fits(technique, facts, use) else None for use in uses)
            for uses in combinations
        ]
        on = [uses for uses in suited if any(use is not None for use in uses)]
        # What changes weights alone is as large and as fast everywhere: one runtime tells all.
        on = on[:1] if "weights_only" in technique.traits else on
        found += _alone(plan, space, usual, technique, on)
    seen = {baseline_recipe(plan, unavailable).effect}
    for rung in found:
        if rung.recipe.effect not in seen:
            seen.add(rung.recipe.effect)
            yield rung


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


def in_order(techniques: Sequence[Technique]) -> list[Technique]:
    """As their declarations recommend to try them: each behind what it comes after, those that need a recovery last."""
    def rank(technique: Technique) -> tuple[bool, int]:
        before = sum(names_technique(technique.after, other) for other in techniques)
        return technique.recovered_by is not None, before

    return sorted(techniques, key=rank)


Uses: TypeAlias = "tuple[RuntimeUse | None, ...]"
"""The runtime of each target of the study; None where the technique does not suit it."""


def _bare(plan: Plan, space: Space, usual: DefaultValues, uses: Uses) -> AblationTrial:
    """The runtimes without any step: a point of the space where all of its steps can be left out."""
    for point in usual.points(space, (), _labels(plan, uses)):
        recipe = resolved(plan, point)
        if recipe is not None and not recipe.steps:
            return AblationTrial("none", recipe, point)
    return AblationTrial("none", _recipe(plan, (), uses), None)


def _alone(
    plan: Plan, space: Space, usual: DefaultValues, technique: Technique, on: Sequence[Uses]
) -> list[AblationTrial]:
    """The technique as the study uses it, where it does so several times: as in the first use that can stand alone
    somewhere, else as in the first of all."""
    uses = [step for step in applies(plan.steps) if step.technique == technique.name]
    found: list[list[AblationTrial]] = []
    for use in uses:
        stands = _Alone(plan, space, usual, use)
        found.append([stands.rung(runtimes) for runtimes in on])
        if any(rung.point is not None for rung in found[-1]):
            return found[-1]
    return found[0]


class _Alone:
    """One use of a technique in the study, with the trainings of the study that may recover what it loses."""

    def __init__(self, plan: Plan, space: Space, usual: DefaultValues, use: Apply) -> None:
        self._plan, self._space, self._usual, self._use = plan, space, usual, use
        self._recovery = plan.technique(use.technique).recovered_by
        self._recoveries: list[Apply | None] = [*recoveries_of(plan, use)] if self._recovery is not None else []

    def rung(self, uses: Uses) -> AblationTrial:
        """The technique alone on these runtimes: as a point of the space where there is one.

        Best with one recovery behind it; else with all those trainings that the study has at each of its points.
        """
        plan, labels = self._plan, _labels(self._plan, uses)
        near: list[Recipe] = []
        trained: AblationTrial | None = None
        for recovery in self._recoveries if self._recovery is not None else [None]:
            wanted = [self._use.path, *([recovery.path] if recovery is not None else [])]
            for point in self._usual.points(self._space, wanted, labels):
                recipe = resolved(plan, point)
                if recipe is None or self._use.path not in map(path_of, recipe.steps):
                    continue
                if None not in uses and self._is_all(recipe, recovery):
                    return AblationTrial(self._use.technique, recipe, point)
                if trained is None and None not in uses and self._is_recovered(recipe):
                    trained = AblationTrial(self._use.technique, recipe, point)
                near.append(recipe)
        if trained is not None:
            return trained
        recipe = _recipe(plan, tuple(self._steps(near, labels)), uses)
        found = locate(plan, self._space, recipe)
        return AblationTrial(self._use.technique, recipe if found is None else resolve(plan, found), found)

    def _is_all(self, recipe: Recipe, recovery: Apply | None) -> bool:
        """Whether the recipe does the technique, the recovery after it, and nothing else."""
        paths = [path_of(step) for step in recipe.steps]
        if recovery is None:
            return set(paths) == {self._use.path}
        return set(paths) == {self._use.path, recovery.path} and paths[-1] == recovery.path

    def _is_recovered(self, recipe: Recipe) -> bool:
        """Whether the recipe does the technique, trainings that may recover what it loses, and nothing else."""
        paths = [path_of(step) for step in recipe.steps]
        recoveries = {recovery.path for recovery in self._recoveries if recovery is not None}
        return bool(recoveries) and set(paths) <= {self._use.path, *recoveries} and paths[-1] in recoveries

    def _steps(self, near: list[Recipe], labels: Mapping[str, str]) -> Iterator[Applied]:
        """The steps of a rung that is no point: with the settings that they have at the points nearest to it."""
        alone = self._usual.points(self._space, [self._use.path], labels)
        near += [recipe for point in islice(alone, 1) if (recipe := resolved(self._plan, point)) is not None]
        yield self._step(self._use, near)
        recovery = next(iter(self._recoveries), None)
        if recovery is not None:
            yield self._step(recovery, near)
        elif self._recovery is not None:
            settings = _declared(self._plan.technique(self._recovery))
            yield Applied(f"{self._use.path}.{self._recovery}", self._recovery, settings)

    def _step(self, use: Apply, near: Sequence[Recipe]) -> Applied:
        """The step as it is at the nearest point that has it, in its last round; else with the usual values."""
        for recipe in near:
            for step in reversed(recipe.steps):
                if path_of(step) == use.path:
                    return step
        params = self._plan.technique(use.technique).params
        defaults = {param.name: param.default for param in params}
        values = {name: _usual(self._plan, item, defaults[name]) for name, item in use.settings.items()}
        return Applied(use.path, use.technique, _present(params, values))


def _labels(plan: Plan, uses: Uses) -> dict[str, str]:
    """The runtimes by the paths of their knobs."""
    return {
        target.knob: use.label
        for target, use in zip(plan.targets, uses, strict=True) if target.knob is not None and use is not None
    }


def _declared(technique: Technique) -> dict[str, JSON]:
    return _present(technique.params, {param.name: param.default for param in technique.params})


def _present(params: tuple[Param, ...], values: Mapping[str, JSON]) -> dict[str, JSON]:
    """The values of the parameters that are there at these values."""
    environment = Environment(knob=lambda name: value_of(values.get(name)))
    return {
        param.name: values[param.name]
        for param in params
        if param.name in values and (param.when is None or holds(param.when, environment))
    }


def _fits(technique: Technique, facts: DeclaredFacts, use: RuntimeUse) -> bool:
    runtime = facts.runtimes[use.runtime]
    if facts.refuses(runtime, technique):
        return False
    technique = as_done(technique, runtime)
    return (
        "module" in technique.takes
        and (technique.gives[0] if technique.gives else "module") in runtime.takes
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
    return Place(_spec(plan, target), place_label(plan, target, use.label), use.runtime, kept)


def _spec(plan: Plan, target: Target) -> TargetSpec:
    threads, batch = _usual(plan, target.threads, 1), _usual(plan, target.batch, 1)
    assert isinstance(threads, int)
    assert isinstance(batch, int)
    return TargetSpec(target.name, target.device, threads, batch, target.dynamic, target.shape, target.remote)


def _usual(plan: Plan, setting: Setting, default: Value) -> JSON:
    """What the study fixes; where it searches, the value nearest to the declared default; where it computes, that."""
    match setting:
        case Fixed(value=value):
            return value
        case Searched(knob=path):
            knob = next(knob for knob in plan.knobs if knob.path == path)
            return nearest(knob.domain, default if knob.default is None else knob.default)
        case Models(models=models, several=several):
            made: list[JSON] = []
            for use in models:
                arguments = {name: _usual(plan, item, None) for name, item in use.arguments.items()}
                made.append(use.factory(arguments))
            return made if several else made[0]
    return default
