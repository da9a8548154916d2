"""The library's pipelines: the settings that their steps get at a point, round by round."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.plan.model import Plan
from optlang.space.recipe import Recipe, resolve
from optlang.space.space import Point

OK = Path(__file__).parents[1] / "fixtures" / "ok"


def plan_of(name: str) -> Plan:
    found = load(OK / f"{name}.opt").plan
    assert found is not None
    return found


def settings(recipe: Recipe, setting: str) -> list[object]:
    return [step.settings[setting] for step in recipe.steps if setting in step.settings]


class TestIterative:
    @pytest.mark.parametrize(
        ("schedule", "expected"),
        [("cubic", [0.9 * (1 - 0.75**3), 0.9 * (1 - 0.5**3), 0.9 * (1 - 0.25**3), 0.9]),
         ("linear", [0.225, 0.45, 0.675, 0.9])],
    )
    def test_the_schedule(self, schedule: str, expected: list[float]) -> None:
        point: Point = {
            "here.runtime": "eager", "sparse": "gradual", "sparse.gradual.final": 0.9, "sparse.gradual.rounds": 4,
            "sparse.gradual.schedule": schedule, "sparse.gradual.scope": "global",
        }
        recipe = resolve(plan_of("iterative"), point)
        assert settings(recipe, "sparsity") == pytest.approx(expected)
        assert settings(recipe, "sparsity")[-1] == 0.9  # exactly
        assert settings(recipe, "scope") == ["global"] * 4
        assert [step.technique for step in recipe.steps] == ["prune.magnitude", "training.finetune"] * 4

    @pytest.mark.parametrize(("branch", "first"), [("slow", 0.0495), ("least", 0.01)])
    def test_the_first_round_stays_in_what_magnitude_allows(self, branch: str, first: float) -> None:
        recipe = resolve(plan_of("iterative"), {"here.runtime": "eager", "sparse": branch})
        assert settings(recipe, "sparsity")[0] == pytest.approx(first)
        assert len(recipe.steps) == 40


class TestLottery:
    def test_each_round_prunes_what_is_left_and_sets_it_back(self) -> None:
        recipe = resolve(plan_of("lottery"), {"sparse": "ticket"})
        assert [step.technique for step in recipe.steps] == ["prune.magnitude", "prune.rewind", "training.train"] * 2
        assert settings(recipe, "sparsity") == [0.5, 0.5]
        assert settings(recipe, "relative_to") == ["remaining", "remaining"]
        assert settings(recipe, "to") == ["start", "start"]

    def test_an_earlier_state_from_a_file(self) -> None:
        recipe = resolve(plan_of("lottery"), {"sparse": "late"})
        checkpoints = settings(recipe, "checkpoint")
        assert len(checkpoints) == 2
        assert checkpoints[0]["weights"] == "digits.safetensors"  # type: ignore[index]
        assert [step.settings["to"] for step in recipe.steps if "to" in step.settings] in ([], [None, None])


class TestSlim:
    @pytest.mark.parametrize("most", [0.2, 0.5, 0.8])
    @pytest.mark.parametrize("rounds", [1, 2, 4])
    def test_its_rounds_take_equal_numbers_and_together_what_was_asked(self, most: float, rounds: int) -> None:
        recipe = resolve(plan_of("recommended"), {"way": "slim", "way.slim.most": most, "way.slim.rounds": rounds})
        assert [step.technique for step in recipe.steps] == ["prune.channels", "training.finetune"] * rounds
        left = [1.0]
        for ratio in settings(recipe, "ratio"):
            assert isinstance(ratio, float)
            left.append(left[-1] * (1 - ratio))
        assert left[-1] == pytest.approx(1 - most)
        assert [before - after for before, after in pairwise(left)] == pytest.approx([most / rounds] * rounds)


class TestRecommended:
    @pytest.mark.parametrize(
        ("smaller", "precision", "techniques"),
        [
            ("none", "none", []),
            ("taught", "static", ["training.distill", "quant.static"]),
            ("pruned", "qat", ["prune.channels", "training.finetune"] * 2 + ["quant.qat"]),
        ],
    )
    def test_the_order_of_its_steps(self, smaller: str, precision: str, techniques: list[str]) -> None:
        inside = "way.recommended"
        point = {"way": "recommended", f"{inside}.smaller": smaller, f"{inside}.precision": precision}
        recipe = resolve(plan_of("recommended"), point)
        assert [step.technique for step in recipe.steps] == techniques
        assert set(settings(recipe, "epochs")) <= {1}
        assert settings(recipe, "width") == ([0.5] if smaller == "taught" else [])
