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
    _rounds: float = 0.0
    _scores: float = 0.0
    """What one pass over all these trials takes, and scoring them."""
    _passes: list[float] = field(default_factory=list)
    """How many times its estimate each pass took."""

    def add(self, trial: int, spent: Spent) -> None:
        """What measuring a trial took."""
        self._spent[trial] = spent
        self._rounds += self._pass_of(spent)
        self._scores += _score_of(spent)

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
        return self._sum(trials, _score_of, self._scores)

    def _pass(self, trials: Sequence[int]) -> float | None:
        if not trials:
            return 0.0
        one = self._sum({0, *trials}, self._pass_of, self._rounds)
        return None if one is None else one * self.measure.front_processes

    def _pass_of(self, spent: Spent) -> float:
        """The seconds of a trial in one process of a pass."""
        return spent.start + spent.rounds * self.measure.front_rounds / self.measure.rounds

    def _sum(self, trials: Sequence[int] | set[int], seconds: Callable[[Spent], float], known: float) -> float | None:
        """The seconds of these trials; `known` are those of all that are known together."""
        if not trials:
            return 0.0
        if not self._spent:
            return None
        mean = known / len(self._spent)
        return sum(seconds(self._spent[trial]) if trial in self._spent else mean for trial in trials)


def _score_of(spent: Spent) -> float:
    """The seconds of scoring a trial on the test data; 0 where there are none."""
    return (spent.start + spent.answers * spent.tests) if spent.tests else 0.0
