"""The runtimes without any step: with which the techniques are tried first, and which is left out of most trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from optlang.plan.model import Plan
from optlang.search.ablation import ablation_trials
from optlang.search.bare_runtimes import FAR, NEAR, Bare, beaten, divided, first_of
from optlang.search.hopeless import LeftOut
from optlang.space.recipe import resolve
from optlang.space.space import Space

Make = Callable[..., Plan]
STEPS = "steps { precision in { none; dynamic; static }; maybe finetune { epochs in 1 .. 3 } }"


def bare(*trials: tuple[str, Sequence[float]], missed: Sequence[Sequence[float]] = ()) -> list[Bare]:
    """Trials with latency (as a share of the baseline's), size and accuracy."""
    return [
        Bare(number, runtime, values, missed[number] if missed else [])
        for number, (runtime, values) in enumerate(trials)
    ]


@pytest.fixture
def plan(plan_of: Make) -> Plan:
    return plan_of(STEPS)


def test_a_runtime_that_is_far_worse_in_one_goal_and_better_in_none_is_beaten(plan: Plan) -> None:
    (found,) = beaten(plan, bare(
        ("eager", [1.0, 79_200, 0.998]), ("onnxruntime", [0.133, 78_100, 0.998]), ("openvino", [0.2, 78_100, 0.998])
    ))
    assert found.text == (
        "eager is left out of three in four searched trials: without any step onnxruntime is ×7.5 better in "
        "latency.p50, and no worse in any other goal"
    )


@pytest.mark.parametrize(("slow", "fast"), [
    pytest.param([1.0, 100, 0.9], [1 / FAR + 0.01, 100, 0.9], id="not far"),
    pytest.param([1.0, 100, 0.9], [0.1, 100 * (1 + 2 * NEAR), 0.9], id="a larger file"),
    pytest.param([1.0, 100, 0.9], [0.1, 100, 0.87], id="fewer right answers"),
])
def test_otherwise_none_is(plan: Plan, slow: Sequence[float], fast: Sequence[float]) -> None:
    assert not beaten(plan, bare(("eager", slow), ("onnxruntime", fast)))


def test_what_rounding_changes_is_no_difference(plan: Plan) -> None:
    assert beaten(plan, bare(("eager", [1.0, 100, 0.9]), ("onnxruntime", [0.1, 101, 0.891])))


def test_a_faster_runtime_that_misses_a_requirement_beats_none(plan: Plan) -> None:
    trials = (("eager", [1.0, 100, 0.9]), ("onnxruntime", [0.1, 100, 0.9]))
    assert not beaten(plan, bare(*trials, missed=[[-0.1], [0.1]]))
    assert beaten(plan, bare(*trials, missed=[[0.2], [0.1]]))


def test_goals_without_a_ratio_are_compared_all_the_same(plan_of: Make) -> None:
    plan = plan_of(STEPS, goals="minimize latency\n  maximize agreement.cosine")
    assert beaten(plan, bare(("eager", [1.0, -0.5]), ("onnxruntime", [0.1, -0.5])))
    assert not beaten(plan, bare(("eager", [0.1, 0.0]), ("onnxruntime", [0.1, 0.5])))
    assert not beaten(plan, bare(("eager", [1.0, -0.5]), ("onnxruntime", [0.1, -0.6])))


def test_a_beaten_runtime_is_left_out_of_most_trials_whatever_meets_the_requirements(plan: Plan) -> None:
    found = beaten(plan, bare(("eager", [1.0, 100, 0.9]), ("onnxruntime", [0.1, 100, 0.9])))
    left = LeftOut(plan, Space(plan), found)
    eager, other = (
        resolve(plan, {"here.runtime": name, "precision": "none", "finetune": False}) for name in ("eager", "openvino")
    )
    left.tell(eager)
    out = [bool(left.of(number)) for number in range(80)]
    assert 48 < sum(out) < 72
    assert all(item.has(plan, eager) and not item.has(plan, other) for item in found)


def test_the_only_runtime_of_a_space_is_never_left_out(plan_of: Make) -> None:
    plan = plan_of(STEPS, target="target here { runtime = eager }")
    found = beaten(plan, bare(("eager", [1.0, 100, 0.9]), ("onnxruntime", [0.1, 100, 0.9])))
    assert not any(LeftOut(plan, Space(plan), found).of(number) for number in range(20))


def test_the_first_is_the_one_with_the_best_places_that_meets_the_requirements(plan: Plan) -> None:
    trials = (("eager", [1.0, 100, 0.9]), ("onnxruntime", [0.1, 99, 0.9]), ("openvino", [0.2, 98, 0.9]))
    assert first_of(plan, bare(*trials)) == "onnxruntime"
    assert first_of(plan, bare(*trials, missed=[[0], [1], [0]])) == "openvino"
    assert first_of(plan, []) is None


def test_each_technique_comes_once_before_the_search(plan: Plan) -> None:
    trials = [item for item in ablation_trials(plan, Space(plan), {}) if item.alone != "none"]
    before, after = divided(trials, "openvino")
    assert [(item.alone, item.recipe.label) for item in before] == [
        ("training.finetune", "eager"), ("quant.dynamic", "openvino"), ("quant.static", "openvino"),
    ]
    assert [(item.alone, item.recipe.label) for item in after] == [
        (technique, name) for technique in ("quant.dynamic", "quant.static") for name in ("eager", "onnxruntime")
    ]
    assert divided(trials, None)[0] == [trials[0], trials[1], trials[4]]
    assert divided([], "eager") == ([], [])
