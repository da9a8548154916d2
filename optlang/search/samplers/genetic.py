"""NSGA-II (Deb et al., 2002) and NSGA-III (Deb and Jain, 2014) by Optuna, on the genes of points.

By itself Optuna crosses only knobs that every trial has, and draws all others at random. On genes every knob is crossed
and mutated, and one that is not there in a parent is carried along. Crossover (uniform) and mutation (one gene in all
on average) are Optuna's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.plan.model import Plan
from optlang.search.observation import TRIES, Observation, Suggestion, seed_of
from optlang.search.samplers.encoding import genes_of, point_of
from optlang.search.samplers.optuna_adapter import quiet
from optlang.space.recipe import Point
from optlang.space.space import Space

if TYPE_CHECKING:
    import optuna

PATIENCE = 20
"""After so many refused children in a row the parents have nothing new to give: genes are drawn at random."""

_GENES, _GENERATION = "genes", "generation"


class Genetic:
    """NSGA-II or NSGA-III with so many trials in a generation.

    What it did not draw itself (the baseline, the ladder, earlier trials) belongs to the first generation.
    """

    tries = TRIES

    @quiet()
    def __init__(self, plan: Plan, space: Space, name: str, population: int) -> None:
        import optuna

        self._plan, self._space = plan, space
        kind = {"nsga2": optuna.samplers.NSGAIISampler, "nsga3": optuna.samplers.NSGAIIISampler}[name]
        self._kind: Any = type(kind.__name__, (_Generations, kind), {})
        self._population = population
        self._study = optuna.create_study(directions=[objective.direction for objective in plan.objectives])
        self._distributions = {knob.path: optuna.distributions.FloatDistribution(0.0, 1.0) for knob in plan.knobs}
        self._chosen = 0

    @quiet()
    def add(self, told: Observation) -> None:
        """Take in what became of a point; one that failed has no children."""
        import optuna

        if told.values is None:
            return
        kept: Any = told.state.get(_GENES)  # what `draw` put there; another's trials have none
        generation = told.state.get(_GENERATION, 0)
        genes = genes_of(self._plan.knobs, told.point, kept if isinstance(kept, Mapping) else None)
        self._study.add_trial(
            optuna.trial.create_trial(
                values=list(told.values), params=genes, distributions=dict(self._distributions),
                user_attrs={_GENERATION: generation},
                constraints={str(index): float(value) for index, value in enumerate(told.violations)},
            )
        )
        self._choose_parents()

    def _choose_parents(self) -> None:
        """Once a generation is whole: Optuna remembers them then, so that nothing that comes later changes them.

        NSGA-III draws where it chooses, which must follow from the generation alone, and both order parents otherwise
        when they choose them than ever after.
        """
        sampler = self._sampler(seed_of(self._plan.search.seed, "parents", self._chosen + 1))
        if len(sampler.get_population(self._study, self._chosen)) >= self._population:
            self._chosen += 1
            sampler.get_parent_population(self._study, self._chosen)

    def expect(self, points: Sequence[Point]) -> None:
        """What is drawn does not depend on it."""

    @quiet()
    def draw(self, seed: int, attempt: int) -> Suggestion:
        """The child of this attempt, or a point of the first generation."""
        import optuna

        sampler = self._sampler(seed)
        self._study.sampler = optuna.samplers.RandomSampler(seed=seed) if attempt >= PATIENCE else sampler
        trial = self._study.ask(dict(self._distributions))
        genes: dict[str, Any] = trial.params
        # The result comes back through `add`, as a trial of its own.
        self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        point = point_of(self._space, genes)
        absent = {path: gene for path, gene in genes.items() if path not in point}
        return Suggestion(point, {_GENERATION: self._chosen, _GENES: absent})

    def postpone(self, asked: Suggestion) -> None:
        """Nothing is learned from it."""

    def refuse(self, asked: Suggestion, *, forbidden: bool) -> bool:
        """Nothing is learned from it."""
        return False

    def _sampler(self, seed: int) -> Any:
        sampler = self._kind(seed=seed, population_size=self._population)
        sampler.current = self._chosen
        return sampler


class _Generations:
    """Generations as they are kept here: Optuna has a key of its own for them, which is private."""

    current = 0

    def get_trial_generation(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> int:
        """That of the next trial."""
        return self.current

    def get_population(self, study: optuna.Study, generation: int) -> list[optuna.trial.FrozenTrial]:
        """The trials of a generation that have values."""
        return [item for item in study.get_trials(deepcopy=False) if item.user_attrs.get(_GENERATION) == generation]
