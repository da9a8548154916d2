"""Whether the machine is busy while a run measures: the baseline's seconds tell, since nothing else changes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from optlang.interfaces import Measurement, TargetSpec
from optlang.measure.latency import Repetitions
from optlang.plan.metrics import MEDIAN
from optlang.plan.quantities import in_seconds

RECENT = 5
"""The measurements of the baseline that say how busy the machine is now."""

STEPS = ((1.5, 4), (1.25, 2))
"""How far the slowest of them is above the quickest, and how many times the rounds are taken then."""

LONGEST = 60.0
"""Seconds of measuring, about, that more rounds may lead to; rounds that the study itself asks for are all taken."""


@dataclass(slots=True)
class Busy:
    """The baseline's seconds in this session, by the target with its threads and samples a call."""

    _recent: dict[TargetSpec, deque[float]] = field(default_factory=dict)
    _said: bool = False

    def add(self, target: TargetSpec, measurements: Iterable[Measurement]) -> None:
        """Take in what the baseline took in a measurement on this target, if it was timed."""
        for item in measurements:
            if item.metric == MEDIAN and item.target == target.name and item.baseline:
                self._recent.setdefault(target, deque(maxlen=RECENT)).append(item.baseline)

    def effort(self, effort: Repetitions, target: TargetSpec, members: int) -> Repetitions:
        """More rounds where the baseline's seconds have drifted on this target, within limits; `members` take turns."""
        seconds = self._recent.get(target)
        if not seconds:
            return effort
        times = next((times for drift, times in STEPS if max(seconds) >= drift * min(seconds)), 1)
        # A round of a slow model is its fewest calls.
        each = members * effort.processes * max(effort.seconds, effort.calls * min(seconds))
        rounds = min(times * effort.rounds, int(LONGEST / each))
        return replace(effort, rounds=max(effort.rounds, rounds))

    def message(self) -> str | None:
        """What to say, once a session, where the baseline's seconds have drifted on any target."""
        if self._said:
            return None
        (least, _) = STEPS[-1]
        for seconds in self._recent.values():
            if max(seconds) >= least * min(seconds):
                self._said = True
                return (
                    "the machine is busy, or changes its clock: the baseline took "
                    f"{in_seconds(min(seconds))} in one measurement and {in_seconds(max(seconds))} in another; while "
                    f"that goes on, up to {STEPS[0][1]} times the rounds are measured (a ratio compares with the "
                    "baseline of the same rounds; seconds are those of a busy machine)"
                )
        return None
