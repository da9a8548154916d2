"""What a run will take, by trying each technique and runtime once with two epochs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optlang.cli.app import command
from optlang.plan.model import Plan
from optlang.run.calibrate import _short, _stretched, covering
from optlang.run.forecast import PastStep, PastTrial
from optlang.run.how_long import PastRun, could_be_drawn, said
from optlang.search.ablation import AblationTrial, ablation_trials
from optlang.space.space import Space

Make = Callable[..., Plan]
STEPS = "steps { maybe finetune { epochs in [4, 10] }; maybe static; maybe dynamic }"
TARGET = "target here { runtime in { onnxruntime; openvino } }"


def rungs(plan: Plan) -> list[AblationTrial]:
    return list(ablation_trials(plan, Space(plan), {}))


def test_each_technique_and_each_runtime_is_tried_once(plan_of: Make) -> None:
    found = list(covering(rungs(plan_of(STEPS, target=TARGET))))
    assert [(rung.alone, rung.recipe.label) for rung in found] == [
        ("none", "onnxruntime"), ("none", "openvino"), ("training.finetune", "onnxruntime"),
        ("quant.static", "onnxruntime"), ("quant.dynamic", "onnxruntime"),
    ]


def training(plan: Plan) -> AblationTrial:
    return next(rung for rung in rungs(plan) if rung.alone == "training.finetune")


def tried(rung: AblationTrial, seconds: float) -> PastTrial:
    step = _short(rung).recipe.steps[0]
    return PastTrial("ladder", rung.recipe.label, seconds + 1.0, [
        PastStep(step.technique, step.settings, False, seconds),
    ])


def test_all_epochs_take_what_the_second_took_and_what_comes_on_top_once(plan_of: Make) -> None:
    rung = training(plan_of(STEPS.replace("in [4, 10]", "= 10"), target=TARGET))
    short = _short(rung)
    assert short.point is None
    assert short.recipe.steps[0].epochs == 2
    # 5 s before the first epoch, 2 s for each.
    found = _stretched(tried(rung, 9.0), rung, {"finetune": [7.0, 9.0]})
    assert found.steps[0].epochs == 10
    assert found.steps[0].seconds == 5.0 + 10 * 2.0
    assert found.seconds == found.steps[0].seconds + 1.0
    # Three rounds of two epochs each become three of ten.
    rounds = _stretched(tried(rung, 17.0), rung, {"finetune": [7.0, 9.0, 11.0, 13.0, 15.0, 17.0]})
    assert rounds.steps[0].seconds == 5.0 + 3 * 10 * 2.0


def test_without_a_curve_all_of_a_step_grows_with_its_epochs(plan_of: Make) -> None:
    rung = training(plan_of(STEPS.replace("in [4, 10]", "= 10"), target=TARGET))
    assert _stretched(tried(rung, 9.0), rung, {}).steps[0].seconds == 45.0


def test_what_was_in_the_cache_is_left_as_it_is(plan_of: Make) -> None:
    rung = training(plan_of(STEPS.replace("in [4, 10]", "= 10"), target=TARGET))
    step = _short(rung).recipe.steps[0]
    past = PastTrial("ladder", "onnxruntime", 1.0, [PastStep(step.technique, step.settings, True, 0.0)])
    assert _stretched(past, rung, {}).seconds == 1.0


def test_searched_trials_take_what_their_techniques_take(plan_of: Make) -> None:
    plan = plan_of(STEPS, target="target here { runtime = onnxruntime }")
    bare, *alone = rungs(plan)
    past: list[Any] = [PastTrial("baseline", "eager", 2.0, ()), PastTrial("ladder", bare.recipe.label, 1.0, ())]
    for rung in alone:
        (step,) = rung.recipe.steps
        took = 2.0 * step.epochs or 1.0
        past.append(PastTrial("ladder", rung.recipe.label, took + 1.0, [
            PastStep(step.technique, step.settings, False, took),
        ]))
    drawn = could_be_drawn(Space(plan), 50)
    assert len(drawn) == 50
    assert could_be_drawn(Space(plan), 50) == drawn
    lines = said(plan, PastRun(None, True, past, 3.0), [rung.recipe for rung in rungs(plan)], 10, drawn)
    assert lines[1].startswith("  about "), "each technique's time is known"
    # 50 trials build and measure for 1 s each; each of the trainings and quantizations that they share is done once.
    chains = {
        str(recipe.steps[:end]): recipe.steps[end - 1]
        for recipe in drawn for end in range(1, len(recipe.steps) + 1)
    }
    work = sum(2.0 * step.epochs or 1.0 for step in chains.values())
    assert f"10 searched trials about {(50.0 + work) / 5:.1f} s" in lines[4]
    assert lines[-1].startswith(f"  as {len(past)} trials took just now, two epochs for each training")


STUDY = """optlang 1
study tried {
  model net = zoo.tabular_mlp(inputs = 10, outputs = 1, width = 64)
  data progress = zoo.diabetes(seed = 0)
  baseline { train { epochs = 2 } }
  steps { maybe finetune { epochs in [2, 40] }; maybe dynamic }
  target here { runtime = onnxruntime }
  measure { rounds = 2; front_rounds = 2; front_processes = 1; round_seconds = 10ms; round_calls = 5 }
  minimize mse, size
  search { trials = 4; seed = 1 }
}
"""


@pytest.mark.slow
def test_plan_measures_and_keeps_nothing_but_what_the_run_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, db, home = tmp_path / "tried.opt", tmp_path / "x.duckdb", tmp_path / "home"
    file.write_text(STUDY)
    place = ["--db", str(db), "--home", str(home)]
    assert command(["plan", str(file), "--measure", *place]) == 0
    captured = capsys.readouterr()
    assert re.search(r"^  about [\d.]+ (s|min) in all$", captured.out, re.MULTILINE), captured.out
    assert "  as 4 trials took just now" in captured.out
    assert not db.exists()
    assert list((home / "artifacts").glob("*")) == []
    assert any((home / "cache").rglob("*.safetensors")), "the run finds the trained baseline"


def test_what_is_printed_for_programs_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tried.opt"
    file.write_text(STUDY)
    assert command(["plan", str(file), "--measure", "--json"]) == 2
    assert "exclude each other" in capsys.readouterr().err
