"""How long the end of a run will take: measuring the front again, and scoring it on the test data.

It is estimated from what measuring the same trials took in this session. Knows no clock and no worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from optlang.plan.model import Measure


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds that measuring a trial took: a process's `start`, its own `rounds` in one process, the `answers` to the
    validation data with their score. `tests` is how many samples the test part has for each of the validation data's;
    0: there is none."""

    start: float = 0.0
    rounds: float = 0.0
    answers: float = 0.0
    tests: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        """That of two targets."""
        return Spent(
            self.start + other.start, self.rounds + other.rounds, self.answers + other.answers,
            max(self.tests, other.tests),
        )


@dataclass(slots=True)
class Ending:
    """Estimates for one session; of a trial that an earlier one measured, the mean of this session's."""

    measure: Measure
    _spent: dict[int, Spent] = field(default_factory=dict)
    _passes: list[float] = field(default_factory=list)
    """How many times its estimate each pass took."""

    def add(self, trial: int, spent: Spent) -> None:
        """What measuring a trial took."""
        self._spent[trial] = spent

    def passed(self, trials: Sequence[int], seconds: float) -> None:
        """What measuring these trials side by side took: the next passes take as many times their estimate."""
        estimate = self._pass(trials)
        if estimate:
            self._passes.append(seconds / estimate)

    def settling(self, trials: Sequence[int]) -> float | None:
        """Seconds of one pass over these trials and the baseline; None while nothing is known of it."""
        estimate = self._pass(trials)
        factor = sum(self._passes) / len(self._passes) if self._passes else 1.0
        return None if estimate is None else factor * estimate

    def scoring(self, trials: Sequence[int]) -> float | None:
        """Seconds of scoring these trials on the test data, if there are any; None while nothing is known of it."""
        return self._sum(trials, lambda spent: (spent.start + spent.answers * spent.tests) if spent.tests else 0.0)

    def _pass(self, trials: Sequence[int]) -> float | None:
        if not trials:
            return 0.0
        more = self.measure.front_rounds / self.measure.rounds
        one = self._sum({0, *trials}, lambda spent: spent.start + spent.rounds * more)
        return None if one is None else one * self.measure.front_processes

    def _sum(self, trials: Sequence[int] | set[int], seconds: Callable[[Spent], float]) -> float | None:
        known = {trial: seconds(spent) for trial, spent in self._spent.items()}
        if not trials:
            return 0.0
        if not known:
            return None
        mean = sum(known.values()) / len(known)
        return sum(known.get(trial, mean) for trial in trials)
