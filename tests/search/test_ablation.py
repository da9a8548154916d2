"""The ladder: each technique alone, on each runtime that can take it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.plan.model import Plan
from optlang.search.ablation import AblationTrial, ablation_trials, baseline_recipe, reference_path
from optlang.space.locate import locate
from optlang.space.recipe import resolve
from optlang.space.space import Space

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
    found = [(rung.alone, rung.recipe.label) for rung in ablation_trials(plan, Space(plan), {})]
    assert found == [
        ("none", "onnxruntime"), ("none", "openvino"),
        ("training.finetune", "eager"),
        ("quant.dynamic", "eager"), ("quant.dynamic", "onnxruntime"), ("quant.dynamic", "openvino"),
        ("quant.static", "eager"), ("quant.static", "onnxruntime"), ("quant.static", "openvino"),
        ("prune.channels", "eager"), ("prune.channels", "onnxruntime"), ("prune.channels", "openvino"),
    ]


def test_pruning_is_followed_by_recovery(plan_of: Make) -> None:
    plan = plan_of("steps { channels { ratio = 30% } }")
    rung = next(rung for rung in ablation_trials(plan, Space(plan), {}) if rung.alone == "prune.channels")
    assert [step.technique for step in rung.recipe.steps] == ["prune.channels", "training.finetune"]
    assert rung.recipe.steps[0].settings["ratio"] == 0.3
    # The study has no training of its own: the declared one follows, and the study has no such point.
    assert rung.recipe.steps[1].settings["epochs"] == 3
    assert rung.point is None


OWN = """
optlang 1

technique thin "a pruner of one's own" {
  calls "own.py:thin"
  param share: ratio in 1% .. 90% = 40%
  needs training
  cost_depends_on weights
  recovered_by RECOVERY
}

technique heal "a training of one's own" {
  calls "own.py:heal"
  param turns: int in 1 .. 9 = 4
  needs training
  traits weights_only
}

study own {
  model net  = zoo.digits_cnn()
  data  seen = zoo.digits()
  target here { runtime = onnxruntime }
  steps { STEPS }
  minimize latency
}
"""


def own_pruner(folder: Path, recovery: str, steps: str) -> AblationTrial:
    path = folder / "own.opt"
    path.write_text(OWN.strip().replace("RECOVERY", recovery).replace("STEPS", steps))
    (folder / "own.py").write_text("def thin(state, settings, context):\n    return state\n\n\nheal = thin\n")
    plan = load(path).plan
    assert plan is not None
    (found,) = (rung for rung in ablation_trials(plan, Space(plan), {}) if rung.alone == "own.thin")
    return found


@pytest.mark.parametrize(("recovery", "technique", "setting"), [
    ("finetune", "training.finetune", ("epochs", 3)), ("training.finetune", "training.finetune", ("epochs", 3)),
    ("heal", "own.heal", ("turns", 4)),
])
def test_a_pruner_of_ones_own_is_followed_by_its_declared_recovery(
    tmp_path: Path, recovery: str, technique: str, setting: tuple[str, int]
) -> None:
    trial = own_pruner(tmp_path, recovery, "thin")
    assert [step.technique for step in trial.recipe.steps] == ["own.thin", technique]
    assert trial.recipe.steps[1].settings[setting[0]] == setting[1]
    assert trial.point is None


def test_the_studys_own_training_follows_a_pruner_of_ones_own(tmp_path: Path) -> None:
    trial = own_pruner(tmp_path, "heal", "maybe thin; maybe static; maybe train { epochs in 2 .. 20 }")
    assert [step.technique for step in trial.recipe.steps] == ["own.thin", "training.train"]
    assert trial.point is not None
    trial = own_pruner(tmp_path, "finetune", "maybe thin; maybe heal { turns in 5 .. 9 }")
    assert [(step.technique, step.settings) for step in trial.recipe.steps][1:] == [("own.heal", {"turns": 5})]


def test_what_makes_no_sense_alone_is_not_tried_alone(plan_of: Make) -> None:
    plan = plan_of("steps { lottery { rounds = 2 } }")
    alone = {rung.alone for rung in ablation_trials(plan, Space(plan), {})}
    assert alone == {"none", "training.train", "prune.magnitude"}


def test_a_rung_inside_the_space_is_its_point(plan_of: Make) -> None:
    plan = plan_of(STEPS)
    space = Space(plan)
    for rung in ablation_trials(plan, space, {}):
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
    assert {rung.recipe.label for rung in ablation_trials(plan, space, missing)} == {"eager", "onnxruntime"}


def test_with_several_targets_each_runtime_is_there_once(plan_of: Make) -> None:
    plan = plan_of(
        "steps { maybe static; maybe half }",
        target="target one { runtime in { torchscript; onnxruntime; openvino } }\n"
        "  target two { runtime = onnxruntime }",
    )
    space = Space(plan)
    found = list(ablation_trials(plan, space, {}))
    assert baseline_recipe(plan).label == "one.eager, two.eager"
    bare = [rung for rung in found if rung.alone == "none"]
    assert [rung.recipe.label for rung in bare] == [
        "one.torchscript, two.onnxruntime", "one.onnxruntime, two.onnxruntime", "one.openvino, two.onnxruntime",
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
    points = {(rung.alone, rung.recipe.label): rung.point for rung in ablation_trials(plan, Space(plan), {})}
    # On the ladder `dynamic` stands without `channels`: the study has no such point.
    assert points["quant.dynamic", "onnxruntime"] is None
    assert points["quant.static", "onnxruntime"] == {
        "here.runtime": "onnxruntime", "channels": False, "precision": "static"
    }
    quick = plan_of(members, target=target, overrides={"quick": "true"})
    assert {rung.recipe.label for rung in ablation_trials(quick, Space(quick), {})} == {"onnxruntime"}


ONE = "target here { runtime = onnxruntime }"


def only(plan: Plan, technique: str) -> AblationTrial:
    """The rung of this technique, of which there is one."""
    (found,) = (rung for rung in ablation_trials(plan, Space(plan), {}) if rung.alone == technique)
    return found


def told(rung: AblationTrial, *names: str) -> list[tuple[object, ...]]:
    """The path of each step, and some of its settings."""
    return [
        (step.path, *(step.settings[name] for name in names if name in step.settings)) for step in rung.recipe.steps
    ]


def test_what_the_study_fixes_stays(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          maybe fine = finetune { epochs = 1; lr = 1e-5 }
          maybe distill { student = zoo.digits_cnn(width in [4, 8]); epochs = 2 }
          precision in { none; static { samples = 64 } }
        }
    """, target=ONE)
    found = list(ablation_trials(plan, Space(plan), {}))
    points = {rung.alone: rung.point for rung in found}
    out = {"fine": False, "distill": False, "precision": "none"}
    assert points == {
        "none": out,
        "training.distill": {"fine": False, "distill": True, "distill.student.width": 8, "precision": "none"},
        "training.finetune": {**out, "fine": True},
        "quant.static": {**out, "precision": "static"},
    }
    assert told(only(plan, "training.finetune"), "epochs", "lr") == [("fine", 1, 1e-5)]
    assert told(only(plan, "quant.static"), "samples") == [("precision.static", 64)]
    student = {"calls": "optlang.zoo.digits:cnn", "arguments": {"width": 8}, "weights": None}
    assert told(only(plan, "training.distill"), "student", "epochs") == [("distill", student, 2)]


def test_what_the_study_searches_is_nearest_to_the_default(plan_of: Make) -> None:
    # Declared are 256 samples, 3 epochs and a learning rate of 1e-3.
    plan = plan_of("""
        steps {
          maybe static { samples in [16, 128, 1024] }
          maybe finetune { epochs in 5 .. 9; lr in 1e-5 .. 1e-4 log }
        }
    """, target=ONE)
    assert told(only(plan, "quant.static"), "samples") == [("static", 128)]
    assert told(only(plan, "training.finetune"), "epochs", "lr") == [("finetune", 5, 1e-4)]
    assert all(rung.point is not None for rung in ablation_trials(plan, Space(plan), {}))


def test_of_several_uses_the_first_that_can_stand_alone(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          precision in {
            none
            better = { equalize; static { samples = 32 } }
            light  = static { samples = 64 }
            full   = static { samples = 512 }
          }
        }
    """, target=ONE)
    static = only(plan, "quant.static")
    assert (told(static, "samples"), static.point) == ([("precision.light", 64)], {"precision": "light"})
    never = plan_of("steps { finetune; choice in { a = static { samples = 8 }; b = static } }", target=ONE)
    static = only(never, "quant.static")
    assert (told(static, "samples"), static.point) == ([("choice.a", 8)], None)


def test_a_pruning_is_followed_by_the_studys_own_training(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          maybe channels { ratio = 20% }
          smaller in { none; slim = { units { ratio = 25% }; train { epochs = 2 } } }
          maybe recover = finetune { epochs = 1; lr = 1e-5 }
          maybe static
        }
    """, target=ONE)
    channels = only(plan, "prune.channels")
    # The first training behind it in the text belongs to another pruning.
    assert told(channels, "ratio", "epochs") == [("channels", 0.2), ("recover", 1)]
    assert channels.point == {"channels": True, "smaller": "none", "recover": True, "static": False}
    units = only(plan, "prune.units")
    assert told(units, "ratio", "epochs") == [("smaller.slim.units", 0.25), ("smaller.slim.train", 2)]
    assert units.point is not None


def test_a_training_that_stands_apart_is_found(plan_of: Make) -> None:
    steps = "steps {{ {} channels {{ ratio = 20% }}; {} finetune {{ epochs = 1 }}; maybe static }}"
    plan = plan_of(steps.format("maybe", "maybe"), target=ONE)
    assert only(plan, "prune.channels").point == {"channels": True, "finetune": True, "static": False}
    always = plan_of(steps.format("untie;", ""), target=ONE)
    rung = only(always, "prune.channels")
    assert (told(rung, "ratio", "epochs"), rung.point) == ([("channels", 0.2), ("finetune", 1)], None)


def test_rounds_and_what_is_computed_from_them(plan_of: Make) -> None:
    steps = """
        steps {
          repeat rounds %s {
            prune   = channels { ratio = 40%% * rounds.round / rounds }
            recover = finetune { epochs = 2 }
          }
          maybe static
        }
    """
    searched = plan_of(steps % "in 0 .. 3", target=ONE)
    rung = only(searched, "prune.channels")
    assert told(rung, "ratio", "epochs") == [("rounds[1].prune", 0.4), ("rounds[1].recover", 2)]
    assert rung.point == {"rounds": 1, "static": False}
    fixed = plan_of(steps % "= 2", target=ONE)
    rung = only(fixed, "prune.channels")
    assert told(rung, "ratio", "epochs") == [
        ("rounds[1].prune", 0.2), ("rounds[1].recover", 2), ("rounds[2].prune", 0.4), ("rounds[2].recover", 2),
    ]
    assert rung.point == {"static": False}
    # What cannot stand alone there is as in the last round.
    assert told(only(fixed, "training.finetune"), "epochs") == [("rounds[2].recover", 2)]


def test_a_knob_that_decides_is_set_so_that_the_rung_is_there(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          mode in { none; tuned = finetune { epochs in [1, 3] } }
          maybe dynamic when epochs == 1
          maybe static { samples in [64, 256]; calibrator = percentile when samples == 64 }
        }
        forbid samples == 256 because "too slow"
    """, target=ONE)
    # `dynamic` is there only behind a training.
    assert only(plan, "quant.dynamic").point is None
    static = only(plan, "quant.static")
    assert static.point == {"mode": "none", "static": True, "static.samples": 64}
    assert told(static, "calibrator") == [("static", "percentile")]


def test_a_default_that_is_forbidden_gives_way_to_the_nearest_value(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          maybe static { samples in [16, 32, 128, 256] }
          maybe finetune { lr in 1e-5 .. 1e-2 log; epochs in 1 .. 500 }
        }
        forbid samples == 256
        forbid lr > 5e-4 because "it diverges"
        forbid epochs in {2, 3, 4} because "too few, or enough"
    """, target=ONE)
    assert told(only(plan, "quant.static"), "samples") == [("static", 128)]
    ((_, epochs, rate),) = told(only(plan, "training.finetune"), "epochs", "lr")
    assert epochs in {1, 5}
    assert rate == pytest.approx(10**-3.5)  # the nearest of eight steps from 1e-5 to 1e-2
    assert only(plan, "training.finetune").point is not None


def test_a_runtime_that_is_there_only_with_other_values_has_its_points(plan_of: Make) -> None:
    plan = plan_of(
        "steps { maybe static }",
        target="target here { threads in [1, 2]; runtime in { onnxruntime; fast = openvino when threads == 2 } }",
    )
    found = {(rung.alone, rung.recipe.label): rung.point for rung in ablation_trials(plan, Space(plan), {})}
    assert found["none", "fast"] == {"here.threads": 2, "here.runtime": "fast", "static": False}
    assert found["quant.static", "fast"] == {"here.threads": 2, "here.runtime": "fast", "static": True}


def test_a_parameter_of_a_pipeline_has_the_pipelines_default(plan_of: Make) -> None:
    # `slim` declares half of the channels in two rounds of 3 epochs, which no technique in it does.
    plan = plan_of("""
        steps {
          maybe slim { most in 20% .. 80% step 30%; rounds in [1, 2, 4]; epochs in 1 .. 2 }
        }
    """, target=ONE)
    rung = only(plan, "prune.channels")
    assert rung.point == {"slim": True, "slim.most": 0.5, "slim.rounds": 2, "slim.epochs": 2}
    assert told(rung, "ratio", "epochs") == [
        ("slim.round[1].prune", 0.25), ("slim.round[1].recover", 2),
        ("slim.round[2].prune", pytest.approx(1 / 3)), ("slim.round[2].recover", 2),
    ]


def test_trainings_that_cannot_be_left_out_recover_a_pruning(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          maybe channels { ratio = 20% }
          finetune { epochs = 1 }
          last = finetune { epochs = 2; lr = 1e-5 }
          maybe static
        }
    """, target=ONE)
    rung = only(plan, "prune.channels")
    assert told(rung, "ratio", "epochs") == [("channels", 0.2), ("finetune", 1), ("last", 2)]
    assert rung.point == {"channels": True, "static": False}


def test_the_baseline_on_a_gpu_is_eager_there_where_it_runs(plan_of: Callable[..., Plan]) -> None:
    target = "target there { device = cuda; runtime in { tensorrt; inductor } }"
    plan = plan_of("steps { maybe half }", target=target)
    (there,) = plan.targets
    reference = baseline_recipe(plan)
    assert reference.places[0].runtime == "runtime.eager"
    assert reference.places[0].target.device == "cuda"
    missing = baseline_recipe(plan, {reference_path(there): "torch was installed without CUDA"})
    assert missing.places[0].runtime == "runtime.tensorrt"
