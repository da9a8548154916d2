"""Settings under a condition: what each point does, where the ladder finds them, and how they are said."""

from __future__ import annotations

from collections.abc import Callable

from optlang.plan.intervals import Interval
from optlang.plan.model import Plan
from optlang.report.plan.describe import LadderCost, describe, text
from optlang.report.plan.diagram import picture
from optlang.search.ablation import ablation_trials
from optlang.space.cost import trial_cost
from optlang.space.locate import locate
from optlang.space.recipe import resolve
from optlang.space.space import Space

Make = Callable[..., Plan]

TARGET = "target here { device = cpu; runtime in { onnxruntime; openvino } }"
STATIC = """
steps {
  static {
    calibrator in {minmax, percentile}
    percentile = 99.9 when calibrator == percentile
    samples in [64, 128] when runtime == onnxruntime
    bias_correction = true when samples == 64 and calibrator == minmax
  }
}
"""
TABLE = [
    # runtime, calibrator, the knob `samples` → what static is given
    ("onnxruntime", "minmax", 64, (None, 64, True)),
    ("onnxruntime", "minmax", 128, (None, 128, False)),
    ("onnxruntime", "percentile", 64, (99.9, 64, False)),
    ("onnxruntime", "percentile", 128, (99.9, 128, False)),
    ("openvino", "minmax", None, (None, 256, False)),
    ("openvino", "percentile", None, (99.9, 256, False)),
]


def test_every_point_does_what_is_written_by_hand(plan_of: Make) -> None:
    plan = plan_of(STATIC, target=TARGET)
    space = Space(plan)
    found = []
    for point in space.points():
        settings = resolve(plan, point).steps[0].settings
        given = (settings.get("percentile"), settings["samples"], settings["bias_correction"])
        found.append((point["here.runtime"], point["static.calibrator"], point.get("static.samples"), given))
    assert found == TABLE


def test_an_absent_knob_is_no_part_of_a_point(plan_of: Make) -> None:
    plan = plan_of(STATIC, target=TARGET)
    point = {"here.runtime": "openvino", "static.calibrator": "minmax"}
    assert Space(plan).contains(point)
    assert not Space(plan).contains({**point, "static.samples": 64})
    assert not Space(plan).contains({**point, "here.runtime": "onnxruntime"})


def test_a_condition_may_ask_for_the_round_and_the_value_may_follow_from_it(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          repeat rounds in 1 .. 3 {
            channels { ratio = 10% }
            finetune { epochs = rounds.round + 4 when rounds.round == rounds; lr in [0.1, 0.2] when rounds.round > 1 }
          }
        }
    """, target="target here { device = cpu; runtime = onnxruntime }")
    steps = resolve(plan, {"rounds": 3, "rounds.finetune.lr": 0.2}).steps
    tuned = [(step.settings["epochs"], step.settings["lr"]) for step in steps if step.technique == "training.finetune"]
    assert tuned == [(3, 0.001), (3, 0.2), (7, 0.2)]
    assert trial_cost(plan, plan.steps).epochs == Interval(5, 3 + 3 + 7)


def test_an_input_decides_a_condition_for_all_points(plan_of: Make) -> None:
    members = "input quick: bool = false\nsteps { finetune { epochs = 1 when quick; lr in [0.1, 0.2] when not quick } }"
    target = "target here { device = cpu; runtime = onnxruntime }"
    plan, quick = plan_of(members, target=target), plan_of(members, target=target, overrides={"quick": "true"})
    assert [resolve(plan, point).steps[0].settings["epochs"] for point in Space(plan).points()] == [3, 3]
    (point,) = Space(quick).points()
    settings = resolve(quick, point).steps[0].settings
    assert (point, settings["epochs"], settings["lr"]) == ({}, 1, 0.001)


def test_settings_of_a_runtime_have_conditions_too(plan_of: Make) -> None:
    plan = plan_of(
        "steps { none_or = { maybe channels } }",
        target="target here { device = cpu; threads in {1, 2}; "
        "runtime = onnxruntime { graph in {basic, all} when threads == 2 } }",
    )
    (graph,) = (knob.path for knob in plan.knobs if knob.column == "graph")
    found = {
        (point["here.threads"], point.get(graph), resolve(plan, point).places[0].settings["graph"])
        for point in Space(plan).points()
    }
    default = next(param.default for param in plan.runtime("runtime.onnxruntime").params if param.name == "graph")
    assert found == {(1, None, default), (2, "basic", "basic"), (2, "all", "all")}
    lines = [line for node in picture(plan).nodes for line in node.lines]
    assert f"graph in {{basic, all}} when threads == 2, else {default}" in lines


def test_a_pipelines_parameter_is_handed_on_with_its_condition(plan_of: Make) -> None:
    plan = plan_of(
        "steps { iterative { rounds = 1; epochs in [5, 6] when runtime == openvino } }", target=TARGET,
    )
    found = []
    for point in Space(plan).points():
        (tuned,) = (step for step in resolve(plan, point).steps if step.technique == "training.finetune")
        found.append((point["here.runtime"], tuned.settings["epochs"]))
    assert found == [("onnxruntime", 3), ("openvino", 5), ("openvino", 6)]


def test_the_ladder_finds_its_rungs_where_the_condition_says(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          maybe static {
            samples in [64, 256] when runtime == onnxruntime
            granularity in {channel, tensor} when runtime == openvino
          }
        }
    """, target=TARGET)
    space = Space(plan)
    found = {rung.recipe.label: rung.point for rung in ablation_trials(plan, space, {}) if rung.alone == "quant.static"}
    assert found == {
        "onnxruntime": {"here.runtime": "onnxruntime", "static": True, "static.samples": 256},
        "openvino": {"here.runtime": "openvino", "static": True, "static.granularity": "channel"},
    }
    for point in space.points():
        assert locate(plan, space, resolve(plan, point)) == point


def test_how_it_is_said_and_drawn(plan_of: Make) -> None:
    plan = plan_of(STATIC, target=TARGET)

    class Size:
        points, exact, continuous = 6, True, ()

    said = " ".join(text(describe(plan, Size(), LadderCost())).split())
    assert "percentile = 99.9 when calibrator == percentile, else 99.99" in said
    assert "samples in [64, 128] when runtime == onnxruntime, else 256" in said
    lines = [line for node in picture(plan).nodes for line in node.lines]
    assert "samples in [64, 128] when runtime == onnxruntime, else 256" in lines
    assert "percentile = 99.9 when calibrator == percentile, else 99.99" in lines


def test_how_much_it_trains_covers_both_values(plan_of: Make) -> None:
    plan = plan_of("steps { finetune { epochs = 9 when runtime == openvino } }", target=TARGET)
    assert trial_cost(plan, plan.steps).epochs == Interval(3, 9)
