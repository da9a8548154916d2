"""What identifies the result of a step, which trainings some recipes need together (steps that begin alike are trained
once, since they share the cache), and what a recipe is without its trainings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from optlang.plan.model import Plan
from optlang.space.recipe import Applied, Recipe

_OF_RUNTIME = frozenset({"runtime", "latency"})
"""What a technique needs that each runtime has its own of: from it on, no result serves another runtime."""

_DROP = "max_drop"
"""The setting by which a runtime leaves layers in float until they lose less: how many depends on the weights."""


@dataclass(frozen=True, slots=True)
class Training:
    """One training of so many epochs; `runtime` is the label of the only one that it serves, "" where it serves all."""

    technique: str
    epochs: int
    runtime: str = ""


def trainings(plan: Plan, recipes: Iterable[Recipe]) -> list[Training]:
    """The trainings of these recipes, each that several share once.

    At most these are carried out: two runtimes that ask the same of a step share its result too, and a result may be
    in the cache already.
    """
    found: dict[str, Training] = {}
    for recipe in recipes:
        for label in dict.fromkeys(place.label for place in recipe.places):
            found |= dict(_of_one(plan, recipe.steps, label))
    return list(found.values())


def _of_one(plan: Plan, steps: tuple[Applied, ...], label: str) -> Iterator[tuple[str, Training]]:
    """The trainings on one runtime, each by what it and all before it do."""
    for chain, runtime, step in chains(plan, steps, label):
        if "training" in plan.technique(step.technique).needs and step.epochs > 0:
            yield chain, Training(step.technique, step.epochs, runtime)


def chains(plan: Plan, steps: Iterable[Applied], label: str) -> Iterator[tuple[str, str, Applied]]:
    """Each step with what identifies its result: it and all steps before it, and the runtime called `label` from the
    first on that needs one ("" before).

    A technique that `plan` does not have, of an earlier plan, needs none.
    """
    needs = {technique.name: technique.needs for technique in plan.techniques}
    before: list[object] = []
    runtime = ""
    for step in steps:
        runtime = runtime or (label if _OF_RUNTIME.intersection(needs.get(step.technique, ())) else "")
        before.append([step.path, step.technique, dict(step.settings)])
        yield json.dumps([before, runtime], sort_keys=True, default=str), runtime, step


def without_training(plan: Plan, recipe: Recipe) -> Recipe | None:
    """The recipe without the steps that only train; None without such, or where size and speed may depend on them.

    They may where a step behind them declares `cost_depends_on weights` (but not with the trait `per_layer` where it
    removes the same share of every layer) or the trait `sparse`, where a runtime has the setting `max_drop`, and on
    GPUs, whose runtimes choose kernels by their times. None too where another step trains: its training is not left
    out, so that nothing would be saved.
    """
    if any(_DROP in place.settings or "gpu" in plan.runtime(place.runtime).needs for place in recipe.places):
        return None
    kept: list[Applied] = []
    for position, step in enumerate(recipe.steps):
        technique = plan.technique(step.technique)
        trains = "training" in technique.needs and "epochs" in step.settings
        if trains and "weights_only" in technique.traits:
            continue
        left_out = len(kept) < position
        even = "per_layer" in technique.traits and step.settings.get("scope") == "layer"
        depends = technique.cost_depends_on == "weights" and not even
        if trains or (left_out and (depends or "sparse" in technique.traits)):
            return None
        kept.append(step)
    return replace(recipe, steps=tuple(kept)) if len(kept) < len(recipe.steps) else None
