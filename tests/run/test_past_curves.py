"""Which trainings of a run are comparable, and what is kept of them."""

from __future__ import annotations

from typing import Any

import pytest

from optlang.interfaces import Measurement
from optlang.run.past_curves import PastCurves
from optlang.search.promise import Curve
from optlang.space.recipe import Applied
from tests.store.example_study import make_plan


def applied(*paths: str) -> list[Applied]:
    return [
        Applied(path, path.rpartition(".")[2], {} if path.endswith("prune") else {"epochs": 2}) for path in paths
    ]


def rows(path: str, *values: float, cached: bool | None = False, target: str | None = None) -> list[dict[str, Any]]:
    about = {"path": path, "cached": cached, "target": target, "epochs": 2, "metric": "accuracy"}
    return [{**about, "epoch": number, "value": value} for number, value in enumerate(values, 1)]


def measured(value: float, target: str = "laptop", metric: str = "accuracy") -> Measurement:
    return Measurement(metric, value, "", 1, value, value, target)



@pytest.fixture(autouse=True)
def one_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optlang.run.past_curves.ENOUGH", 0.4)


KEY = ("laptop", "accuracy")
GOALS = (("size", "minimize"), ("accuracy", "maximize"))
TWO = applied("rounds[1].prune", "rounds[1].fit", "rounds[2].prune", "rounds[2].fit")


def test_rounds_with_as_many_trainings_behind_them_are_comparable() -> None:
    past = PastCurves(make_plan(objectives=GOALS))
    past.add(TWO, [measured(0.9), measured(7.0, metric="size")], [
        *rows("rounds[1].fit", 0.5, 0.6), *rows("rounds[2].fit", 0.7, 0.8, cached=True),
    ])
    first, last = Curve(2, ((1, 0.5), (2, 0.6)), 0.9), Curve(2, ((1, 0.7), (2, 0.8)), 0.9)
    assert past.of(TWO) == {"rounds[1].fit": {KEY: (first,)}, "rounds[2].fit": {KEY: (last,)}}
    assert past.of(applied("rounds[1].fit")) == {"rounds[1].fit": {KEY: (last,)}}
    assert past.of(applied("rounds[1].fit", "other")) == {"rounds[1].fit": {KEY: (first,)}}
    assert past.of(applied("back.fit", "rounds[1].prune")) == {}


def test_what_was_broken_off_or_not_measured_says_nothing() -> None:
    past = PastCurves(make_plan(objectives=GOALS))
    steps = applied("fit")
    past.add(steps, [measured(0.9)], rows("fit", 0.5, cached=None))
    past.add(steps, [], rows("fit", 0.5, 0.6))
    past.add(steps, [measured(0.9)], [{**row, "metric": "loss"} for row in rows("fit", 0.5, 0.6)])
    past.add(steps, [measured(0.9)], [{**row, "epochs": None} for row in rows("fit", 0.5, 0.6)])
    past.add(steps, [measured(0.9)], rows("elsewhere", 0.5, 0.6))
    past.add(steps, [measured(0.9)], [*rows("fit", 0.5, 0.6), *rows("fit", 0.6, 0.7)])
    assert past.of(steps) == {}


def test_each_target_has_its_own_end_and_its_own_curve_where_the_step_differs() -> None:
    past = PastCurves(make_plan(objectives=GOALS, targets=("laptop", "phone")))
    steps = applied("fit")
    past.add(steps, [measured(0.9), measured(0.8, "phone")], rows("fit", 0.5, 0.6))
    past.add(steps, [measured(0.7), measured(0.6, "phone")], [
        *rows("fit", 0.4, 0.5), *rows("fit", 0.3, 0.4, target="phone"),
    ])
    found = past.of(steps)["fit"]
    assert [curve.final for curve in found["laptop", "accuracy"]] == [0.9, 0.7]
    assert [(curve.values[0][1], curve.final) for curve in found["phone", "accuracy"]] == [(0.5, 0.8), (0.3, 0.6)]


def test_a_training_with_others_behind_it_takes_more_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optlang.run.past_curves.ENOUGH", 3)
    past = PastCurves(make_plan(objectives=GOALS))
    monkeypatch.setattr("optlang.run.past_curves.MOST", 4)
    for count, known in enumerate((0, 0, 1, 1, 1, 2), start=1):
        past.add(TWO, [measured(0.9)], [*rows("rounds[1].fit", 0.5, 0.6), *rows("rounds[2].fit", 0.7, 0.8)])
        assert len(past.of(TWO)) == known, count
    assert [len(curves[KEY]) for curves in past.of(TWO).values()] == [4, 4], "the newest"
