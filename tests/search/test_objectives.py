"""Goals: what objectives compare, requirements as numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from optlang.interfaces import Measurement
from optlang.plan.model import Plan
from optlang.search import objectives, pareto

Make = Callable[..., Plan]


def of(metric: str, value: float, ratio: float | None = None) -> Measurement:
    return Measurement(metric, value, "", 1, value, value, ratio=ratio)


def test_latency_is_compared_by_its_ratio_to_the_baseline(plan_of: Make) -> None:
    plan = plan_of("steps { finetune }")
    latency = of("latency.p50", 0.004, ratio=4.0)
    measured = objectives.by_metric(plan, [latency, of("size", 10), of("accuracy", 0.9)])
    assert objectives.objective_values(plan, measured, {}) == [0.25, 10, 0.9]
    assert pareto.losses(plan, [0.25, 10, 0.9]) == (0.25, 10, -0.9)


def test_what_was_timed_alone_is_compared_with_the_baselines_figure(plan_of: Make) -> None:
    plan = plan_of("steps { finetune }", goals="minimize latency\nmaximize throughput")
    baseline = objectives.by_metric(plan, [of("latency.p50", 0.008), of("throughput", 125.0)])
    alone = objectives.by_metric(plan, [of("latency.p50", 0.004), of("throughput", 250.0)])
    assert objectives.objective_values(plan, alone, baseline) == [0.5, 2.0]
    assert objectives.absent(plan, alone, {}) == "latency.p50"


def test_what_is_no_number_was_not_measured(plan_of: Make) -> None:
    plan = plan_of("steps { finetune }", goals="minimize size")
    assert objectives.absent(plan, objectives.by_metric(plan, [of("size", math.nan)]), {}) == "size"


def test_throughput_is_compared_by_its_ratio_too(plan_of: Make) -> None:
    plan = plan_of("steps { finetune }", goals="maximize throughput\nminimize size")
    trial = [of("throughput", 4000.0, ratio=2.5), of("size", 10)]
    assert sorted(objectives.objective_values(plan, objectives.by_metric(plan, trial), {})) == [2.5, 10]


def test_requirements_say_by_how_much_they_are_missed(plan_of: Make) -> None:
    plan = plan_of("""
        steps { finetune }
        require accuracy >= baseline.accuracy - 1%
        require latency.p95 <= 2ms and size <= 0.5 * baseline.size
        require sparsity >= 50% or size <= 10B
    """)
    baseline = objectives.by_metric(plan, [of("accuracy", 0.99), of("size", 100)])
    found = [of("accuracy", 0.98), of("latency.p95", 0.001), of("size", 40), of("sparsity", 0.6)]
    good = objectives.by_metric(plan, found)
    assert objectives.broken(plan, good, baseline) == []
    assert all(value <= 0 for value in objectives.constraints(plan, good, baseline))
    bad = objectives.by_metric(plan, [*found, of("accuracy", 0.97), of("size", 75), of("sparsity", 0.0)])
    found = objectives.broken(plan, bad, baseline)
    assert [item.text for item in found] == [rule.text for rule in plan.requires]
    assert [round(item.by, 4) for item in found] == [round(0.01 / 0.98, 4), 0.5, 1.0]
    assert len(objectives.constraints(plan, bad, baseline)) == 4


def test_how_far_a_requirement_is_missed_is_measured_by_what_the_baseline_has(plan_of: Make) -> None:
    plan = plan_of("""
        steps { finetune }
        require accuracy >= baseline.accuracy - 4%
        require baseline.accuracy - accuracy <= 2%
        require latency.p95 <= 2ms and size <= 0.5 * baseline.size
        require sparsity >= 50% or size <= 10B
        require not (accuracy == 0.5)
    """)
    baseline = objectives.by_metric(plan, [of("accuracy", 0.98), of("size", 100), of("latency.p95", 0.001)])
    trial = objectives.by_metric(plan, [of("accuracy", 0.5), of("size", 75), of("latency.p95", 0.003)])
    found = objectives.excesses(plan, trial, baseline)
    # 44 points of 98, not 46 points of 2; the sparsity was not measured, so the size decides nothing either.
    assert [round(value, 3) for value in found] == [round(0.44 / 0.98, 3), round(0.46 / 0.98, 3), 0.5, 0.25, 0.0, 0.0]


def test_a_requirement_compares_with_the_baseline_of_the_same_measurement(plan_of: Make) -> None:
    plan = plan_of("steps { finetune }\nrequire latency <= 0.5 * baseline.latency")
    # The machine was slower while the trial ran: next to it the baseline took 10 ms, alone 6.
    baseline = objectives.by_metric(plan, [of("latency.p50", 0.006)])
    trial = replace(of("latency.p50", 0.004, ratio=2.5), baseline=0.010)
    assert objectives.broken(plan, objectives.by_metric(plan, [trial]), baseline) == []
    assert objectives.broken(plan, objectives.by_metric(plan, [replace(trial, baseline=None)]), baseline) != []


def test_a_metric_that_was_not_measured_breaks_its_requirement(plan_of: Make) -> None:
    plan = plan_of("steps { finetune }\nrequire size <= 10B")
    assert objectives.constraints(plan, {}, {}) == [1.0]


TWO = "target phone { runtime = onnxruntime }\n  target laptop { runtime = openvino }"


def test_without_a_target_the_worst_of_several_counts(plan_of: Make) -> None:
    plan = plan_of(
        "steps { finetune }\nrequire phone.size <= 10B\nrequire accuracy >= 80%", target=TWO,
        goals="minimize latency, laptop.size\n  maximize accuracy",
    )
    measured = objectives.by_metric(plan, [
        replace(of("latency.p50", 0.001, ratio=2.0), target="phone"), replace(of("size", 12), target="phone"),
        replace(of("latency.p50", 0.002, ratio=5.0), target="laptop"), replace(of("size", 8), target="laptop"),
        replace(of("accuracy", 0.9), target="phone"), replace(of("accuracy", 0.7), target="laptop"),
    ])
    # The gain that both have, the size of the one that is named, the lower of the two accuracies.
    assert objectives.objective_values(plan, measured, {}) == [1 / 2.0, 8, 0.7]
    assert measured[None, "latency.p50"].value == 0.002
    assert [round(item.by, 4) for item in objectives.broken(plan, measured, measured)] == [0.2, 0.125]
