"""Spaces of which everything is known, and searches that are played on them: what has each found after so many seconds.

A trial takes the seconds that its steps took (none where a trial before it has done the same steps) and those of
building and measuring, and has the values that are in the table. `made_up` is a formula; the others are the measured
values of all points of small studies, see tabulate.py.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optlang.analysis.load import load
from optlang.plan.model import Plan
from optlang.run.forecast import PastStep, PastTrial
from optlang.space.recipe import Point, Recipe, resolve
from optlang.space.space import Space
from optlang.space.trainings import chains

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

TABULATED = ("whole", "transformer")
"""The studies whose points were all carried out; see tabulate.py."""

LOST = 0.05
"""So much of the accuracy may be lost."""


@dataclass(frozen=True)
class Table:
    """A space: the losses and the rest of the seconds of a point, and the seconds of a step, by what it is the end of.

    `volume` is that of the front of all points, `seconds` what all of them take; `shares` of these is when to look.
    """

    name: str
    plan: Plan
    space: Space
    measured: Callable[[Point], tuple[tuple[float, ...], float]]
    step: Callable[[str, str, int], float]
    shares: tuple[float, ...]
    volume: float = 1.0
    seconds: float = 1.0


@dataclass
class Play:
    """One search on a table: its clock, and what it has found."""

    table: Table
    cached: bool = True
    """Whether steps that were done before take no time, nor does a point that was tried."""
    clock: float = 0.0
    found: list[tuple[float, tuple[float, ...]]] = field(default_factory=list)
    """When each trial was over, and its losses."""
    _done: set[str] = field(default_factory=set)
    _tried: set[str] = field(default_factory=set)

    def carry_out(self, point: Point, spared: float = 0.0) -> tuple[tuple[float, ...], PastTrial]:
        """The losses of a point, and what it took; the clock goes on. So many seconds of it are spared: it goes on from
        a shorter training."""
        recipe = resolve(self.table.plan, point)
        losses, rest = self.table.measured(point)
        if self.cached and recipe.effect in self._tried:
            self.found.append((self.clock, losses))
            return losses, PastTrial("sampler", recipe.label, 0.0, ())
        self._tried.add(recipe.effect)
        steps = []
        for key, step in keyed(self.table.plan, recipe):
            again = self.cached and key in self._done
            seconds = 0.0 if again else self.table.step(key, step.technique, step.epochs)
            steps.append(PastStep(step.technique, step.settings, again, seconds))
            self._done.add(key)
        spent = rest + max(0.0, sum(step.seconds for step in steps) - spared)
        self.clock += spent
        self.found.append((self.clock, losses))
        return losses, PastTrial("sampler", recipe.label, spent, tuple(steps))

    def volume(self, trials: int) -> float:
        """The hypervolume of so many trials, as a share of that of the whole table's front."""
        return hypervolume([losses for _, losses in self.found[:trials]]) / self.table.volume

    def volume_at(self, seconds: float) -> float:
        """That of the trials that are over by then."""
        return self.volume(sum(at <= seconds for at, _ in self.found))

    def reached(self, volume: float) -> float:
        """After how many seconds it has so much; infinite where it never has."""
        at = bisect.bisect_left(range(len(self.found)), volume, key=lambda count: self.volume(count + 1))
        return self.found[at][0] if at < len(self.found) else math.inf


def keyed(plan: Plan, recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Each step with what identifies its result, as the table has it."""
    for chain, _, step in chains(plan, recipe.steps, recipe.label):
        yield hashlib.sha256(chain.encode()).hexdigest()[:8], step


# ---- the tables


def made_up() -> Table:
    """The formulas: what is pruned is smaller and faster and less accurate, what is recovered less so."""
    plan = plan_of("made_up")

    def measured(point: Point) -> tuple[tuple[float, ...], float]:
        named: dict[str, Any] = {path.rsplit(".", 1)[-1]: value for path, value in point.items()}
        rounds, ratio = named["rounds"], named.get("ratio", 0.0)
        kept = (1 - ratio) ** rounds
        rate = math.log10(named.get("lr", 1e-3)) + 3
        recovered = math.exp(-2 * rate * rate) * (1 - math.exp(-point.get("rounds.recover.epochs", 1) / 2))
        cut = 0.2 * rounds * ratio ** 2 * (1.0 if named.get("scope") == "layer" else 0.8)
        lost = cut * (1 - 0.9 * recovered)
        small, fast = {"none": (1.0, 1.0), "dynamic": (0.4, 0.9), "static": (0.28, 0.5), "qat": (0.28, 0.5)}[
            named["precision"]
        ]
        if named["precision"] == "static":
            lost += 0.008 * math.sqrt(32 / named["samples"]) + 0.2 * cut
        elif named["precision"] == "qat":
            lost += 0.004 / point["precision.qat.epochs"] + 0.1 * cut
        speed = {"onnxruntime": 0.4, "openvino": 0.35}[named["runtime"]]
        return (speed * fast * (0.1 + 0.9 * kept ** 1.3), small * kept ** 1.7, lost / LOST), 2.0

    def step(key: str, technique: str, epochs: int) -> float:
        return 3.0 * epochs if epochs else 0.5

    return whole(Table("made_up", plan, Space(plan), measured, step, (0.05, 0.1, 0.15, 0.25)))


def tabulated(name: str) -> Table:
    """The measured values of all points of a study."""
    plan = plan_of(name)
    content = json.loads((HERE / f"{name}.json").read_text())
    baseline, steps = content["baseline"], content["steps"]
    rows = {resolve(plan, point_of(item["point"])).effect: item for item in content["points"]}

    def measured(point: Point) -> tuple[tuple[float, ...], float]:
        item = rows[resolve(plan, point).effect]
        latency, bytes_, accuracy = item["values"]
        return (latency, bytes_ / baseline["size"], (baseline["accuracy"] - accuracy) / LOST), item["rest"]

    def step(key: str, technique: str, epochs: int) -> float:
        return float(steps[key])

    return whole(Table(name, plan, Space(plan), measured, step, (0.1, 0.2, 0.3, 0.4)))


def point_of(stored: Mapping[str, Any]) -> Point:
    """A point of JSON."""
    return {path: tuple(value) if isinstance(value, list) else value for path, value in stored.items()}


def plan_of(name: str) -> Plan:
    """The plan of a study in this folder."""
    loaded = load(HERE / f"{name}.opt")
    assert loaded.plan is not None, loaded.diagnostics
    return loaded.plan


def whole(table: Table) -> Table:
    """The table, with the volume of its front and the seconds that all of it takes."""
    play = Play(table)
    for point in table.space.points():
        play.carry_out(point)
    volume = hypervolume([losses for _, losses in play.found])
    return replace(table, volume=volume, seconds=play.clock)


def hypervolume(losses: list[tuple[float, ...]]) -> float:
    """The volume of the unit cube that the points dominate (three losses), those outside of it moved to its edge."""
    import samplers

    return samplers.hypervolume([tuple(max(0.0, value) for value in item) for item in losses])
