"""What the runtimes without any step say of each other: with which the techniques are tried first, and which is left
out of most searched trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optlang.plan.model import Plan
from optlang.plan.quantities import times
from optlang.search.ablation import AblationTrial
from optlang.search.hopeless import LEFT_OUT
from optlang.space.recipe import Recipe

FAR = 2.0
"""How many times as good a runtime must be in a goal for another one to be beaten."""

NEAR = 0.02
"""What a goal may be worse by in that, as a share of its value: runtimes round differently."""


@dataclass(frozen=True, slots=True)
class Bare:
    """A trial without any step, the baseline among them, that could be measured.

    `values` are those of the goals, `missed` by how much it misses each comparison of the requirements, as
    `objectives.excesses` has it.
    """

    trial: int
    runtime: str
    values: Sequence[float]
    missed: Sequence[float]


@dataclass(frozen=True, slots=True)
class Beaten:
    """A runtime that another one beats by far in `goal`, where no other goal is any worse with that one."""

    runtime: str
    by: str
    goal: str
    ratio: float

    @property
    def path(self) -> str:
        """What tells it from the others that are left out."""
        return f"runtime {self.runtime}"

    @property
    def text(self) -> str:
        """What is left out and why, in one line."""
        return (
            f"{self.runtime} {LEFT_OUT}: without any step {self.by} is {times(self.ratio)} better in {self.goal}, and "
            "no worse in any other goal"
        )

    def has(self, plan: Plan, recipe: Recipe) -> bool:
        """Whether the recipe runs there."""
        return recipe.label == self.runtime

    def is_cleared_by(self, plan: Plan, recipe: Recipe) -> bool:
        """Never: that a trial there meets the requirements does not make it any better than elsewhere."""
        return False


def beaten(plan: Plan, trials: Sequence[Bare]) -> list[Beaten]:
    """The runtimes that are, in the order of their trials."""
    found: dict[str, Beaten] = {}
    for worse in trials:
        for better in trials:
            if worse.runtime not in found and (shown := _shown(plan, worse, better)) is not None:
                found[worse.runtime] = shown
    return list(found.values())


def _shown(plan: Plan, worse: Bare, better: Bare) -> Beaten | None:
    if better.runtime == worse.runtime or any(
        more > max(less, 0.0) for more, less in zip(better.missed, worse.missed, strict=True)
    ):
        return None
    gains = []
    for objective, theirs, own in zip(plan.objectives, better.values, worse.values, strict=True):
        less, more = (theirs, own) if objective.direction == "minimize" else (own, theirs)
        if less > more + NEAR * abs(more):
            return None
        # A goal that may be zero or less (a loss, what accuracy was lost) has no ratio.
        gains.append(more / less if less > 0 and more > 0 else 1.0)
    gain = max(gains)
    goal = plan.objectives[gains.index(gain)].metric.metric
    return Beaten(worse.runtime, better.runtime, goal, gain) if gain >= FAR else None


def first_of(plan: Plan, trials: Sequence[Bare]) -> str | None:
    """The runtime with the best places in all goals together, of those that miss the fewest requirements; the first of
    several, None without any trial."""
    def places(trial: Bare) -> int:
        found = 0
        for index, objective in enumerate(plan.objectives):
            sign = 1 if objective.direction == "minimize" else -1
            found += sum(sign * other.values[index] < sign * trial.values[index] for other in trials)
        return found

    def missed(trial: Bare) -> int:
        return sum(value > 0 for value in trial.missed)

    return min(trials, key=lambda trial: (missed(trial), places(trial))).runtime if trials else None


def divided(trials: Sequence[AblationTrial], runtime: str | None) -> tuple[list[AblationTrial], list[AblationTrial]]:
    """Trials of techniques alone: one of each technique, on this runtime where it is tried there, and the others."""
    first: dict[str, AblationTrial] = {}
    for trial in trials:
        known = first.setdefault(trial.alone, trial)
        if trial.recipe.label == runtime != known.recipe.label:
            first[trial.alone] = trial
    before = list(first.values())
    return before, [trial for trial in trials if trial not in before]
