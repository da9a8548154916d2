"""Compares ways to search on spaces of which everything is known: what each has found after so many seconds.

A search is played on a table: a trial takes the seconds that its steps took (none where a trial before it has done the
same steps) and those of building and measuring, and has the values that are in the table. `made_up` is a formula;
`whole` and `transformer`
are the measured values of all points of small studies, see tabulate.py. The figure is the
hypervolume of what was found, as a share of that of the whole table's front: of the box between the baseline (its
latency, its size, five points of its accuracy lost) and nothing. Medians over the seeds.

`optlang` is TPE as optlang draws it, with and without screening; `optuna` is plain Optuna (multi-objective TPE with its
defaults), which is given the cache of steps too, and draws points again that it had.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from optlang.analysis.load import load
from optlang.plan.domains import every_value, size
from optlang.plan.model import Domain, Knob, Plan
from optlang.plan.model import Sampler as Named
from optlang.plan.quantities import in_seconds
from optlang.run.draws import costs_of
from optlang.run.forecast import Forecast, PastStep, PastTrial
from optlang.search.observation import Observation
from optlang.search.sampler import Sampler
from optlang.search.screening import Screening
from optlang.space.recipe import Point, Recipe, resolve
from optlang.space.space import Exhausted, Space
from optlang.space.trainings import chains

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
TABULATED = ("whole", "transformer")
"""The studies whose points were all carried out; see tabulate.py."""

LOST = 0.05
"""So much of the accuracy may be lost."""

METHODS = {
    "optlang": ("tpe", 16), "optlang, screening off": ("tpe", 0), "optuna": ("optuna", 0), "nsga2": ("nsga2", 0),
    "random": ("random", 0),
}


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
    clock: float = 0.0
    done: set[str] = field(default_factory=set)
    found: list[tuple[float, tuple[float, ...]]] = field(default_factory=list)

    def carry_out(self, point: Point) -> tuple[tuple[float, ...], PastTrial]:
        """The losses of a point, and what it took; the clock goes on."""
        recipe = resolve(self.table.plan, point)
        losses, rest = self.table.measured(point)
        steps = []
        for key, step in keyed(self.table.plan, recipe):
            seconds = 0.0 if key in self.done else self.table.step(key, step.technique, step.epochs)
            steps.append(PastStep(step.technique, step.settings, key in self.done, seconds))
            self.done.add(key)
        spent = rest + sum(step.seconds for step in steps)
        self.clock += spent
        self.found.append((self.clock, losses))
        return losses, PastTrial("sampler", recipe.label, spent, tuple(steps))


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

    return whole(Table("made_up", plan, Space(plan), measured, step, (0.05, 0.1, 0.15, 0.2)))


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


# ---- the searches


def searched(table: Table, sampler: str, batch: int, seed: int, limit: float) -> tuple[Play, float]:
    """A search by a sampler of optlang for so many seconds of the table, and the seconds that one draw took."""
    search = table.plan.search.model_copy(update={"sampler": Named.model_validate({"name": sampler}), "seed": seed})
    plan = table.plan.model_copy(update={"search": search})
    known: set[str] = set()
    draws, forecast, play = Sampler(plan, table.space, known), Forecast(plan), Play(table)

    screening = Screening(plan, draws, costs_of(plan, forecast), batch)
    spent = 0.0
    for number in range(sys.maxsize):
        begin = time.process_time()
        try:
            asked = screening.ask(number)
        except Exhausted:
            break
        finally:
            spent += time.process_time() - begin
        known.add(resolve(plan, asked.point).effect)
        losses, past = play.carry_out(asked.point)
        forecast.add(past)
        told = Observation(asked.point, (losses[0], losses[1], -losses[2]), [losses[2] - 1], asked.state)
        draws.tell(told)
        screening.tell(told)
        if play.clock > limit:
            break
    return play, spent / len(play.found)


def plain_optuna(table: Table, seed: int, limit: float) -> tuple[Play, float]:
    """Optuna's TPE with its defaults, which asks for the knobs that are there."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize"] * 3, sampler=optuna.samplers.TPESampler(seed=seed))
    play, spent = Play(table), 0.0
    while play.clock <= limit:
        begin = time.process_time()
        trial = study.ask()
        point = table.space.draw(partial(suggested, trial))
        spent += time.process_time() - begin
        losses, _ = play.carry_out(point)
        trial.set_constraint("0", losses[2] - 1)
        study.tell(trial, losses)
    return play, spent / len(play.found)


def suggested(trial: Any, knob: Knob, domain: Domain) -> Any:
    """A knob as Optuna draws it; all are finite here."""
    values = list(every_value(domain))
    return values[trial.suggest_categorical(f"{knob.path}#{size(domain)}", list(range(len(values))))]


def report(seeds: int = 10) -> str:
    """A table for each space: the formulas, and the studies that have been carried out whole."""
    tables = [made_up(), *(tabulated(name) for name in TABULATED if (HERE / f"{name}.json").exists())]
    return "\n\n".join("\n".join(compared(table, seeds)) for table in tables)


def compared(table: Table, seeds: int) -> Iterator[str]:
    """The lines of a table: what each search has found at each look, its trials, and what a draw took."""
    looks = [share * table.seconds for share in table.shares]
    yield f"{table.name}: {table.space.size().points} points, {in_seconds(table.seconds)} in all\n"
    yield f"| search | {' | '.join(map(in_seconds, looks))} | trials | a draw |"
    yield f"|---|{'---|' * (len(looks) + 2)}"
    for method, (sampler, batch) in METHODS.items():
        plays = [
            plain_optuna(table, seed, looks[-1]) if sampler == "optuna"
            else searched(table, sampler, batch, seed, looks[-1])
            for seed in range(seeds)
        ]
        cells = [
            statistics.median(
                hypervolume([losses for at, losses in play.found if at <= look]) / table.volume for play, _ in plays
            )
            for look in looks
        ]
        trials = statistics.median(len(play.found) for play, _ in plays)
        drawn = 1000 * statistics.median(seconds for _, seconds in plays)
        yield f"| {method} | {' | '.join(f'{cell:.3f}' for cell in cells)} | {trials:.0f} | {drawn:.0f} ms |"
