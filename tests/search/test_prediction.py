"""Which model predicts a goal: the one that knows trials best that it has not seen."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from optlang.plan.model import Plan
from optlang.search.observation import Observation
from optlang.search.prediction import Prediction, Seen
from optlang.search.samplers.neighbors import uniform
from optlang.space.recipe import Point
from optlang.space.space import Space

STEPS = """
steps {
  repeat rounds in 0 .. 1 {
    prune   = channels { ratio in [10%, 20%, 30%, 40%, 50%]; scope in {layer, global} }
    recover = finetune { epochs in 1 .. 8; lr in 1e-4 .. 1e-2 log }
  }
  precision in { none; dynamic; static { samples in [64, 256] } }
}
"""


def number(point: Point, path: str) -> float:
    value = point.get(path, 0.0)
    assert isinstance(value, int | float)
    return float(value)


def figures(point: Point) -> list[float]:
    """A latency that is a product of effects, a size that is made up, and an accuracy with a bend in it."""
    kept = 1 - number(point, "rounds.prune.ratio")
    fast = {"none": 1.0, "dynamic": 0.8, "static": 0.4}[str(point["precision"])]
    bent = number(point, "rounds.recover.epochs") - 4
    return [fast * kept, 1 + random.Random(str(point)).random(), 0.9 - 0.01 * bent ** 2 * kept]


def seen(plan: Plan, count: int, seed: int = 0) -> tuple[Seen, list[Point]]:
    found, space, draw = Seen(plan), Space(plan), random.Random(seed)
    points = [uniform(space, draw) for _ in range(count)]
    for point in points:
        found.add(Observation(point, figures(point), [0.9 - figures(point)[2]]))
    return found, points


@pytest.fixture
def plan(plan_of: Callable[..., Plan]) -> Plan:
    return plan_of(STEPS, search="trials = 40")


def predicted(prediction: Prediction, known: Seen, points: Sequence[Point]) -> list[list[float]]:
    """The middle of what each point may have."""
    features = np.array([known.cells(point) for point in points])
    found: list[list[float]] = prediction.opinions(features, np.zeros((1, len(prediction.models))))[0].tolist()
    return found


def test_each_goal_has_the_model_that_knows_it(plan: Plan) -> None:
    known, _ = seen(plan, 40)
    prediction = Prediction(known, 0)
    latency, size, accuracy, requirement = (type(model).__name__ for model in prediction.models)
    assert latency in ("_Linear", "_Process")
    assert size == "_Constant"
    assert accuracy in ("_Process", "_Forest")
    assert requirement == accuracy
    assert prediction.better_than_constants
    _, others = seen(plan, 30, seed=1)
    found = predicted(prediction, known, others)
    wanted = [figures(point) for point in others]
    assert np.mean([abs(item[0] - own[0]) for item, own in zip(found, wanted, strict=True)]) < 0.05
    # Losses: what is to be maximized has its sign turned.
    assert np.mean([abs(-item[2] - own[2]) for item, own in zip(found, wanted, strict=True)]) < 0.03


def test_the_same_trials_and_seed_predict_the_same(plan: Plan) -> None:
    known, points = seen(plan, 20)
    assert predicted(Prediction(known, 3), known, points) == predicted(Prediction(known, 3), known, points)


def test_what_never_varies_is_certain_and_a_failure_is_the_worst(plan: Plan) -> None:
    known, points = Seen(plan), seen(plan, 12)[1]
    for place, point in enumerate(points):
        lost = place == 3
        known.add(Observation(point, None if lost else [1.0, 2.0, 0.5 + place / 100], [1.0 if lost else -1.0]))
    assert known.targets()[3].tolist() == [1.0, 2.0, -0.5, 1.0]
    found = predicted(Prediction(known, 0), known, points)
    assert all(item[:2] == pytest.approx([1.0, 2.0]) for item in found)
