"""How the trials of a run stand to each other: the front, what is near it, and what ties with a member.

It is kept up to date trial by trial: a new one is compared with the front, not with all trials before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from optlang.interfaces import Measurement
from optlang.plan.metrics import MEDIAN
from optlang.plan.model import Plan
from optlang.search import objectives, pareto, ties
from optlang.search.objectives import Measured
from optlang.search.ties import Spread

Losses = tuple[float, ...]


@dataclass(slots=True)
class Standing:
    """The complete trials of the space, and those that measuring again may bring into their front.

    All were judged next to the same measurements of the baseline; where these change, or a trial that is here is
    measured again, another one is made.
    """

    plan: Plan
    reference: Measured
    """The baseline's."""
    losses: dict[int, Losses] = field(default_factory=dict)
    """Of the complete trials, the baseline among them."""
    _front: pareto.Front[Losses] = field(default_factory=pareto.Front)
    _spreads: dict[int, list[Spread]] = field(default_factory=dict)
    _near: dict[int, tuple[float, Losses]] = field(default_factory=dict)
    """By how much a trial would be better at the good end of its latency's interval, and its losses there: only those
    that no member dominates then."""
    _kept: list[int] | None = None
    _ties: dict[int, int] | None = None

    def add_baseline(self, number: int, measured: Measured) -> None:
        """Take in the baseline: it stands for itself alone."""
        self._stands(number, self._losses_of(measured))

    def add(self, number: int, measured: Measured, *, complete: bool) -> None:
        """Take in a measured trial of the space: a complete one, or one that misses a requirement."""
        if not complete and not is_timed(measured.values()):
            return
        losses = self._losses_of(measured)
        if complete:
            self._spreads[number] = ties.spreads(self.plan, measured, self.reference)
            self._stands(number, losses)
        best = self._at_best(measured)
        if best is not None and not self._front.dominates(best):
            gap = sum(abs(a - b) / (abs(a) or 1.0) for a, b in zip(losses, best, strict=True))
            self._near[number] = gap, best

    def _stands(self, number: int, losses: Losses) -> None:
        self.losses[number] = losses
        self._ties = None
        if self._front.add(number, losses):
            self._kept = None
            beaten = [other for other, (_, best) in self._near.items() if pareto.dominates(losses, best)]
            for other in beaten:
                del self._near[other]

    @property
    def members(self) -> list[int]:
        """The trials that no other dominates, in their order."""
        return list(self._front.members)

    @property
    def rivals(self) -> dict[int, Losses]:
        """The losses of the members."""
        return dict(self._front.members)

    def near(self, limit: int) -> list[int]:
        """Trials outside the front that would be in it at the good end of their latency's interval, nearest first."""
        found = sorted((gap, number) for number, (gap, _) in self._near.items() if number not in self._front.members)
        return [number for _, number in found[:limit]]

    @property
    def kept(self) -> list[int]:
        """The members that stand for their ties, the best in the first goal first; the baseline left out."""
        if self._kept is None:
            members = {number: item for number, item in self._front.members.items() if number in self._spreads}
            self._kept = ties.standing(members, self._spreads)
        return self._kept

    def tied_with(self, number: int) -> int | None:
        """The member that stands for a trial; None where that is itself, or it ties with none."""
        spread = self._spreads.get(number)
        return None if spread is None or number in self.kept else ties.tied_with(spread, self.kept, self._spreads)

    @property
    def ties(self) -> dict[int, int]:
        """All trials that tie with a member of the front, each with the one that stands for it."""
        if self._ties is None:
            losses = {number: item for number, item in self.losses.items() if number in self._spreads}
            self._ties = ties.ties(self._front.members.keys(), losses, self._spreads)
        return self._ties

    def _at_best(self, measured: Measured) -> Losses | None:
        """The losses at the good end of the latency's interval; None where it was not timed, or misses a requirement
        there too."""
        if not is_timed(measured.values()):
            return None
        best = {name: _good_end(item) for name, item in measured.items()}
        return None if objectives.broken(self.plan, best, self.reference) else self._losses_of(best)

    def _losses_of(self, measured: Measured) -> Losses:
        return pareto.losses(self.plan, objectives.objective_values(self.plan, measured, self.reference))


def is_timed(measurements: Iterable[Measurement]) -> bool:
    """Whether a latency is among them."""
    return any(item.metric == MEDIAN for item in measurements)


def _good_end(item: Measurement) -> Measurement:
    """A latency at the good end of its interval; other figures are not measured again."""
    if item.ratio_high is None:
        return item
    return replace(item, ratio=item.ratio_high, value=item.value if item.low is None else item.low)
