"""Which sampler a search uses: the one that the study names, or what `auto` stands for, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from optlang.analysis.lower.search_settings import GRID_POINTS
from optlang.plan.model import Plan
from optlang.plan.quantities import counted
from optlang.space.cost import trial_cost
from optlang.space.space import Space

TPE_TRIALS = 1000
"""`auto` is TPE up to so many trials; beyond, a genetic algorithm, which draws as fast after many as after few."""

CROWDED = 3
"""Up to so many goals the crowding distance of NSGA-II spreads a front well; beyond, `auto` is NSGA-III."""


class Counted(Protocol):
    """How many points a space has (at most, unless `exact`), and its continuous knobs."""

    @property
    def points(self) -> int: ...

    @property
    def exact(self) -> bool: ...

    @property
    def continuous(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """The sampler, and why `auto` stands for it: "" where the study names it."""

    name: str
    why: str = ""

    @property
    def said(self) -> str | None:
        """What `auto` stands for and why, in a line; None where the study names its sampler."""
        return f"{self.name}, since {self.why}" if self.why else None


SCREENED = ("tpe", "nsga2", "nsga3")
"""The samplers of which several points are asked for one trial. A sequence or a grid has one next point, Gaussian
processes have looked for the best already, and who asks for random draws is given them."""


def screened(plan: Plan, size: Counted | None = None) -> bool:
    """Whether trials are chosen among several points."""
    may_train = trial_cost(plan, plan.steps).epochs.high > 0
    return plan.search.screening > 1 and may_train and chosen(plan, size).name in SCREENED


def chosen(plan: Plan, size: Counted | None = None) -> Chosen:
    """The sampler of a plan; `size` is that of its whole space, where it is known already.

    What is missing on this machine does not count: a run goes on with the same sampler on another one.
    """
    search = plan.search
    if search.sampler.name != "auto":
        return Chosen(search.sampler.name)
    size = size or Space(plan).size()
    most, goals = search.most, len(plan.objectives)
    if most is None:
        return Chosen("tpe", "the time alone ends the search, and TPE learns from few trials")
    if search.timeout is None and size.exact and not size.continuous and size.points <= min(most, GRID_POINTS):
        return Chosen("grid", f"the space has {counted(size.points, 'point')}: all are tried")
    if most <= TPE_TRIALS:
        return Chosen("tpe", f"of {counted(most, 'trial')} it learns most")
    many = f"{most:,} trials are more than {TPE_TRIALS:,}, with which TPE takes long to draw"
    if goals > CROWDED:
        return Chosen("nsga3", f"{many}, and {goals} goals are more than {CROWDED}")
    return Chosen("nsga2", many)
