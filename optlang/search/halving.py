"""Which of the trials that paused in their trainings goes on: asynchronous successive halving for several goals.

ASHA (Li et al., 2020): of the trials that were at a rung, which is a number of epochs, one in `reduce` goes on to the
next, as soon as it is among the best of those that were there so far. With several goals the best are found by
non-dominated sorting, and among equals so that they lie far apart (Schmucker et al., 2021). What misses a requirement
comes behind what misses it by less (Deb, 2000). Measures nothing, draws nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from optlang.plan.model import Halving, Plan
from optlang.search import objectives, pareto
from optlang.search.objectives import Measured


@dataclass(frozen=True, slots=True)
class Standing:
    """A trial as it stood at a rung.

    `losses` are those of its goals so far, less is better; `missed` is by how much it misses requirements, 0: it meets
    them all. Trials are compared with those of the same `kind`: with as many trainings behind them, and the same goals
    known.
    """

    losses: tuple[float, ...]
    missed: float = 0.0
    kind: Hashable = None


def rungs(halving: Halving, epochs: int) -> list[int]:
    """After how many epochs a trial of so many pauses: those of all its trainings together, in their order."""
    found, rung = list[int](), halving.first
    while rung < epochs:
        found.append(rung)
        rung *= halving.reduce
    return found


def standing(plan: Plan, measured: Measured, baseline: Measured, trainings: int) -> Standing | None:
    """How a trial stands that is in the training after so many; None where nothing that trainings change is known.

    Goals and parts of requirements that name what is not known yet do not count.
    """
    if not any(plan.metric(metric).judges for _, metric in measured):
        return None
    values = objectives.known_values(plan, measured, baseline)
    known = [index for index, value in enumerate(values) if value is not None]
    losses = tuple(
        -value if objective.direction == "maximize" else value
        for objective, value in zip(plan.objectives, values, strict=True) if value is not None
    )
    violated = objectives.known_constraints(plan, measured, baseline)
    return Standing(losses, sum(max(0.0, value) for value in violated), (trainings, *known))


@dataclass(slots=True)
class Rungs:
    """How trials stood at the rungs, and which of them are paused."""

    reduce: int
    _stood: dict[int, dict[int, Standing]] = field(default_factory=dict)
    """By the epochs of the rung, then the trial."""
    _paused: dict[int, int] = field(default_factory=dict)
    """At which rung, by the trial."""
    _ranked: dict[int, list[int]] = field(default_factory=dict)
    """The trials of a rung, the best first, where that is known."""

    def stood(self, trial: int, rung: int, how: Standing) -> None:
        """A trial was at a rung, whether it paused there or not."""
        self._stood.setdefault(rung, {})[trial] = how
        self._ranked.pop(rung, None)

    def pause(self, trial: int, rung: int) -> None:
        """A trial is paused at a rung where it stood."""
        self._paused[trial] = rung

    def go_on(self, trial: int) -> None:
        """A trial is paused no longer."""
        self._paused.pop(trial, None)

    @property
    def paused(self) -> list[int]:
        """The trials that are paused."""
        return list(self._paused)

    def best(self, *, last: bool = False) -> int | None:
        """The trial that goes on next; None where none may.

        Of the highest rung where one may, the best. `last` says that no other trial will come: then one goes on from
        each rung, were fewer than `reduce` there.
        """
        for rung in sorted(set(self._paused.values()), reverse=True):
            order = self._order(rung)
            places = len(order) // self.reduce
            for trial in order[: max(1, places) if last else places]:
                if self._paused.get(trial) == rung:
                    return trial
        return None

    def better(self, trial: int) -> tuple[int, int]:
        """How many of the others that were at the rung of a paused trial were better there, and how many there were."""
        order = self._order(self._paused[trial])
        return order.index(trial), len(order) - 1

    def _order(self, rung: int) -> list[int]:
        if rung not in self._ranked:
            self._ranked[rung] = ranked(self._stood[rung])
        return self._ranked[rung]


def ranked(stood: Mapping[int, Standing]) -> list[int]:
    """The trials, the best first."""
    layers = _layers(stood)
    found: list[int] = []
    for layer in range(max(layers.values(), default=-1) + 1):
        found += _spread({trial: stood[trial] for trial in stood if layers[trial] == layer})
    return found


def _layers(stood: Mapping[int, Standing]) -> dict[int, int]:
    """For each trial how many layers are better: 0 where no other beats it, 1 where only those do, and so on."""
    worse: dict[int, list[int]] = {trial: [] for trial in stood}
    beaten = dict.fromkeys(stood, 0)
    for one, other in combinations(stood, 2):
        for better, lesser in ((one, other), (other, one)):
            if _beats(stood[better], stood[lesser]):
                worse[better].append(lesser)
                beaten[lesser] += 1
    found: dict[int, int] = {}
    layer, number = [trial for trial in stood if not beaten[trial]], 0
    while layer:
        following = []
        for trial in layer:
            found[trial] = number
            for lesser in worse[trial]:
                beaten[lesser] -= 1
                if not beaten[lesser]:
                    following.append(lesser)
        layer, number = following, number + 1
    return found


def _beats(one: Standing, other: Standing) -> bool:
    """Whether a trial is better than another one, as far as they can be compared."""
    if one.kind != other.kind:
        return False
    if one.missed or other.missed:
        return one.missed < other.missed
    return pareto.dominates(one.losses, other.losses)


def _spread(layer: Mapping[int, Standing]) -> list[int]:
    """Trials that do not beat each other: first the one that is best on the whole, then always the one that lies
    farthest from those before it (an epsilon net: Salinas et al., 2021)."""
    places = _places(layer)
    if not layer:
        return []
    found = [min(layer, key=lambda trial: (sum(places[trial]), trial))]
    away = {trial: _distance(layer, places, trial, found[0]) for trial in layer if trial != found[0]}
    while away:
        farthest = max(away, key=lambda trial: (away[trial], -trial))
        del away[farthest]
        found.append(farthest)
        away = {trial: min(far, _distance(layer, places, trial, farthest)) for trial, far in away.items()}
    return found


def _places(layer: Mapping[int, Standing]) -> dict[int, tuple[float, ...]]:
    """The losses of trials, each goal between 0 and 1 among those of one kind."""
    kinds: dict[Hashable, list[int]] = {}
    for trial, how in layer.items():
        kinds.setdefault(how.kind, []).append(trial)
    found: dict[int, tuple[float, ...]] = {}
    for trials in kinds.values():
        columns = zip(*(layer[trial].losses for trial in trials), strict=True)
        scaled = zip(*map(_scaled, columns), strict=True)
        found |= dict.fromkeys(trials, ()) | dict(zip(trials, scaled, strict=False))
    return found


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def _distance(layer: Mapping[int, Standing], places: Mapping[int, Sequence[float]], one: int, other: int) -> float:
    """Between 0 and 1, the largest of any goal; trials that cannot be compared are as far as can be."""
    if layer[one].kind != layer[other].kind:
        return 1.0
    return max((abs(a - b) for a, b in zip(places[one], places[other], strict=True)), default=0.0)
