"""Which point to try next: ask for a point, tell what became of it. Each sampler is a file in samplers/."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from optlang.interfaces import JSON
from optlang.plan.model import Plan
from optlang.search import pareto
from optlang.search.observation import Observation, SamplerBackend, Suggestion, count_of, seed_of, value_of
from optlang.search.samplers.crossover import recombined
from optlang.space.recipe import Point, resolve
from optlang.space.space import Exhausted, Space

__all__ = ["Observation", "Sampler", "Suggestion"]

AUTO_TPE_TRIALS = 1000
"""`auto` is TPE up to so many trials; beyond, NSGA-II, whose cost a trial does not grow with their number."""

RECOMBINED = 0.4
"""The share of TPE's draws, once it has started, that recombine two members of the front instead."""

# With a random start, TPE's own default.
STARTUP = 10
POPULATION = 24

# What a point's state holds in addition to the sampler's own: the points drawn before it that it must learn of too.
_REFUSED = "refused"


class Sampler:
    """Draws points of a space for the study's goals. `known` are the effects (see `Recipe.effect`) that need no run."""

    def __init__(self, plan: Plan, space: Space, known: set[str]) -> None:
        self._plan, self._space, self._known = plan, space, known
        self._feasible: dict[int, tuple[Point, tuple[float, ...]]] = {}
        self._told = 0
        self._name = kind_of(plan)
        self._startup = count_of(plan.search.sampler.settings, "startup", STARTUP)
        self._draws = self._made()

    def recall(self, told: Observation) -> None:
        """Add what became of a point that was asked for in an earlier session, with the refused draws before it."""
        refused = told.state.get(_REFUSED, ())
        assert isinstance(refused, list | tuple)
        for point in refused:
            assert isinstance(point, Mapping)
            self._draws.add(Observation({path: value_of(value) for path, value in point.items()}, None, [1.0]))
        self.tell(told)

    def tell(self, told: Observation) -> None:
        """Add what became of a point."""
        self._told += 1
        if told.values is not None and all(value <= 0 for value in told.violations):
            self._feasible[self._told] = (told.point, pareto.losses(self._plan, told.values))
        self._draws.add(told)

    def ask(self, number: int) -> Suggestion:
        """The point for trial `number`; raises `Exhausted` where the space has none left that was not tried.

        Every draw is seeded from the study's seed, the trial's number and the attempt, so that a run that was
        interrupted goes on with other draws than it began with, and twice the same history gives the same draw.
        """
        child = self._child(number)
        if child is not None:
            return Suggestion(child, {})
        refused: list[JSON] = []
        for attempt in range(self._draws.tries):
            asked = self._draws.draw(seed_of(self._plan.search.seed, number, attempt), attempt)
            forbidden = self._space.forbidden(asked.point) is not None
            if not forbidden and resolve(self._plan, asked.point).effect not in self._known:
                return Suggestion(asked.point, {**asked.state, **({_REFUSED: refused} if refused else {})})
            if self._draws.refuse(asked, forbidden=forbidden):
                # A resumed search must know of it too, or it would go on with other draws.
                refused.append(dict(asked.point))
        raise Exhausted

    def _child(self, number: int) -> Point | None:
        """A point recombined from the front, where this draw is one that does so."""
        random = Random(seed_of(self._plan.search.seed, number))
        if self._name != "tpe" or self._told < self._startup or random.random() >= RECOMBINED:
            return None
        members = pareto.front({number: losses for number, (_, losses) in self._feasible.items()})
        parents = [self._feasible[member][0] for member in members]
        return recombined(self._plan, self._space, parents, self._known, random)

    def _made(self) -> SamplerBackend:
        # Each brings libraries of its own, which take their time to load.
        settings = self._plan.search.sampler.settings
        match self._name:
            case "grid":
                from optlang.search.samplers.grid import Grid

                return Grid(self._plan, self._space)
            case "qmc":
                from optlang.search.samplers.qmc import QuasiRandom

                return QuasiRandom(self._plan, self._space)
            case "nsga2" | "nsga3":
                from optlang.search.samplers.genetic import Genetic

                return Genetic(self._plan, self._space, self._name, count_of(settings, "population", POPULATION))
            case "gp":
                from optlang.search.samplers.gp import Gaussian

                return Gaussian(self._plan, self._space, self._known, self._startup)
        from optlang.search.samplers.tpe import Parzen

        return Parzen(self._plan, self._space, self._startup if self._name == "tpe" else None)


def kind_of(plan: Plan) -> str:
    """The sampler of a plan, `auto` decided."""
    search = plan.search
    if search.sampler.name != "auto":
        return search.sampler.name
    return "tpe" if search.trials <= AUTO_TPE_TRIALS else "nsga2"
