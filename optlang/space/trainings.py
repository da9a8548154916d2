"""What identifies the result of a step, and which trainings some recipes need together: steps that begin alike are
trained once, since they share the cache."""

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
