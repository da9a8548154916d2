"""How long the end of a run will take, from given durations."""

from __future__ import annotations

from optlang.plan.model import Measure
from optlang.run.ending import Ending, Spent

MEASURE = Measure(rounds=5, processes=1, front_rounds=10, front_processes=3, round_seconds=0.05, round_calls=20)


def test_a_pass_starts_each_process_and_takes_the_fronts_rounds() -> None:
    ending = Ending(MEASURE)
    assert ending.settling([1]) is None
    assert ending.settling([]) == ending.scoring([]) == 0.0
    ending.add(0, Spent(start=1.0, rounds=0.5))
    ending.add(1, Spent(start=0.2, rounds=0.3))
    assert ending.settling([1]) == 3 * ((1.0 + 2 * 0.5) + (0.2 + 2 * 0.3)), "the baseline is in each cycle"
    # Trial 2 was measured in an earlier session: as the mean of the others.
    assert ending.settling([1, 2]) == 3 * (2.0 + 0.8 + 1.4)


def test_a_second_pass_takes_as_many_times_its_estimate_as_the_first() -> None:
    ending = Ending(MEASURE)
    ending.add(0, Spent(start=1.0))
    ending.add(1, Spent(start=1.0))
    ending.passed([1], 9.0)
    assert ending.settling([1]) == 9.0
    assert ending.settling([1, 2]) == 13.5


def test_scoring_takes_what_the_answers_took_for_as_many_samples() -> None:
    ending = Ending(MEASURE)
    assert ending.scoring([0, 1]) is None
    ending.add(0, Spent(start=1.0, answers=4.0, tests=2.0))
    ending.add(1, Spent(start=0.5, answers=1.0, tests=2.0))
    assert ending.scoring([0, 1]) == 1.0 + 8.0 + 0.5 + 2.0


def test_without_test_data_nothing_is_scored() -> None:
    ending = Ending(MEASURE)
    ending.add(0, Spent(start=1.0, answers=4.0))
    assert ending.scoring([0]) == 0.0


def test_several_targets_take_what_they_take_together() -> None:
    assert Spent(1.0, 2.0, 3.0, 0.5) + Spent(1.0, 1.0, 1.0, 0.5) == Spent(2.0, 3.0, 4.0, 0.5)
