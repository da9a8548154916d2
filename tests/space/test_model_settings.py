"""Settings that are models: their knobs, what a technique gets of them, and where the ladder finds them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.interfaces import Factory
from optlang.plan.model import Plan
from optlang.report.plan.describe import LadderCost, describe
from optlang.report.plan.describe import text as said
from optlang.search.ablation import ablation_trials
from optlang.space.recipe import resolve
from optlang.space.space import Space

MODELS = Path(__file__).parents[1] / "fixtures" / "ok" / "models.opt"


@pytest.fixture(scope="module")
def plan() -> Plan:
    found = load(MODELS).plan
    assert found is not None
    return found


SMALL = {
    "here.runtime": "eager", "lesson": "small", "lesson.small.student.width": 8, "lesson.small.teachers.net.depth": 3,
    "lesson.small.teachers.net.name": "deep", "lesson.small.teachers.net_2.depth": 2, "lesson.small.weight": 0.3,
}


def test_an_argument_has_a_path_and_a_column(plan: Plan) -> None:
    columns = {knob.path: knob.column for knob in plan.knobs}
    assert columns.keys() == SMALL.keys()
    assert columns["lesson.small.student.width"] == "width"
    assert columns["lesson.small.teachers.net_2.depth"] == "net_2.depth"


def test_a_technique_gets_plain_json(plan: Plan) -> None:
    settings = resolve(plan, SMALL).steps[0].settings
    assert settings["student"] == {"calls": "optlang.zoo.digits:cnn", "arguments": {"width": 8}, "weights": None}
    assert settings["teachers"] == (
        {"calls": "optlang.zoo.digits:cnn", "arguments": {"width": 32}, "weights": None},
        {"calls": "parts.py:net", "arguments": {"depth": 3, "name": "deep"}, "weights": None},
        {"calls": "parts.py:net", "arguments": {"depth": 2}, "weights": None},
    )
    assert settings["weight"] == 0.3
    assert json.loads(json.dumps(settings))["student"]["arguments"]["width"] == 8


def test_one_model_may_stand_for_several_and_none_for_one(plan: Plan) -> None:
    settings = resolve(plan, {"here.runtime": "eager", "lesson": "alone"}).steps[0].settings
    weights = {"calls": "optlang.zoo.digits:cnn", "arguments": {"width": 64}, "weights": "digits.safetensors"}
    assert settings == {"student": None, "teachers": (weights,)}


def test_it_is_what_a_factory_is_made_of(plan: Plan) -> None:

    student = resolve(plan, SMALL).steps[0].settings["student"]
    assert isinstance(student, dict)
    assert Factory(**student) == Factory("optlang.zoo.digits:cnn", {"width": 8})
    assert asdict(Factory(**student)) == {**student, "weights_key": None, "weights_strict": True}


def test_another_argument_is_another_effect(plan: Plan) -> None:
    assert resolve(plan, SMALL).effect != resolve(plan, {**SMALL, "lesson.small.student.width": 16}).effect


def test_the_ladder_takes_from_the_study_what_has_no_default(plan: Plan) -> None:
    found = [rung for rung in ablation_trials(plan, Space(plan), {}) if rung.alone.endswith(".teach")]
    assert found
    for rung in found:
        assert rung.recipe.steps[0].settings == resolve(
            plan, {"here.runtime": "eager", "lesson": "alone"}
        ).steps[0].settings
        assert rung.point is not None
        assert rung.point["lesson"] == "alone"


def test_the_plan_says_the_models(plan: Plan) -> None:
    text = said(describe(plan, Space(plan).size(), LadderCost()))
    assert "student = zoo.digits_cnn(width in [8, 16])" in text
    assert 'teachers = [zoo.digits_cnn(width = 64, weights = "digits.safetensors")]' in text
