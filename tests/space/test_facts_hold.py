"""A point that the checker allows never fails for a reason that the declared facts could have told.

Random studies over all techniques and runtimes of the library, each point judged by a second, plain reading of the
facts. `OPTLANG_FACTS=2000` tries that many studies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

from optlang.analysis.load import load
from optlang.analysis.modules.library import library
from optlang.plan.domains import every_value
from optlang.plan.expressions import Environment, Value, holds
from optlang.plan.model import Apply, Choice, Group, Maybe, Order, Plan, Repeat, Step, Target
from optlang.space.space import Exhausted, Space

STUDIES = int(os.environ.get("OPTLANG_FACTS", "120"))
POINTS = 25
_, TEXTS = library()


def declared(kind: str) -> list[str]:
    """All that the library declares of this kind, by its name as a study would write it."""
    return sorted(
        name for text in TEXTS.values() for name in re.findall(rf"^{kind} (\w+)", text, re.MULTILINE)
    )


TECHNIQUES = declared("technique")
RUNTIMES = declared("runtime")

KINDS = ("one", "maybe", "maybe", "maybe", "choice", "choice", "repeat", "order")


class Writer:
    """Writes the steps and targets of a random study."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.labels = 0
        self.maybes: list[str] = []

    def label(self) -> str:
        self.labels += 1
        return f"s{self.labels}"

    def several(self, low: int) -> str:
        """Different ones: two branches that do the same would be an error of its own."""
        chosen = self.random.sample(TECHNIQUES, self.random.randint(low, 3))
        return "; ".join(f"{self.label()} = {name}" for name in chosen)

    def one(self) -> str:
        return f"{self.label()} = {self.random.choice(TECHNIQUES)}"

    def step(self, deep: int) -> str:
        match self.random.choice(KINDS) if deep else "one":
            case "maybe":
                label = self.label()
                when = ""
                if self.maybes and self.random.random() < 0.3:
                    when = f" when {self.random.choice(self.maybes)}"
                if deep > 1:
                    self.maybes.append(label)
                return f"maybe {label} = {self.random.choice(TECHNIQUES)}{when}"
            case "choice":
                return f"{self.label()} in {{ none; {self.several(1)} }}"
            case "repeat":
                return f"repeat {self.label()} in 0 .. 3 {{ {self.step(deep - 1)} }}"
            case "order":
                return f"{self.label()} in any order {{ {self.several(2)} }}"
        return self.one()

    def steps(self) -> str:
        return f"steps {{ {'; '.join(self.step(2) for _ in range(self.random.randint(1, 4)))} }}"

    def targets(self) -> str:
        return "\n  ".join(self.target(number) for number in range(self.random.randint(1, 2)))

    def target(self, number: int) -> str:
        device = self.random.choice(("cpu", "cpu", "cpu", "cpu", "cuda", "browser"))
        # One in ten may name what is not for this device, which is an error of the whole study.
        at_home = {
            "cpu": [name for name in RUNTIMES if name not in ("tensorrt", "ort_web")], "browser": ["ort_web"],
            "cuda": [name for name in RUNTIMES if name != "ort_web"],
        }[device]
        fitting = RUNTIMES if self.random.random() < 0.1 else at_home
        chosen = self.random.sample(fitting, min(len(fitting), self.random.randint(1, 4)))
        runtime = f"in {{ {'; '.join(chosen)} }}" if len(chosen) > 1 else f"= {chosen[0]}"
        return f"target t{number} {{ device = {device}; runtime {runtime} }}"


def study(seed: int, folder: Path) -> Plan | None:
    """A random study, None where the checker says that it is wrong as a whole."""
    writer = Writer(seed)
    path = folder / "main.opt"
    path.write_text(
        "optlang 1\n\nstudy s {\n  model net = zoo.digits_cnn(width = 8)\n  data seen = zoo.digits()\n"
        f"  {writer.targets()}\n  {writer.steps()}\n  minimize size\n}}\n"
    )
    loaded = load(path)
    if loaded.plan is None:
        # Only what the facts tell may be wrong with what is written here.
        assert {item.code for item in loaded.diagnostics if item.code[0] == "E"} <= ALLOWED, (
            path.read_text(), [(item.code, item.message) for item in loaded.diagnostics]
        )
    return loaded.plan


ALLOWED = {"E501", "E502", "E503", "E504", "E506", "E508"}


def taken(steps: tuple[Step, ...], point: Mapping[str, Value]) -> Iterator[str]:
    """The techniques that run at this point, round by round."""
    for step in steps:
        if step.when is not None and not holds(step.when, Environment(knob=point.get)):
            continue
        if isinstance(step, Apply):
            yield step.technique
        elif isinstance(step, Choice):
            chosen = [branch for branch in step.branches if branch.name == point[step.path]]
            yield from taken(chosen[0].steps, point)
        elif isinstance(step, Maybe):
            if point[step.path] is True:
                yield from taken(step.steps, point)
        elif isinstance(step, Repeat):
            rounds = step.count if step.count is not None else point[step.counter]
            assert isinstance(rounds, int)
            for _ in range(rounds):
                yield from taken(step.steps, point)
        elif isinstance(step, Group):
            yield from taken(step.steps, point)
        elif isinstance(step, Order):
            order = point[step.path]
            assert isinstance(order, tuple)
            for label in order:
                yield from taken(next(item.steps for item in step.members if item.name == label), point)


def breaks(plan: Plan, target: Target, point: Mapping[str, Value]) -> str | None:
    """What breaks on this target, as the declarations are read step by step; None where all goes well."""
    techniques = {item.name: item for item in plan.techniques}
    label = target.runtimes[0].label if target.knob is None else point[target.knob]
    used = next(use.runtime for use in target.runtimes if use.label == label)
    runtime = next(item for item in plan.runtimes if item.name == used)
    if "gpu" in runtime.needs and target.device != "cuda":
        return "runtime without its GPU"
    if ("browser" in runtime.needs) != (target.device == "browser"):
        return "runtime in the wrong place"
    form, before = "module", list[str]()
    for name in taken(plan.steps, point):
        technique = techniques[name]
        if "gpu" in technique.needs and target.device != "cuda":
            return f"{name} without its GPU"
        handed_over = name in runtime.performs
        # One that trains first needs a module to train.
        trains = handed_over and "graph" in technique.gives
        takes = {"module", "graph"} if handed_over and not trains else set(technique.takes)
        if form not in takes:
            return f"{name} finds {form}"
        if handed_over:
            form = "graph"
        elif form not in technique.gives:
            form = technique.gives[0]
        for earlier in before:
            if earlier == name:
                continue
            module = name.partition(".")[0]
            if {module, name} & set(techniques[earlier].after):
                return f"{earlier} before {name}"
            if {module, name} & set(techniques[earlier].excludes):
                return f"{earlier} excludes {name}"
            if {earlier.split(".")[0], earlier} & set(technique.excludes):
                return f"{name} excludes {earlier}"
        before.append(name)
        if {name, name.split(".")[1], *technique.traits} & set(runtime.excludes):
            return f"{used} excludes {name}"
    return None if form in runtime.takes else f"{used} finds {form}"


def anything(plan: Plan, random: Random) -> dict[str, Value]:
    """A point that no fact was asked about: every knob that is there, at any of its values."""
    point: dict[str, Value] = {}
    for knob in plan.knobs:
        if knob.condition is None or holds(knob.condition, Environment(knob=point.get)):
            point[knob.path] = random.choice(list(every_value(knob.domain)))
    return point


def drawn(space: Space, random: Random) -> dict[str, Value]:
    """A point as a sampler draws it."""
    return dict(space.draw(lambda knob, domain: random.choice(list(every_value(domain)))))


def test_what_is_allowed_never_breaks_a_fact_and_what_is_ruled_out_does(tmp_path: Path) -> None:
    allowed = ruled_out = 0
    for seed in range(STUDIES):
        plan = study(seed, tmp_path)
        if plan is None:
            continue
        space, random = Space(plan), Random(seed)
        text = (tmp_path / "main.opt").read_text()
        for number in range(POINTS):
            try:
                point = drawn(space, random) if number % 2 else anything(plan, random)
            except Exhausted:
                continue
            found = [reason for target in plan.targets if (reason := breaks(plan, target, point))]
            reason = space.forbidden(point)
            assert bool(found) is (reason is not None), (seed, text, point, found, reason)
            allowed, ruled_out = allowed + (reason is None), ruled_out + (reason is not None)
    # Neither answer is given to all.
    assert min(allowed, ruled_out) > STUDIES // 3, (allowed, ruled_out)


