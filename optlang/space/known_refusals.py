"""What a run found that cannot be done, and which other points that rules out. Knows neither store nor worker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from optlang.interfaces import JSON, TargetSpec
from optlang.plan.model import Plan
from optlang.space.recipe import Applied, Place, Recipe

Depends = Literal["model", "settings", "time"]

COSTS = ("epochs", "samples")
"""The settings of which more takes longer."""

MOST = 0.5
"""The share of a trial's time that a step must have had alone: the next time those before it are in the cache."""


@dataclass(frozen=True, slots=True)
class KnownRefusal:
    """A refusal that would come again.

    `steps` are the trial's up to and including the one that was refused; where the runtime refused (`by_runtime`), all
    of them. `places` are the trial's places that the answer depends on: none where no step asks for the runtime.
    `depends` says on what else: the `settings` of these steps; the `model`, whose layers no setting and no training
    changes; or `time`: the last step did not end within a trial's time, of which it had `seconds`.
    """

    trial: int
    reason: str
    depends: Depends
    steps: tuple[Applied, ...]
    by_runtime: bool = False
    places: tuple[Place, ...] = ()
    seconds: float = 0.0

    @property
    def what(self) -> str:
        """What is ruled out, in a few words."""
        where = ", ".join(place.label for place in self.places)
        if self.depends != "settings" and self.steps and not self.by_runtime:
            found = self.steps[-1].technique
        elif self.by_runtime and self.depends == "model":
            found = "the module"
        else:
            found = ", ".join(step.path for step in self.steps) or "as it is"
        return f"{found} · {where}" if where else found

    def to_json(self) -> dict[str, JSON]:
        """What `refusal_from` reads; trial and reason are the trial's own."""
        return {
            "depends": self.depends, "by_runtime": self.by_runtime, "seconds": self.seconds,
            "steps": [asdict(step) for step in self.steps], "places": [asdict(place) for place in self.places],
        }


def refusal_from(trial: int, reason: str, stored: Mapping[str, Any]) -> KnownRefusal:
    """The refusal that `to_json` wrote."""
    return KnownRefusal(
        trial, reason, stored["depends"], tuple(Applied(**step) for step in stored["steps"]), stored["by_runtime"],
        tuple(Place(**{**place, "target": TargetSpec(**place["target"])}) for place in stored["places"]),
        stored["seconds"],
    )


class KnownRefusals:
    """All that is known to be refused in a run of `plan`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._refusals: list[KnownRefusal] = []

    def __iter__(self) -> Iterator[KnownRefusal]:
        return iter(self._refusals)

    def __len__(self) -> int:
        return len(self._refusals)

    def add(self, refusal: KnownRefusal) -> None:
        """Take in one more."""
        self._refusals.append(refusal)

    def against(self, recipe: Recipe) -> KnownRefusal | None:
        """A refusal for which the recipe would be refused; None where nothing is known against it."""
        keys = [_key(step) for step in recipe.steps]
        places = {_place_key(place) for place in recipe.places}
        for refusal in self._refusals:
            if places.issuperset(map(_place_key, refusal.places)) and self._hits(refusal, recipe, keys):
                return refusal
        return None

    def _hits(self, refusal: KnownRefusal, recipe: Recipe, keys: Sequence[str]) -> bool:
        count = len(refusal.steps)
        if refusal.depends == "model":
            return self._same_model(refusal, recipe)
        if refusal.depends == "time":
            return self._as_long(refusal, recipe, keys)
        if refusal.by_runtime and len(keys) != count:
            return False
        return keys[:count] == [_key(step) for step in refusal.steps]

    def _same_model(self, refusal: KnownRefusal, recipe: Recipe) -> bool:
        """Whether the refused one meets the layers that it met before: what comes first adds none."""
        for step in recipe.steps:
            if not refusal.by_runtime and step.technique == refusal.steps[-1].technique:
                return True
            if not self.adds_nothing(step):
                return False
        return refusal.by_runtime

    def adds_nothing(self, step: Applied) -> bool:
        """Whether a step leaves the kinds of layers as they are: it changes weights, or takes a part of them away."""
        technique = self._plan.technique(step.technique)
        ours = technique.calls.startswith("optlang.")
        return ours and ("weights_only" in technique.traits or technique.recovered_by is not None)

    def _as_long(self, refusal: KnownRefusal, recipe: Recipe, keys: Sequence[str]) -> bool:
        """Whether the step would take at least as long again: the same settings, or costlier ones. Where it took too
        long twice, with settings that differ in something else, it is not tried with a third."""
        if not self._alike(refusal, recipe, keys):
            return False
        mine, its = recipe.steps[len(refusal.steps) - 1].settings, refusal.steps[-1].settings
        if _others(mine) == _others(its):
            return _at_least(mine, its)
        again = [item for item in self._refusals if item.depends == "time" and self._alike(item, recipe, keys)]
        return len({_others(item.steps[-1].settings) for item in again}) > 1 and all(
            _at_least(mine, item.steps[-1].settings) for item in again
        )

    def _alike(self, refusal: KnownRefusal, recipe: Recipe, keys: Sequence[str]) -> bool:
        """Whether the recipe has the step that took too long, after the same steps."""
        count = len(refusal.steps)
        if len(keys) < count or refusal.seconds < MOST * self._plan.search.trial_timeout:
            return False
        mine, step = recipe.steps[count - 1], refusal.steps[-1]
        return (mine.path, mine.technique) == (step.path, step.technique) and (
            keys[: count - 1] == [_key(item) for item in refusal.steps[:-1]]
        )


def _key(step: Applied) -> str:
    return json.dumps([step.path, step.technique, dict(step.settings)], sort_keys=True)


def _place_key(place: Place) -> str:
    return json.dumps([place.target.facts(), place.runtime, dict(place.settings)], sort_keys=True)


def _others(settings: Mapping[str, JSON]) -> str:
    return json.dumps({name: value for name, value in settings.items() if name not in COSTS}, sort_keys=True)


def _at_least(mine: Mapping[str, JSON], theirs: Mapping[str, JSON]) -> bool:
    def cost(settings: Mapping[str, JSON], name: str) -> float:
        value = settings.get(name)
        return value if isinstance(value, int | float) else 0.0

    return all(cost(mine, name) >= cost(theirs, name) for name in COSTS)
