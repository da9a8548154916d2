"""Which trainings some recipes need together: steps that begin alike are trained once, since they share the cache."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from optlang.plan.model import Plan
from optlang.space.recipe import Applied, Recipe

_OF_RUNTIME = frozenset({"runtime", "latency"})
"""What a technique needs that each runtime has its own of: from it on, no result serves another runtime."""


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
    runtime = ""
    chain: list[object] = []
    for step in steps:
        needs = plan.technique(step.technique).needs
        runtime = runtime or (label if _OF_RUNTIME.intersection(needs) else "")
        chain.append([step.path, step.technique, dict(step.settings)])
        epochs = step.settings.get("epochs")
        if "training" in needs and isinstance(epochs, int) and epochs > 0:
            yield json.dumps([chain, runtime], sort_keys=True), Training(step.technique, epochs, runtime)
