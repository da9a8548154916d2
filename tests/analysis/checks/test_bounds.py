"""What is decided of a condition before anything is measured: never against what a measured value comes to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optlang.analysis.checks.bounds import Ranges, decided, interval, of_metric
from optlang.plan.expressions import Binary, Const, Environment, Expression, KnobRef, MetricRef, Unary, evaluate, holds
from optlang.plan.intervals import ANY, Interval
from optlang.plan.model import FloatDomain, Knob, Metric

METRICS = {
    name: Metric(name=name, dimension=dimension, direction="maximize", task=task)  # type: ignore[arg-type]
    for name, dimension, task in (
        ("accuracy", "ratio", True), ("sparsity", "ratio", False),
        ("throughput", "number", False), ("r2", "number", True),
    )
}
SPACE = Ranges(METRICS)
NUMBERS = st.sampled_from([-3.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.0, 95.0])
TERMS: Any = st.recursive(
    st.builds(lambda value: Const(value=value), NUMBERS)
    | st.builds(lambda name, of: MetricRef(metric=name, baseline=of), st.sampled_from(list(METRICS)), st.booleans()),
    lambda inner: st.builds(lambda a: Unary(operator="-", operand=a), inner)
    | st.builds(lambda o, a, b: Binary(operator=o, left=a, right=b), st.sampled_from("+-*/"), inner, inner),
    max_leaves=5,
)
CONDITIONS: Any = st.recursive(
    st.builds(
        lambda o, a, b: Binary(operator=o, left=a, right=b), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
        TERMS, TERMS,
    ),
    lambda inner: st.builds(lambda a: Unary(operator="not", operand=a), inner)
    | st.builds(lambda o, a, b: Binary(operator=o, left=a, right=b), st.sampled_from(["and", "or"]), inner, inner),
    max_leaves=3,
)


def measured(values: tuple[float, ...]) -> Environment:
    """The metrics and the baseline's, where each ratio is one and each measured value not negative."""
    numbers = dict(zip([(name, base) for name in METRICS for base in (False, True)], values, strict=True))
    return Environment(metric=lambda ref: numbers[ref.metric, ref.baseline])


SHARES, COUNTS = st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 3.0, 1e6])
REALS = st.sampled_from([-1e6, -1.0, 0.0, 7.0])
VALUES = st.tuples(SHARES, SHARES, SHARES, SHARES, COUNTS, COUNTS, REALS, REALS)


@given(TERMS, VALUES)
@settings(max_examples=300)
def test_a_number_lies_in_its_interval(term: Expression, values: tuple[float, ...]) -> None:
    found = interval(term, SPACE)
    try:
        value = evaluate(term, measured(values))
    except ZeroDivisionError:
        return
    assert isinstance(value, float)
    slack = 1e-9 * max(1.0, abs(value))
    assert found.low - slack <= value <= found.high + slack


@given(CONDITIONS, VALUES)
@settings(max_examples=500)
def test_what_is_decided_is_what_it_comes_to(condition: Expression, values: tuple[float, ...]) -> None:
    found = decided(condition, SPACE)
    try:
        value = evaluate(condition, measured(values))
    except ZeroDivisionError:
        return
    assert found is None or found == value


@pytest.mark.parametrize(("metric", "expected"), [
    (METRICS["accuracy"], Interval(0, 1)), (METRICS["throughput"], Interval(0, float("inf"))), (METRICS["r2"], ANY),
])
def test_what_a_metric_can_be(metric: Metric, expected: Interval) -> None:
    assert of_metric(metric) == expected


def test_a_knob_that_may_be_absent_is_never_sure_to_hold() -> None:
    knob = Knob(path="a", column="a", role="value", domain=FloatDomain(low=0.1, high=0.5), dimension="ratio")
    space = Ranges(knobs={"a": knob})
    above = Binary(operator=">", left=KnobRef(path="a"), right=Const(value=0.6))
    below = Binary(operator="<", left=KnobRef(path="a"), right=Const(value=0.6))
    assert decided(above, space) is False
    assert decided(below, space) is None
    assert not holds(below, Environment(knob=lambda _: None))
