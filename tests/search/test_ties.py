"""Which trials tie: intervals that overlap in every goal; what has none is alike within a hundredth."""

import pytest

from optlang.interfaces import Measurement
from optlang.plan.model import Metric
from optlang.search.ties import spreads, ties
from tests.store.example_study import METRICS, make_plan


def spread(metric: str, item: Measurement, way: str) -> tuple[float, float]:
    metrics = (*METRICS, Metric(name="sparsity", dimension="ratio", direction="maximize", task=False))
    plan = make_plan(objectives=[(metric, way)], metrics=metrics)
    (found,) = spreads(plan, {(None, metric): item}, {})
    return found


@pytest.mark.parametrize(("item", "way", "expected"), [
    (Measurement("latency.p50", 2.0, "s", 5, 1.0, 3.0, "", 4.0, 3.2, 5.0, 8.0), "minimize", (0.2, 0.3125)),
    (Measurement("throughput", 2.0, "", 5, 1.0, 3.0, "", 4.0, 3.2, 5.0, 0.5), "maximize", (3.2, 5.0)),
    (Measurement("accuracy", 0.9, "ratio", 450, 0.8, 0.95, "", 0.9, 0.85, 0.92, 1.0), "maximize", (0.85, 0.92)),
    (Measurement("accuracy", 0.9, "ratio", 450, 0.8, 0.95, "", None, None, None, None), "maximize", (0.8, 0.95)),
    (Measurement("loss", 0.3, "", 450, 0.1, 0.4, "", 0.5, 0.25, 0.75, 0.15), "minimize", (0.2, 0.6)),
    (Measurement("size", 1000.0, "B", 1, 1000.0, 1000.0), "minimize", (995.0, 1005.0)),
    (Measurement("sparsity", 0.5, "ratio", 1, 0.5, 0.5), "maximize", (0.4975, 0.5025)),
    (Measurement("latency.p50", 2.0, "s", 5, 1.0, 3.0, "", 4.0, None, None, 8.0), "minimize", (0.25, 0.25)),
])
def test_an_objective_lies_within_the_interval_of_what_is_compared(
    item: Measurement, way: str, expected: tuple[float, float]
) -> None:
    assert spread(item.metric, item, way) == pytest.approx(expected)


def test_the_best_in_the_first_goal_stands_for_those_that_it_ties_with() -> None:
    losses = {7: (1.0, 5.0), 3: (2.0, 4.0), 5: (3.0, 3.0), 4: (2.5, 5.0), 9: (9.0, 9.0)}
    around = {number: [(a - 0.6, a + 0.6), (b - 2, b + 2)] for number, (a, b) in losses.items()}
    # 3 ties with both of its neighbours, which do not tie with each other; 4 is dominated by 3.
    assert ties({7, 3, 5}, losses, around) == {3: 7, 4: 5}
    assert ties({7, 3, 5}, losses, {number: [(a, a), (b, b)] for number, (a, b) in losses.items()}) == {}


def test_of_equal_trials_the_first_stands_for_all() -> None:
    losses = dict.fromkeys((8, 2, 6), (1.0, 1.0))
    assert ties({2, 6, 8}, losses, {key: [(1.0, 1.0), (1.0, 1.0)] for key in losses}) == {6: 2, 8: 2}
