"""The ladder: each technique alone, on each runtime that can take it."""

from __future__ import annotations

from collections.abc import Callable

from optlang.plan.model import Plan
from optlang.search.ladder import baseline_recipe, locate, rungs
from optlang.search.recipe import resolve
from optlang.search.space import Space

Make = Callable[..., Plan]

STEPS = """
steps {
  repeat rounds in 0 .. 2 {
    prune   = channels { ratio in 10% .. 50% step 10% }
    recover = finetune { lr in 1e-4 .. 1e-2 log }
  }
  precision in { none; dynamic; static { samples in [64, 256] } }
}
"""


def test_every_technique_stands_alone_on_every_runtime_that_takes_it(plan_of: Make) -> None:
    plan = plan_of(STEPS)
    found = [(rung.alone, rung.recipe.label) for rung in rungs(plan, Space(plan), {})]
    assert found == [
        ("none", "onnxruntime"), ("none", "openvino"),
        ("training.finetune", "eager"),
        ("quant.dynamic", "onnxruntime"), ("quant.dynamic", "openvino"),
        ("quant.static", "onnxruntime"), ("quant.static", "openvino"),
        ("prune.channels", "eager"), ("prune.channels", "onnxruntime"), ("prune.channels", "openvino"),
    ]


def test_pruning_is_followed_by_recovery(plan_of: Make) -> None:
    plan = plan_of("steps { channels { ratio = 30% } }")
    rung = next(rung for rung in rungs(plan, Space(plan), {}) if rung.alone == "prune.channels")
    assert [step.technique for step in rung.recipe.steps] == ["prune.channels", "training.finetune"]
    assert rung.recipe.steps[0].settings["ratio"] == 0.5
    assert rung.point is None


def test_what_makes_no_sense_alone_is_not_tried_alone(plan_of: Make) -> None:
    plan = plan_of("steps { lottery { rounds = 2 } }")
    alone = {rung.alone for rung in rungs(plan, Space(plan), {})}
    assert alone == {"none", "training.train", "prune.magnitude"}


def test_a_rung_inside_the_space_is_its_point(plan_of: Make) -> None:
    plan = plan_of(STEPS)
    space = Space(plan)
    for rung in rungs(plan, space, {}):
        if rung.alone == "training.finetune":
            assert rung.point is None
            continue
        assert rung.point is not None
        assert space.contains(rung.point)
        assert resolve(plan, rung.point).effect == rung.recipe.effect


def test_the_baseline_is_located_where_the_space_has_it(plan_of: Make) -> None:
    plan = plan_of(STEPS)
    assert locate(plan, Space(plan), baseline_recipe(plan)) == {
        "here.runtime": "eager", "rounds": 0, "precision": "none",
    }
    always = plan_of("steps { channels }")
    assert locate(always, Space(always), baseline_recipe(always)) is None


def test_a_missing_runtime_has_no_rung(plan_of: Make) -> None:
    plan = plan_of(STEPS)
    missing = {"here.runtime.openvino": "not installed"}
    space = Space(plan, missing)
    assert {rung.recipe.label for rung in rungs(plan, space, missing)} == {"eager", "onnxruntime"}


def test_with_several_targets_each_runtime_is_there_once(plan_of: Make) -> None:
    plan = plan_of(
        "steps { maybe static; maybe half }",
        target="target one { runtime in { eager; onnxruntime; openvino } }\n  target two { runtime = onnxruntime }",
    )
    space = Space(plan)
    found = list(rungs(plan, space, {}))
    assert baseline_recipe(plan).label == "one.eager, two.eager"
    bare = [rung for rung in found if rung.alone == "none"]
    assert [rung.recipe.label for rung in bare] == [
        "one.eager, two.onnxruntime", "one.onnxruntime, two.onnxruntime", "one.openvino, two.onnxruntime",
    ]
    assert all(rung.point is not None for rung in bare)
    # Where a technique does not suit one target, it is measured on the other; no point of the space is so.
    static = [rung for rung in found if rung.alone == "quant.static"]
    assert [rung.recipe.label for rung in static] == [
        "two.onnxruntime", "one.onnxruntime, two.onnxruntime", "one.openvino, two.onnxruntime",
    ]
    assert [rung.point is not None for rung in static] == [False, True, True]


def test_a_branch_that_is_not_there_is_no_point_of_a_rung(plan_of: Make) -> None:
    members = """
        input quick: bool = false "no quantization"
        steps {
          maybe channels
          precision in { none; dynamic when channels; static }
        }
    """
    target = "target here { runtime in { onnxruntime; eager when not quick } }"
    plan = plan_of(members, target=target)
    points = {(rung.alone, rung.recipe.label): rung.point for rung in rungs(plan, Space(plan), {})}
    # On the ladder `dynamic` stands without `channels`: the study has no such point.
    assert points["quant.dynamic", "onnxruntime"] is None
    assert points["quant.static", "onnxruntime"] == {
        "here.runtime": "onnxruntime", "channels": False, "precision": "static"
    }
    quick = plan_of(members, target=target, overrides={"quick": "true"})
    assert {rung.recipe.label for rung in rungs(quick, Space(quick), {})} == {"onnxruntime"}
