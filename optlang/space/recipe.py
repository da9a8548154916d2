"""From a plan and a point to what is really done: techniques in their order and the runtime, all values decided."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from optlang.interfaces import JSON, OptlangError, TargetSpec
from optlang.plan.expressions import (
    Environment,
    Expression,
    RoundRef,
    Scalar,
    Value,
    holds,
    show,
)
from optlang.plan.model import (
    Apply,
    Choice,
    Computed,
    Fixed,
    Group,
    Maybe,
    Models,
    ModelUse,
    Order,
    Param,
    Plan,
    Repeat,
    Searched,
    Setting,
    Step,
    Target,
)
from optlang.space.computed import COUNTS, NoValue, declared
from optlang.space.computed import value_of as computed

Point: TypeAlias = Mapping[str, Value]
"""A value for each knob that is present, by the knob's full path, in the order of the text."""


@dataclass(frozen=True, slots=True)
class Applied:
    """One technique with its settings decided; `path` tells the rounds of a `repeat` apart (`rounds[2].prune`).

    A setting that is a model is a mapping with `calls`, `arguments` and `weights` (what makes it, as plain JSON), one
    that is several is a tuple of such mappings.
    """

    path: str
    technique: str
    settings: Mapping[str, JSON]

    @property
    def epochs(self) -> int:
        """The epochs that it trains; 0: it does not."""
        epochs = self.settings.get("epochs")
        return epochs if isinstance(epochs, int) and not isinstance(epochs, bool) else 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is built for and measured: the target, all knobs decided, and the runtime with its settings.

    `label` is what the study calls the runtime, in a study with several targets with the target's name before it.
    """

    target: TargetSpec
    label: str
    runtime: str
    settings: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a trial does: `steps` in order, then the build and the measurement at each of the `places`.

    There is one place a target of the study, in the study's order; on the ladder, a target that the technique does not
    suit has none.
    """

    steps: tuple[Applied, ...]
    places: tuple[Place, ...]

    @property
    def label(self) -> str:
        """The labels of all places."""
        return ", ".join(place.label for place in self.places)

    @property
    def effect(self) -> str:
        """A hash that is equal for two recipes that do the same, however they came about."""
        content: JSON = [
            [[step.technique, dict(step.settings)] for step in self.steps],
            [[place.target.facts(), place.runtime, dict(place.settings)] for place in self.places],
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class NoValueError(OptlangError):
    """What a setting is computed from gives no value at a point, or none that the parameter may have."""


def resolve(plan: Plan, point: Point) -> Recipe:
    """What `point` does. Absent knobs count as `none`. Raises NoValueError."""
    walk = _Walk(point, declared(plan))
    places = tuple(_place(plan, target, point, walk) for target in plan.targets)
    return Recipe(tuple(walk.steps(plan.steps, {})), places)


def place_label(plan: Plan, target: Target, label: str) -> str:
    """What a runtime is called in tables: by its label, and its target's name where there are several."""
    return label if len(plan.targets) == 1 else f"{target.name}.{label}"


def _place(plan: Plan, target: Target, point: Point, walk: _Walk) -> Place:
    use = target.use(point)
    own = walk.settings(target.name, {"threads": target.threads, "batch": target.batch}, {}, COUNTS)
    threads, batch = _whole(own["threads"]), _whole(own["batch"])
    spec = TargetSpec(target.name, target.device, threads, batch, target.dynamic, target.shape, target.remote)
    settings = walk.settings(use.path, use.settings, {}, walk.params(use.runtime))
    return Place(spec, place_label(plan, target, use.label), use.runtime, settings)


def steps_of(steps: tuple[Step, ...], point: Point) -> tuple[Applied, ...]:
    """The techniques that `steps` come to at `point` (a baseline's steps have no knobs: give an empty point)."""
    return tuple(_Walk(point, {}).steps(steps, {}))


def value_of(decided: JSON) -> Value:
    """A decided setting as conditions see it: a model is a word, which is not `none`."""
    if isinstance(decided, Mapping):
        return "a model"
    if isinstance(decided, str) or not isinstance(decided, Sequence):
        return decided
    return tuple("a model" if isinstance(item, Mapping) else _scalar(item) for item in decided)


def _scalar(item: JSON) -> Scalar:
    assert isinstance(item, bool | int | float | str), item
    return item


def _whole(value: JSON) -> int:
    assert isinstance(value, int), value
    return value


@dataclass(frozen=True, slots=True)
class _Round:
    number: int
    count: int


class _Walk:
    """Walks steps at one point; `rounds` maps the path of each `repeat` around to the round that is being walked."""

    def __init__(self, point: Point, declared: Mapping[str, tuple[Param, ...]]) -> None:
        self._point = point
        # The parameters of techniques and runtimes, where what is computed must be one of their values.
        self._declared = declared

    def params(self, name: str) -> tuple[Param, ...]:
        """The declared parameters of a technique or a runtime; none where only steps are walked."""
        return self._declared.get(name, ())

    def _environment(self, rounds: Mapping[str, _Round]) -> Environment:
        def round_of(ref: RoundRef) -> int:
            around = rounds[ref.path]
            return around.number if ref.which == "round" else around.count

        return Environment(knob=self._point.get, rounds=round_of)

    def _holds(self, condition: Expression | None, rounds: Mapping[str, _Round]) -> bool:
        return condition is None or holds(condition, self._environment(rounds))

    def _setting(self, path: str, setting: Setting, rounds: Mapping[str, _Round], param: Param | None) -> JSON:
        match setting:
            case Models(models=models, several=several):
                made = tuple(self._model(path, use, rounds) for use in models)
                return made if several else made[0]
            case Fixed(value=value):
                return value
            case Searched(knob=knob):
                return self._point[knob]
            case Computed():
                try:
                    return computed(setting, param, self._environment(rounds))
                except NoValue as error:
                    raise NoValueError(f"`{path}` {error.reason}: it is `{show(setting.expression)}`") from None
        raise AssertionError(setting)

    def _model(self, path: str, use: ModelUse, rounds: Mapping[str, _Round]) -> JSON:
        arguments = {
            name: self._setting(f"{path}.{name}", item, rounds, None) for name, item in use.arguments.items()
        }
        return use.factory(arguments)

    def settings(
        self, path: str, settings: Mapping[str, Setting], rounds: Mapping[str, _Round], params: tuple[Param, ...]
    ) -> dict[str, JSON]:
        """The settings of the step, runtime or target at `path`; raises NoValueError."""
        declared = {param.name: param for param in params}
        return {
            name: self._setting(f"{path}.{name}", setting, rounds, declared.get(name))
            for name, setting in settings.items()
            if self._holds(setting.when, rounds)
        }

    def steps(self, steps: tuple[Step, ...], rounds: Mapping[str, _Round]) -> Iterator[Applied]:
        for step in steps:
            if self._holds(step.when, rounds):
                yield from self._step(step, rounds)

    def _step(self, step: Step, rounds: Mapping[str, _Round]) -> Iterator[Applied]:
        match step:
            case Apply():
                path = _numbered(step.path, rounds)
                params = self.params(step.technique)
                yield Applied(path, step.technique, self.settings(path, step.settings, rounds, params))
            case Choice():
                taken = self._point[step.path]
                branch = next(branch for branch in step.branches if branch.name == taken)
                yield from self.steps(branch.steps, rounds)
            case Maybe():
                if self._point[step.path]:
                    yield from self.steps(step.steps, rounds)
            case Repeat():
                count = _whole(self._point[step.counter]) if step.count is None else step.count
                for number in range(1, count + 1):
                    yield from self.steps(step.steps, {**rounds, step.path: _Round(number, count)})
            case Group():
                yield from self.steps(step.steps, rounds)
            case Order():
                members = {member.name: member for member in step.members}
                order = self._point[step.path]
                assert isinstance(order, tuple), order
                for name in order:
                    yield from self.steps(members[str(name)].steps, rounds)


def _numbered(path: str, rounds: Mapping[str, _Round]) -> str:
    # Inner repeats have the longer paths: number them first, so that the outer ones' prefixes still fit.
    for repeat in sorted(rounds, key=len, reverse=True):
        if path.startswith(f"{repeat}."):
            path = f"{repeat}[{rounds[repeat].number}]{path[len(repeat):]}"
    return path
