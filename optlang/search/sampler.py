"""Which point to try next: ask for a point, tell what became of it. Each sampler is a file in samplers/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from optlang.interfaces import JSON
from optlang.plan.model import Plan
from optlang.search import pareto
from optlang.search.choose import SCREENED, chosen
from optlang.search.hopeless import Avoided, LeftOut
from optlang.search.observation import Observation, SamplerBackend, Suggestion, count_of, seed_of, value_of
from optlang.search.samplers.crossover import recombined
from optlang.search.samplers.neighbors import changed, drawn
from optlang.space.recipe import Point, resolve
from optlang.space.space import Exhausted, Space

__all__ = ["Observation", "Sampler", "Suggestion"]

RECOMBINED = 0.4
"""The share of TPE's draws, once it has started, that recombine two members of the front instead."""

OWN_DRAWS = 1
"""How many of the further points of a trial TPE draws itself."""

# With a random start, TPE's own default.
STARTUP = 10
POPULATION = 24

POSTPONED = 30
"""After so many draws in a row of what is left out of a trial, the last of them is taken."""

# What a point's state holds in addition to the sampler's own: the points drawn before it that it must learn of too.
_REFUSED = "refused"


class Sampler:
    """Draws points of a space for the study's goals. `known` are the effects (see `Recipe.effect`) that need no run,
    `avoided` is what the ladder has shown to be left out of most of them."""

    def __init__(self, plan: Plan, space: Space, known: set[str], avoided: Sequence[Avoided] = ()) -> None:
        self._plan, self._space, self._known = plan, space, known
        self._hopeless = LeftOut(plan, space, avoided)
        self._left_out: list[Avoided] = []
        self._points: list[Point] = []
        """Those that it has taken in, and the front of those that meet all requirements, by their place among them."""
        self._front: pareto.Front[tuple[float, ...]] = pareto.Front()
        self._name = chosen(plan).name
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
        self._points.append(told.point)
        if told.values is not None and all(value <= 0 for value in told.violations):
            self._front.add(len(self._points) - 1, pareto.losses(self._plan, told.values))
            self._hopeless.tell(resolve(self._plan, told.point))
        self._draws.add(told)

    def expect(self, points: Sequence[Point]) -> None:
        """These points, and no others, are being tried now."""
        self._draws.expect(points)

    def ask(self, number: int) -> Suggestion:
        """The point for trial `number`; raises `Exhausted` where the space has none left that was not tried.

        Every draw is seeded from the study's seed, the trial's number and the attempt, so that a run that was
        interrupted goes on with other draws than it began with, and twice the same history gives the same draw. What is
        hopeless is left out of most trials, unless nothing else is drawn.
        """
        self._left_out = self._hopeless.of(number)
        child = self._child(number)
        if child is not None and not self._leaves_out(child):
            return Suggestion(child, {})
        refused: list[JSON] = []
        postponed: Suggestion | None = None
        left = POSTPONED
        for attempt in range(self._draws.tries):
            try:
                asked = self._draws.draw(seed_of(self._plan.search.seed, number, attempt), attempt)
            except Exhausted:
                break
            forbidden = self._space.forbidden(asked.point) is not None
            if not forbidden and resolve(self._plan, asked.point).effect not in self._known:
                if not self._leaves_out(asked.point):
                    return _with(asked, refused)
                # Of those that are taken at last, the last: a sequence goes on behind it, in a later process too.
                postponed, left = asked, left - 1
                self._draws.postpone(asked)
                if left == 0:
                    break
            elif self._draws.refuse(asked, forbidden=forbidden):
                # A resumed search must know of it too, or it would go on with other draws.
                refused.append(dict(asked.point))
        if postponed is None:
            raise Exhausted
        return _with(postponed, refused)

    def others(self, number: int, first: Suggestion, count: int) -> list[Suggestion]:
        """More points for trial `number`, at most so many, each of another effect; `first` is what `ask` returned.

        The sampler's own draws cost their time, so TPE makes `OWN_DRAWS` of them; the others recombine the front,
        change a knob of one of its members, or are drawn at random. Whichever is tried, the next trial is drawn as if
        there had been no others.
        """
        if self._name not in SCREENED:
            return []
        effects = {resolve(self._plan, first.point).effect}
        refused = {_REFUSED: first.state[_REFUSED]} if _REFUSED in first.state else {}
        parents = [self._points[member] for member in self._front.members]
        found: list[Suggestion] = []
        for turn in range(2 * count):
            if len(found) == count:
                break
            asked = self._other(number, turn, parents)
            if asked is None or self._leaves_out(asked.point) or self._space.forbidden(asked.point) is not None:
                continue
            effect = resolve(self._plan, asked.point).effect
            if effect not in effects and effect not in self._known:
                effects.add(effect)
                found.append(Suggestion(asked.point, {**asked.state, **refused}))
        return found

    def _other(self, number: int, turn: int, parents: Sequence[Point]) -> Suggestion | None:
        """One more point, which may be known or forbidden; None where this turn has none."""
        seed = seed_of(self._plan.search.seed, number, "other", turn)
        random = Random(seed)
        if self._name != "tpe" or turn < OWN_DRAWS:
            try:
                return self._draws.draw(seed, 0)
            except Exhausted:
                return None
        if len(parents) > 1 and turn % 2:
            child = recombined(self._plan, self._space, parents, self._known, random, attempts=2)
        elif parents and turn % 4:
            child = changed(self._plan, self._space, random.choice(parents), random)
        else:
            child = drawn(self._space, random)
        return None if child is None else Suggestion(child, {})

    def _leaves_out(self, point: Point) -> bool:
        """Whether the point has something that is left out of the trial which is drawn."""
        if not self._left_out:
            return False
        recipe = resolve(self._plan, point)
        return any(item.has(self._plan, recipe) for item in self._left_out)

    def _child(self, number: int) -> Point | None:
        """A point recombined from the front, where this draw is one that does so."""
        random = Random(seed_of(self._plan.search.seed, number))
        if self._name != "tpe" or len(self._points) < self._startup or random.random() >= RECOMBINED:
            return None
        parents = [self._points[member] for member in self._front.members]
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

                return Gaussian(self._plan, self._space, self._known, self._startup, self._leaves_out)
        from optlang.search.samplers.tpe import Parzen

        return Parzen(self._plan, self._space, self._startup if self._name == "tpe" else None)


def _with(asked: Suggestion, refused: list[JSON]) -> Suggestion:
    """The suggestion, with the points that were refused before it and of which a later process must know."""
    return Suggestion(asked.point, {**asked.state, **({_REFUSED: refused} if refused else {})})
