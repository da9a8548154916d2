"""Goals: dominance against brute force, requirements as numbers."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from optlang.forms import Measurement
from optlang.plan.model import Plan
from optlang.search import goals

Make = Callable[..., Plan]


def of(metric: str, value: float, ratio: float | None = None) -> Measurement:
    return Measurement(metric, value, "", 1, value, value, ratio=ratio)


@given(st.dictionaries(st.integers(), st.tuples(*[st.integers(0, 4)] * 3), max_size=25))
def test_front_is_what_comparing_all_pairs_gives(points: dict[int, tuple[int, int, int]]) -> None:
    worse = {
        a for a, x in points.items() for b, y in points.items()
        if a != b and all(j <= i for i, j in zip(x, y, strict=True)) and x != y
    }
    assert goals.front(points) == [key for key in points if key not in worse]


def test_latency_is_compared_by_its_ratio_to_the_baseline(plan_of: Make) -> None:
    plan = plan_of("steps { finetune }")
    latency = of("latency.p50", 0.004, ratio=4.0)
    measured = {"latency.p50": latency, "size": of("size", 10), "accuracy": of("accuracy", 0.9)}
    assert goals.objective_values(plan, measured) == [0.25, 10, 0.9]
    assert goals.losses(plan, measured) == (0.25, 10, -0.9)


def test_requirements_say_by_how_much_they_are_missed(plan_of: Make) -> None:
    plan = plan_of("""
        steps { finetune }
        require accuracy >= baseline.accuracy - 1%
        require latency.p95 <= 2ms and size <= 0.5 * baseline.size
        require sparsity >= 50% or size <= 10B
    """)
    baseline = {"accuracy": of("accuracy", 0.99), "size": of("size", 100)}
    good = {
        "accuracy": of("accuracy", 0.98), "latency.p95": of("latency.p95", 0.001), "size": of("size", 40),
        "sparsity": of("sparsity", 0.6),
    }
    assert goals.broken(plan, good, baseline) == []
    assert all(value <= 0 for value in goals.constraints(plan, good, baseline))
    bad = {**good, "accuracy": of("accuracy", 0.97), "size": of("size", 75), "sparsity": of("sparsity", 0.0)}
    found = goals.broken(plan, bad, baseline)
    assert [item.text for item in found] == [rule.text for rule in plan.requires]
    assert [round(item.by, 4) for item in found] == [round(0.01 / 0.98, 4), 0.5, 1.0]
    assert len(goals.constraints(plan, bad, baseline)) == 4


def test_a_metric_that_was_not_measured_breaks_its_requirement(plan_of: Make) -> None:
    plan = plan_of("steps { finetune }\nrequire size <= 10B")
    assert goals.constraints(plan, {}, {}) == [1.0]
