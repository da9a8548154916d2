"""Recipes: what a point really does."""

from __future__ import annotations

from collections.abc import Callable

from optlang.plan.model import Plan
from optlang.space.recipe import resolve

Make = Callable[..., Plan]


def test_rounds_are_told_apart_and_may_compute(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          repeat rounds in 1 .. 3 {
            channels { ratio = 60% * rounds.round / rounds }
            finetune { epochs = 1 + rounds.round }
          }
        }
    """, target="target here { device = cpu; runtime = onnxruntime }")
    recipe = resolve(plan, {"rounds": 3})
    assert [step.path for step in recipe.steps] == [
        f"rounds[{number}].{name}" for number in (1, 2, 3) for name in ("channels", "finetune")
    ]
    ratios = [step.settings["ratio"] for step in recipe.steps if step.technique == "prune.channels"]
    assert [round(float(str(ratio)), 9) for ratio in ratios] == [0.2, 0.4, 0.6]
    assert [step.settings["epochs"] for step in recipe.steps if step.technique != "prune.channels"] == [2, 3, 4]


def test_a_false_when_removes_the_step(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          maybe channels { ratio = 50% }
          finetune { epochs = 2 } when channels
        }
    """, target="target here { device = cpu; runtime = onnxruntime }")
    assert [step.technique for step in resolve(plan, {"channels": False}).steps] == []
    assert [step.technique for step in resolve(plan, {"channels": True}).steps] == [
        "prune.channels", "training.finetune",
    ]


def test_a_setting_that_does_not_apply_is_left_out(plan_of: Make) -> None:
    plan = plan_of(
        "steps { static { calibrator in {minmax, entropy}; samples = 64 } }",
        target="target here { device = cpu; runtime = onnxruntime }",
    )
    minmax = resolve(plan, {"static.calibrator": "minmax"}).steps[0].settings
    entropy = resolve(plan, {"static.calibrator": "entropy"}).steps[0].settings
    assert "bins" not in minmax
    assert entropy["bins"] == 2048


def test_effect_does_not_depend_on_labels(plan_of: Make) -> None:
    target = "target here { device = cpu; runtime = onnxruntime }"
    one = resolve(plan_of("steps { first = static { samples = 64 } }", target=target), {})
    two = resolve(plan_of("steps { second = { static { samples = 64 } } }", target=target), {})
    other = resolve(plan_of("steps { static { samples = 65 } }", target=target), {})
    assert one.effect == two.effect != other.effect
