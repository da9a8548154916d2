"""Successive halving: which of the paused trials goes on, on small cases whose answer is known."""

from __future__ import annotations

import pytest

from optlang.plan.model import Halving
from optlang.search.halving import Rungs, Standing, ranked, rungs


def one_goal(**losses: float) -> dict[int, Standing]:
    return {int(name[1:]): Standing((value,)) for name, value in losses.items()}


@pytest.mark.parametrize(("reduce", "first", "epochs", "expected"), [
    (3, 1, 27, [1, 3, 9]), (3, 1, 28, [1, 3, 9, 27]), (2, 2, 9, [2, 4, 8]), (3, 1, 1, []), (3, 5, 5, []), (3, 1, 0, []),
])
def test_rungs_lie_below_the_end(reduce: int, first: int, epochs: int, expected: list[int]) -> None:
    assert rungs(Halving(reduce=reduce, first=first), epochs) == expected


def test_one_goal_is_asha() -> None:
    # Algorithm 2 of Li et al. with eta = 3: the example of nine trials, one after another.
    found = Rungs(3)
    losses = [0.9, 0.5, 0.7, 0.3, 0.8, 0.6, 0.2, 0.4, 0.1]
    went_on: list[tuple[int, int, int]] = []
    for trial, loss in enumerate(losses):
        found.stood(trial, 1, Standing((loss,)))
        found.pause(trial, 1)
        while (best := found.best()) is not None:
            rung = 3 if (1, best) in {(from_, number) for _, from_, number in went_on} else 1
            went_on.append((trial, rung, best))
            found.go_on(best)
            if rung == 1:
                found.stood(best, 3, Standing((losses[best],)))
                found.pause(best, 3)
    # After each trial: who went on from which rung. Of three trials 1 is the best, of four 3 is; of seven two go on, so
    # 6 does too, and is the best of the three at the rung of 3 epochs. The last one is better than all others.
    assert went_on == [(2, 1, 1), (3, 1, 3), (6, 1, 6), (6, 3, 6), (8, 1, 8), (8, 3, 8)]


def test_the_highest_rung_comes_first_and_the_best_of_it() -> None:
    found = Rungs(2)
    for trial, loss in enumerate([4.0, 3.0, 2.0, 1.0]):
        found.stood(trial, 1, Standing((loss,)))
        found.pause(trial, 1)
    for trial, loss in ((3, 9.0), (2, 8.0)):
        found.go_on(trial)
        found.stood(trial, 2, Standing((loss,)))
        found.pause(trial, 2)
    assert found.best() == 2
    found.go_on(2)
    # At the rung of 2 epochs one of two has gone on, at that of 1 two of four.
    assert found.best() is None
    assert found.best(last=True) is None
    assert sorted(found.paused) == [0, 1, 3]


def test_in_the_end_one_goes_on_from_each_rung() -> None:
    found = Rungs(3)
    for trial, loss in ((4, 2.0), (7, 1.0)):
        found.stood(trial, 1, Standing((loss,)))
        found.pause(trial, 1)
    assert found.best() is None
    assert found.best(last=True) == 7
    found.go_on(7)
    assert found.best(last=True) is None
    assert found.better(4) == (1, 1)


def test_layers_come_before_places_in_them() -> None:
    points = {1: (0.0, 1.0), 2: (0.4, 0.4), 3: (1.0, 0.0), 4: (0.5, 0.5), 5: (1.0, 1.0), 6: (0.1, 0.95)}
    # First the compromise, then the ends (farthest from it), what lies close to one of them last; then layer by layer.
    assert ranked({trial: Standing(losses) for trial, losses in points.items()}) == [2, 1, 3, 6, 4, 5]


def test_what_misses_a_requirement_comes_behind() -> None:
    stood = {1: Standing((0.0, 0.0), missed=0.5), 2: Standing((9.0, 9.0)), 3: Standing((1.0, 1.0), missed=0.1)}
    assert ranked(stood) == [2, 3, 1]


def test_trials_that_cannot_be_compared_do_not_beat_each_other() -> None:
    stood = {1: Standing((0.1,), kind="a"), 2: Standing((5.0,), kind="b"), 3: Standing((0.2,), kind="a")}
    assert ranked(stood) == [1, 2, 3]


def test_equal_trials_are_taken_in_their_order() -> None:
    assert ranked(one_goal(t3=1.0, t1=1.0, t2=1.0)) == [1, 2, 3]
    assert ranked({}) == []
    assert ranked({5: Standing(())}) == [5]
