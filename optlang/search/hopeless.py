"""What the ladder has shown to be hopeless for a model, and in which searched trials it is left out for that.

A technique that alone missed a requirement by far, and much more than its runtime did without it, seldom helps together
with others. So most searched trials are drawn without it, at settings as strong as those that were tried or stronger.
Some are still drawn with it, and as soon as one of them meets all requirements, all are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from optlang.interfaces import JSON
from optlang.plan.model import Plan, Technique
from optlang.search.ablation_points import path_of
from optlang.search.observation import seed_of
from optlang.search.samplers.encoding import value_at
from optlang.space.recipe import Applied, Recipe, resolve
from optlang.space.space import Exhausted, Space

FAR = 0.25
"""How far beyond a requirement is far: a share of its limit, or of the baseline's own value where that is more."""

DRAWN = 0.25
"""The share of the searched trials that may be drawn with what is hopeless."""

LEFT_OUT = "is left out of three in four searched trials"
"""The same in words."""

SAMPLED, ATTEMPTS = 100, 300
"""Random points by which it is judged whether a space has anything else, and draws to find them."""


@dataclass(frozen=True, slots=True)
class Alone:
    """A ladder trial, or the baseline, that could be measured.

    `technique` is "none" where there is none. `missed` is by how much it misses each comparison of the requirements,
    as `objectives.excesses` has it, `reason` the same in words.
    """

    trial: int
    technique: str
    steps: Sequence[Applied]
    runtime: str
    missed: Sequence[float]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Hopeless:
    """A use of a technique, with settings as strong as `tried` or stronger, on a runtime (None: on all of them).

    `epochs` limits it to recipes that train no longer besides, where a longer training may recover what is lost.
    """

    trial: int
    technique: Technique
    path: str
    tried: tuple[Mapping[str, JSON], ...]
    runtime: str | None
    epochs: int | None
    reason: str = ""

    @property
    def text(self) -> str:
        """What is left out and why, in one line."""
        where = "" if self.runtime is None else f" · {self.runtime}"
        return (
            f"{self.technique.name}{where} {LEFT_OUT} (at the settings of trial {self.trial} or stronger ones): "
            f"{self.reason}"
        )

    def has(self, plan: Plan, recipe: Recipe) -> bool:
        """Whether the recipe does it."""
        if self.runtime is not None and recipe.label != self.runtime:
            return False
        own = [step.settings for step in recipe.steps if path_of(step) == self.path]
        if not all(any(_as_strong(self.technique, settings, tried) for settings in own) for tried in self.tried):
            return False
        return self.epochs is None or _epochs(plan, recipe.steps, self.path) <= self.epochs

    def is_cleared_by(self, plan: Plan, recipe: Recipe) -> bool:
        """Whether the recipe does it: then it is not hopeless."""
        return self.has(plan, recipe)


class Avoided(Protocol):
    """What is left out of most searched trials: a use of a technique, or a runtime (see bare_runtimes)."""

    @property
    def path(self) -> str:
        """What tells it from the others that are left out."""

    @property
    def text(self) -> str:
        """What is left out and why, in one line."""

    def has(self, plan: Plan, recipe: Recipe) -> bool:
        """Whether the recipe does it."""

    def is_cleared_by(self, plan: Plan, recipe: Recipe) -> bool:
        """Whether it is left out no longer, since this recipe meets all requirements."""


def hopeless(plan: Plan, ladder: Iterable[Alone]) -> list[Hopeless]:
    """What these trials have shown, in their order."""
    trials = list(ladder)
    bare = {trial.runtime: trial for trial in trials if trial.technique == "none"}
    return [
        _shown(plan, trial) for trial in trials
        if trial.technique != "none" and trial.runtime in bare and _is_far(trial, bare[trial.runtime])
    ]


def _is_far(trial: Alone, bare: Alone) -> bool:
    """Whether a requirement is missed by far, and the technique's share in that is far too."""
    return any(
        missed - max(before, 0.0) >= FAR for missed, before in zip(trial.missed, bare.missed, strict=True)
    )


def _shown(plan: Plan, trial: Alone) -> Hopeless:
    technique = plan.technique(trial.technique)
    own = [step for step in trial.steps if step.technique == technique.name]
    path = path_of(own[0])
    return Hopeless(
        trial.trial, technique, path, tuple(_settings(step) for step in own if path_of(step) == path),
        None if "weights_only" in technique.traits else trial.runtime,
        None if technique.recovered_by is None else _epochs(plan, trial.steps, path), trial.reason,
    )


def _epochs(plan: Plan, steps: Iterable[Applied], without: str) -> int:
    """The epochs that all steps but this one train."""
    return sum(
        step.epochs for step in steps
        if path_of(step) != without and "training" in plan.technique(step.technique).needs
    )


def _as_strong(technique: Technique, settings: Mapping[str, JSON], tried: Mapping[str, JSON]) -> bool:
    """Whether settings change a model as much as those that were tried, or more, as far as the declaration says so."""
    return settings.keys() == tried.keys() and all(
        _is_beyond(value, tried[name], name in technique.stronger_with, name in technique.milder_with)
        for name, value in settings.items()
    )


def _is_beyond(value: JSON, tried: JSON, stronger: bool, milder: bool) -> bool:
    if isinstance(value, int | float) and isinstance(tried, int | float) and (stronger or milder):
        return value >= tried if stronger else value <= tried
    return _plain(value) == _plain(tried)


def _settings(step: Applied) -> Mapping[str, JSON]:
    """As a later session reads them."""
    return {name: _plain(value) for name, value in step.settings.items()}


def _plain(value: JSON) -> JSON:
    """The value as JSON gives it back."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


class LeftOut:
    """Which of these are left out of a trial: decided by the study's seed and the trial's number alone."""

    def __init__(self, plan: Plan, space: Space, found: Sequence[Avoided]) -> None:
        # What a run finds refused later must not change what is left out: a resumed run knows it from the start.
        self._plan, self._space = plan, space.without_refusals()
        self._found = list(found)
        self._sample: list[Recipe] | None = None

    def tell(self, recipe: Recipe) -> None:
        """Take in a recipe that meets all requirements."""
        self._found = [item for item in self._found if not item.is_cleared_by(self._plan, recipe)]

    def of(self, number: int) -> list[Avoided]:
        """Those that are left out of trial `number`: none where the space has nothing else."""
        seed = self._plan.search.seed
        left = [item for item in self._found if Random(seed_of(seed, number, "drawn", item.path)).random() >= DRAWN]
        if left and all(any(item.has(self._plan, recipe) for item in left) for recipe in self._recipes()):
            return []
        return left

    def _recipes(self) -> list[Recipe]:
        if self._sample is None:
            random = Random(seed_of(self._plan.search.seed, "sample"))
            self._sample = []
            for _ in range(ATTEMPTS):
                if len(self._sample) == SAMPLED:
                    break
                try:
                    point = self._space.draw(lambda knob, domain: value_at(domain, random.random()))
                except Exhausted:
                    continue
                if self._space.forbidden(point) is None:
                    self._sample.append(resolve(self._plan, point))
        return self._sample
