"""Trainings that pause (search/halving.py) next to trials that are carried out whole, where every curve is known.

`recorded` are the learning curves of 38 trials of the digits study (curves.json, see record.py), in a random order, as
a search may have drawn them, each time in another; no two share a training. In `long` and `wide` (long.opt, wide.opt)
everything is a formula; trainings have 27 epochs, and optlang's own sampler with its screening searches. In `wide` most
points are bad. What a training leaves as it is counts as known before it where a run measures it. The figure is the
hypervolume of what was trained to its end, as a share of that of all trials, after so many epochs; medians over the
seeds.
"""

from __future__ import annotations

import hashlib
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from spaces import LOST, hypervolume, plan_of
from stopping import Trial, recorded

from optlang.plan.model import Halving, Plan
from optlang.run.draws import costs_of
from optlang.run.forecast import Forecast, PastStep, PastTrial
from optlang.search import objectives, pareto
from optlang.search.early import CHEAP
from optlang.search.halving import Rungs, Standing, rungs, standing
from optlang.search.observation import Observation, Suggestion
from optlang.search.sampler import Sampler
from optlang.search.screening import Screening
from optlang.space.recipe import Point, resolve
from optlang.space.space import Exhausted, Space

SETTINGS: dict[str, Halving | None] = {
    "whole": None, "halving": Halving(), "halving { first = 2 }": Halving(first=2),
    "halving { reduce = 2 }": Halving(reduce=2),
}

Losses = tuple[float, ...]


class Trials(Protocol):
    """Where trials come from: the numbers of new ones, and all that there is to know of one."""

    def new(self) -> int | None:
        """One more trial; None where there is none."""

    def epochs(self, trial: int) -> int:
        """Those of all its trainings."""

    def stood(self, trial: int, rung: int) -> Standing:
        """How it stood after so many epochs."""

    def ended(self, trial: int) -> Losses | None:
        """Its losses when it is over, None where it misses a requirement; it is known from then on."""


def played(trials: Trials, halving: Halving | None, limit: float = math.inf) -> Iterator[tuple[int, Losses]]:
    """A search: the losses of each trial that came to its end, and how many epochs were spent by then."""
    found, had, spent, drawing = Rungs(halving.reduce if halving else 2), dict[int, int](), 0, True
    while spent < limit:
        trial = found.best(last=not drawing)
        if trial is None:
            trial = trials.new() if drawing else None
            if trial is None and not drawing:
                return
            if trial is None:
                drawing = False
                continue
        whole, begin = trials.epochs(trial), had.get(trial, 0)
        pauses = rungs(halving, whole) if halving else []
        rung = next((item for item in pauses if item > begin), None)
        had[trial] = whole if rung is None else rung
        spent += had[trial] - begin
        found.go_on(trial)
        if rung is not None:
            found.stood(trial, rung, trials.stood(trial, rung))
            found.pause(trial, rung)
        elif (losses := trials.ended(trial)) is not None:
            yield spent, losses


# ---- recorded curves


class Recorded:
    """The recorded trials, in an order that the seed decides."""

    def __init__(self, plan: Plan, known: dict[int, Trial], seed: int) -> None:
        self._plan, self._known = plan, known
        drawn = [number for number, trial in known.items() if trial.origin == "sampler"]
        self.left = random.Random(seed).sample(drawn, len(drawn))
        baseline = next(trial for trial in known.values() if trial.origin == "baseline")
        self._baseline = objectives.by_metric(plan, baseline.measurements)

    def new(self) -> int | None:
        return self.left.pop() if self.left else None

    def epochs(self, trial: int) -> int:
        return self._known[trial].epochs

    def stood(self, trial: int, rung: int) -> Standing:
        found, done, behind = self._known[trial], 0, 0
        # Of a training that changes more than weights, nothing is measured before it.
        cheap = not any(step.technique.endswith("qat") for step in found.steps)
        for step in found.steps:
            if done < rung <= done + step.epochs:
                after = next(item for item in reversed(found.curves[step.path]) if item.epoch <= rung - done)
                items = [
                    replace(item, value=after.value or 0.0) if item.metric == "accuracy" else item
                    for item in found.measurements if item.metric == "accuracy" or (cheap and item.metric in CHEAP)
                ]
                stands = standing(self._plan, objectives.by_metric(self._plan, items), self._baseline, behind)
                assert stands is not None
                return stands
            done += step.epochs
            behind += step.epochs > 0
        raise AssertionError(rung)

    def ended(self, trial: int) -> Losses | None:
        found = self._known[trial]
        if found.state != "complete":
            return None
        measured = objectives.by_metric(self._plan, found.measurements)
        values = objectives.objective_values(self._plan, measured, self._baseline)
        latency, size, accuracy = pareto.losses(self._plan, values)
        size /= self._baseline[None, "size"].value
        return latency, size, (self._baseline[None, "accuracy"].value + accuracy) / LOST


# ---- formulas


@dataclass(frozen=True)
class Formula:
    """A point of such a space: what is pruned is smaller and faster and less accurate, what is recovered less so, and
    each learning rate has its own best end and its own pace."""

    plan: Plan
    point: Point

    @cached_property
    def named(self) -> dict[str, Any]:
        return {path.rsplit(".", 1)[-1]: value for path, value in self.point.items()}

    @cached_property
    def epochs(self) -> int:
        return sum(step.epochs for step in resolve(self.plan, self.point).steps)

    @cached_property
    def cheap(self) -> tuple[float, float]:
        """Latency and size."""
        kept = (1 - self.named.get("ratio", 0.0)) ** self.named["rounds"]
        small, fast = {"none": (1.0, 1.0), "dynamic": (0.4, 0.9), "static": (0.28, 0.5), "qat": (0.28, 0.5)}[
            self.named["precision"]
        ]
        return {"onnxruntime": 0.4, "openvino": 0.35}[self.named["runtime"]] * fast * (0.1 + 0.9 * kept ** 1.3), (
            small * kept ** 1.7
        )

    def lost(self, epochs: int) -> float:
        """The accuracy that is lost after so many epochs; a sample of the data is what scores it before the end."""
        ratio, rounds, lost, left = self.named.get("ratio", 0.0), self.named["rounds"], 0.0, epochs
        rate = math.log10(self.point.get("rounds.recover.lr", 1e-3)) + 3.2  # type: ignore[arg-type]
        best, pace = math.exp(-0.6 * rate * rate), 4 * 10 ** (-0.35 * rate)
        for number in range(rounds):
            if number and left <= 0:
                break
            now = min(27, left)
            left -= now
            cut = 0.2 * ratio ** 1.5 * (1.0 if self.named["scope"] == "layer" else 0.8) * (1 + 0.5 * number)
            lost += cut * (1 - 0.95 * best * (1 - math.exp(-now / pace))) + 0.02 * math.exp(-now / 2)
        if epochs < self.epochs:
            lost += 0.004 * _noise(f"{self.point} {epochs}")
        if self.named["precision"] == "static":
            lost += 0.008 * math.sqrt(32 / self.named["samples"]) + 0.02 * ratio ** 1.5 * rounds
        elif self.named["precision"] == "qat" and left > 0:
            rate = math.log10(self.point["precision.qat.lr"]) + 4  # type: ignore[arg-type]
            learned = math.exp(-0.6 * rate * rate) * (1 - math.exp(-left / 2))
            lost += 0.01 * (1 - learned) + 0.01 * ratio ** 1.5 * rounds
        return lost

    def losses(self, epochs: int) -> Losses:
        return (*self.cheap, self.lost(epochs) / LOST)


def _noise(text: str) -> float:
    """A number between -1 and 1 that depends on the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2 ** 31 - 1


class Searched:
    """Trials of such a space as optlang draws them."""

    def __init__(self, plan: Plan, seed: int, halving: Halving | None) -> None:
        search = plan.search.model_copy(update={"seed": seed, "halving": halving})
        self._plan = plan.model_copy(update={"search": search})
        self._space, self._effects, self._forecast = Space(plan), set[str](), Forecast(self._plan)
        self._asked: list[Suggestion] = []
        self._told: dict[int, Observation] = {}
        self._stale, self._halving = True, halving

    def _begin(self) -> None:
        """As in a run: a sampler takes nothing back, so it is made again where a trial ended behind later ones."""
        self._stale = False
        self._sampler = Sampler(self._plan, self._space, self._effects)
        costs = costs_of(self._plan, self._forecast, lambda recipe: next(
            iter(rungs(self._halving, sum(step.epochs for step in recipe.steps)) if self._halving else []), None
        ))
        self._screening = Screening(self._plan, self._sampler, costs, self._plan.search.screening)
        for _, told in sorted(self._told.items()):
            self._sampler.tell(told)
            self._screening.tell(told)

    def new(self) -> int | None:
        if self._stale:
            self._begin()
        try:
            asked = self._screening.ask(len(self._asked))
        except Exhausted:
            return None
        self._asked.append(asked)
        self._effects.add(resolve(self._plan, asked.point).effect)
        return len(self._asked) - 1

    def _formula(self, trial: int) -> Formula:
        return Formula(self._plan, self._asked[trial].point)

    def epochs(self, trial: int) -> int:
        return self._formula(trial).epochs

    def stood(self, trial: int, rung: int) -> Standing:
        found = self._formula(trial)
        losses = found.losses(rung)
        behind = (rung - 1) // 27
        known = losses[2:] if found.named["precision"] == "qat" else losses
        return Standing(known, max(0.0, losses[2] - 1), (behind, len(known)))

    def ended(self, trial: int) -> Losses | None:
        found, asked = self._formula(trial), self._asked[trial]
        losses = found.losses(found.epochs)
        recipe = resolve(self._plan, asked.point)
        steps = [PastStep(step.technique, step.settings, False, step.epochs or 0.2) for step in recipe.steps]
        self._forecast.add(PastTrial("sampler", recipe.label, 1.0 + found.epochs, steps))
        told = Observation(asked.point, (losses[0], losses[1], -losses[2]), [losses[2] - 1], asked.state)
        self._stale = self._stale or any(other > trial for other in self._told)
        self._told[trial] = told
        if not self._stale:
            self._sampler.tell(told)
            self._screening.tell(told)
        return losses if losses[2] <= 1 else None


# ---- the tables


def report(seeds: int = 10) -> str:
    """A table for each."""
    plan, known = recorded()
    drawn = [trial for trial in known.values() if trial.origin == "sampler"]
    whole = sum(trial.epochs for trial in drawn)
    first = Recorded(plan, known, 0)
    most = hypervolume([losses for number in known if (losses := first.ended(number)) is not None])
    shares = (0.1, 0.2, 0.3, 0.4, 0.5, 1.0)
    lines = [
        f"recorded: {len(drawn)} trials, {whole} epochs in all\n",
        *_table([round(share * whole) for share in shares], most, seeds, lambda seed, _: Recorded(plan, known, seed)),
    ]
    for name in ("long", "wide"):
        lines += _formulas(plan_of(name), name, seeds)
    return "\n".join(lines)


def _formulas(plan: Plan, name: str, seeds: int) -> Iterator[str]:
    points = [Formula(plan, point) for point in Space(plan).points()]
    good = [losses for item in points if (losses := item.losses(item.epochs))[2] <= 1]
    whole = sum(item.epochs for item in points)
    yield f"\n{name}: {len(points)} points, of which {len(good)} meet the requirement, {whole:,} epochs in all\n"
    yield from _table(
        [100, 200, 400, 800], hypervolume(good), seeds, lambda seed, halving: Searched(plan, seed, halving)
    )


def _table(
    looks: Sequence[int], most: float, seeds: int, trials: Callable[[int, Halving | None], Trials]
) -> Iterator[str]:
    yield f"| search | {' | '.join(f'{look} epochs' for look in looks)} | trained to the end | epochs spent |"
    yield f"|---|{'---|' * (len(looks) + 2)}"
    for name, halving in SETTINGS.items():
        plays = [list(played(trials(seed, halving), halving, looks[-1])) for seed in range(seeds)]
        cells = [
            statistics.median(hypervolume([losses for at, losses in play if at <= look]) / most for play in plays)
            for look in looks
        ]
        ends = statistics.median(len(play) for play in plays)
        spent = statistics.median(play[-1][0] if play else 0 for play in plays)
        yield f"| {name} | {' | '.join(f'{cell:.3f}' for cell in cells)} | {ends:.0f} | {spent:.0f} |"
