"""What a requirement that is not met says of itself: value, limit and difference, in the metric's unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from optlang.plan.expressions import Environment, MetricRef, violations
from optlang.plan.model import Plan
from optlang.search.shortfall import shortfalls

Make = Callable[..., Plan]

BASELINE = {"accuracy": 0.975, "latency.p50": 0.004, "latency.p95": 0.005, "size": 80_000, "parameters": 20_000}
TRIAL = {
    "accuracy": 0.525, "latency.p50": 0.0026, "latency.p95": 0.0031, "size": 12_600, "size.compressed": 12_000,
    "parameters": 5_120, "loss": 1.25, "throughput": 384.5, "sparsity": 0.0,
}


def said(
    make: Make, requirement: str, trial: Mapping[str, float] = TRIAL, members: str = "steps { finetune }"
) -> str:
    plan = make(f"{members}\n  require {requirement}")
    (rule,) = plan.requires

    def metric(ref: MetricRef) -> float | None:
        return (BASELINE if ref.baseline else trial).get(ref.metric)

    environment = Environment(metric=metric)
    missed, text = shortfalls(rule.expression, environment, lambda name: plan.metric(name).dimension)
    broken = max(violations(rule.expression, environment)) > 0
    assert bool(text) is bool(missed) is broken, "what is said agrees with what the sampler gets"
    for item in missed:
        assert item.text in text
    return text


@pytest.mark.parametrize(
    ("requirement", "text"),
    [
        (
            "accuracy >= baseline.accuracy - 5%",
            "accuracy 52.5 % is below the limit 92.5 % (baseline.accuracy - 5%) by 40.0 points",
        ),
        ("accuracy >= 90%", "accuracy 52.5 % is below the limit 90.0 % by 37.5 points"),
        ("90% <= accuracy", "accuracy 52.5 % is below the limit 90.0 % by 37.5 points"),
        ("latency <= 2ms", "latency.p50 2.60 ms is above the limit 2.00 ms by 600 µs"),
        ("latency < 2.5996ms", "latency.p50 2.6000 ms is above the limit 2.5996 ms by 400 ns"),
        (
            "latency.p95 <= baseline.latency / 2",
            "latency.p95 3.10 ms is above the limit 2.00 ms (baseline.latency.p50 / 2) by 1.10 ms",
        ),
        ("latency <= baseline.latency - 2ms",
         "latency.p50 2.60 ms is above the limit 2.00 ms (baseline.latency.p50 - 2ms) by 600 µs"),
        ("size <= 10kB", "size 12.6 kB is above the limit 10.0 kB by 2.60 kB"),
        ("size <= 12599B", "size 12.600 kB is above the limit 12.599 kB by 1 B"),
        ("0.1 * baseline.size > size", "size 12.6 kB is above the limit 8.00 kB (0.1 * baseline.size) by 4.60 kB"),
        ("parameters <= 5000", "parameters 5,120 is above the limit 5,000 by 120"),
        ("loss <= 0.5", "loss 1.250 is above the limit 0.5000 by 0.7500"),
        ("throughput >= 1000", "throughput 384.5 is below the limit 1000 by 615.5"),
        ("size < 12600B", "size 12.6 kB is not below the limit 12.6 kB"),
        ("accuracy / baseline.accuracy >= 0.95",
         "accuracy / baseline.accuracy 0.5385 is below the limit 0.9500 by 0.4115"),
        ("accuracy - baseline.accuracy >= -5%",
         "accuracy - baseline.accuracy -45.0 % is below the limit -5.0 % by 40.0 points"),
        ("size.compressed <= 0.5 * size", "size.compressed 12.0 kB is above the limit 6.30 kB (0.5 * size) by 5.70 kB"),
        ("parameters == 5000", "parameters == 5000 does not hold: parameters is 5,120"),
        ("not accuracy >= 10%", "not (accuracy >= 10%) does not hold: accuracy is 52.5 %"),
        ("not not accuracy >= 60%", "accuracy 52.5 % is below the limit 60.0 % by 7.5 points"),
        ("size / sparsity <= 3MB", "size / sparsity <= 3MB does not hold: size is 12.6 kB, sparsity is 0.0 %"),
        ("macs <= 1000", "macs <= 1000 does not hold: macs was not measured"),
    ],
)
def test_a_shortfall_is_in_the_unit_of_the_metric(plan_of: Make, requirement: str, text: str) -> None:
    assert said(plan_of, requirement) == text


def test_of_and_the_side_that_is_missed_is_named_of_or_all(plan_of: Make) -> None:
    accuracy = "accuracy 52.5 % is below the limit 90.0 % by 37.5 points"
    size = "size 12.6 kB is above the limit 10.0 kB by 2.60 kB"
    latency = "latency.p50 2.60 ms is above the limit 2.00 ms by 600 µs"
    assert said(plan_of, "accuracy >= 90% and size <= 20kB") == accuracy
    assert said(plan_of, "accuracy >= 10% and size <= 10kB") == size
    assert said(plan_of, "accuracy >= 90% and size <= 10kB") == f"{accuracy}, and {size}"
    assert said(plan_of, "accuracy >= 90% or size <= 10kB or latency <= 2ms") == (
        f"{accuracy}, and {size}, and {latency} (one of them is enough)"
    )
    assert said(plan_of, "accuracy >= 90% or size <= 20kB") == ""
    assert said(plan_of, "latency <= 2ms and (accuracy >= 90% or size <= 20kB)") == latency
    assert said(plan_of, "accuracy >= 10%") == ""


def test_a_metric_of_the_study_and_an_input_are_written_as_they_are_declared(plan_of: Make) -> None:
    members = (
        "metric miou: ratio maximize\n  metric gap: time minimize\n"
        "  input lost: ratio in 0% .. 20% = 3%\n  steps { finetune }"
    )
    assert said(plan_of, "miou >= 80% - lost", {"miou": 0.71}, members) == (
        "miou 71.0 % is below the limit 77.0 % by 6.0 points"
    )
    assert said(plan_of, "gap <= 10us", {"gap": 12.5e-6}, members) == (
        "gap 12.5 µs is above the limit 10.0 µs by 2.50 µs"
    )


def test_figures_that_look_alike_get_more_digits(plan_of: Make) -> None:
    assert said(plan_of, "accuracy >= 90%", {"accuracy": 0.8999}) == (
        "accuracy 89.99 % is below the limit 90.00 % by 0.01 points"
    )
    assert said(plan_of, "latency <= 3min", {"latency.p50": 180.5}) == (
        "latency.p50 180.5 s is above the limit 180.0 s by 500 ms"
    )
