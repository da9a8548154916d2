"""A trial of a table as data: its recipe, and its figures with how they compare with the baseline's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from optlang.report.trial_text import Recipe


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric of a trial with its 95 % interval, and how it compares with the baseline.

    `times` is baseline ÷ trial where less is better, `lost` baseline − trial where more is better; the other is None.
    Their intervals are there where trial and baseline were measured side by side, or on the same samples; then
    `baseline` is the baseline's value in that very measurement, which `times` and `lost` compare with.
    """

    metric: str
    value: float
    unit: str
    low: float | None
    high: float | None
    times: float | None
    times_low: float | None
    times_high: float | None
    lost: float | None
    lost_low: float | None = None
    lost_high: float | None = None
    baseline: float | None = None


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """A trial's recipe and figures; `dependence` says in words, by target, that and how an answer depends on the other
    samples of its call, `uncounted` are the operators that `macs` leave out, and `left` the layers that no pruning
    could cut, with why."""

    trial: int
    origin: str
    recipe: Recipe
    figures: Mapping[str, Figure]
    dependence: Mapping[str, str] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    left: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> str:
        """The recipe in words."""
        return self.recipe.text
