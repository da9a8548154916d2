"""Pipelines: what an application does at a point, round by round, and how the ladder finds itself in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.plan.model import Plan
from optlang.search.ablation import ablation_trials
from optlang.space.recipe import resolve, steps_of
from optlang.space.space import Space

PIPELINES = Path(__file__).parents[1] / "fixtures" / "ok" / "pipelines.opt"

POINT = {
    "here.runtime": "eager", "thin.rounds": 4, "thin.final": 0.4, "thin.rounds.prune.scope": "layer",
    "thin.rounds.recover.first": True, "careful": True, "careful.epochs": 2, "careful.first": True, "way": "quick",
    "way.quick.count": 2, "order": ("turns", "careful"), "order.careful.first": False,
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    found = load(PIPELINES).plan
    assert found is not None
    return found


def test_the_point_is_one_of_the_space(plan: Plan) -> None:
    assert Space(plan).contains(POINT)


def test_the_rounds_follow_the_cubic_schedule(plan: Plan) -> None:
    steps = [step for step in resolve(plan, POINT).steps if step.technique == "prune.channels"]
    assert [step.path for step in steps] == [f"thin.rounds[{number}].prune" for number in (1, 2, 3, 4)]
    expected = [0.4 * (1 - (1 - number / 4) ** 3) for number in (1, 2, 3, 4)]
    assert [step.settings["ratio"] for step in steps] == pytest.approx(expected)


def test_settings_reach_the_steps_inside(plan: Plan) -> None:
    steps = {step.path: step.settings for step in resolve(plan, POINT).steps}
    assert steps["careful.first"]["epochs"] == 2
    assert [steps[f"way.quick.turns[{number}].finetune"]["epochs"] for number in (1, 2)] == [1, 2]
    assert steps["order.careful.again"]["epochs"] == 6
    slow = {key: value for key, value in POINT.items() if key != "way.quick.count"}
    slow |= {"way": "slow", "way.slow.first": True, "way.slow.first.momentum": 0.6, "way.slow.last.lr": 1e-3}
    settings = {step.path: step.settings for step in resolve(plan, slow).steps}["way.slow.first"]
    assert (settings["optimizer"], settings["momentum"], settings["epochs"]) == ("sgd", 0.6, 4)


def test_what_fixed_settings_take_away_is_not_there(plan: Plan) -> None:
    paths = {knob.path for knob in plan.knobs}
    assert "way.slow.last.lr" in paths
    assert not {"careful.last.lr", "order.careful.last.lr"} & paths
    assert "order.turns[1].short.turns[1].finetune" in {step.path for step in resolve(plan, POINT).steps}


def test_the_baseline_may_apply_one(plan: Plan) -> None:
    assert [step.settings["epochs"] for step in steps_of(plan.baseline, {})] == [1, 2]


def test_the_ladder_has_the_techniques_inside(plan: Plan) -> None:
    alone = {rung.alone for rung in ablation_trials(plan, Space(plan), {})}
    assert {"prune.channels", "training.train", "training.finetune"} <= alone
