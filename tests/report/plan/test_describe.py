"""A plan in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.plan.intervals import Interval
from optlang.plan.model import Plan
from optlang.report.plan.describe import LadderCost, describe, text
from optlang.search.ablation import ablation_trials
from optlang.space.cost import trial_cost
from optlang.space.space import Space
from optlang.space.trainings import Training


@dataclass(frozen=True)
class Size:
    points: int = 8
    exact: bool = True
    continuous: tuple[str, ...] = ()


EXPECTED = """\
study sample: a study for tests

knobs (4)
  runtime     {torchscript, onnxruntime, openvino}
  rounds      0 .. 2
  ratio       [10%, 30%]                             when rounds >= 1
  precision   {none, static}

pipeline
  rounds: 0 .. 2 times
    channels { ratio in [10%, 30%] }
  precision: one of
    none
    static

target
  here
    torchscript
    onnxruntime
    openvino

space
  at most 8 points of the finite knobs; lr is continuous

cannot go together
  torchscript runs a PyTorch module; static leaves an ONNX file:
    runtime = torchscript, precision = static

forbidden
  precision == static and ratio == 30%, because of this

required
  accuracy >= 90%

goals
  minimize latency.p50
  minimize size
  maximize accuracy

a trial
  0 to 3 techniques, 0 epochs of training
  one build, one measurement of 5 rounds next to the baseline
  results of steps are cached: a trial that starts with the same steps as an earlier one reuses them

a run
  the baseline, 4 trials of one technique alone (fewer where a runtime cannot run here) and 10 searched trials
  of one technique alone: 1 is a point of the space, at most 2 trainings of 7 epochs in all

search
  sampler = auto: tpe, since of 10 trials it learns most
  trials = 10
  seed = 1

All other settings are the declared defaults: `optlang explain NAME` shows them.
"""


def test_all_that_is_said_of_a_study(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("""
        steps {
          repeat rounds in 0 .. 2 { channels { ratio in 10% .. 30% step 20% } }
          precision in { none; static }
        }
        forbid precision == static and
          ratio == 30% because "of this"
        require accuracy >= 90%
    """, target="target here { device = cpu; runtime in { torchscript; onnxruntime; openvino } }")
    ladder = LadderCost(4, 1, (Training("training.finetune", 3), Training("quant.qat", 4, "openvino")), 1)
    assert text(describe(plan, Size(exact=False, continuous=("lr",)), ladder)) == EXPECTED


def test_what_differs_from_the_defaults_is_said_and_nothing_else(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("""
        steps {
          finetune { epochs = 3; optimizer in {sgd, adamw}; lr = 0.003 }
          maybe static { samples = 64; calibrator = minmax }
        }
        measure { rounds = 7; round_seconds = 30ms }
    """, target="target here { threads = 2; batch in [1, 8]; runtime = onnxruntime { graph = all; spinning = false } }",
        search="sampler = tpe { startup = 12 }; timeout = 5min; ladder = false")
    said = text(describe(plan, Size(), LadderCost()))
    assert "  maybe static { samples = 64 }\n" in said
    assert "  finetune { lr = 0.003; optimizer in {sgd, adamw} }\n" in said
    assert "  here { threads = 2; batch in [1, 8] }\n    onnxruntime { spinning = false }\n" in said
    assert "search\n  sampler = tpe { startup = 12 }\n  timeout = 5min\n  ladder = false\n" in said
    assert "measure\n  rounds = 7\n  round_seconds = 30ms\n" in said
    assert "calibrator" not in said, "a default that the study repeats"


def test_a_run_counts_its_trials_by_their_kinds(plan_of: Callable[..., Plan]) -> None:
    one = "target here { runtime = onnxruntime }"
    plan = plan_of("steps { precision in { none; static; dynamic } }", search="trials = 1", target=one)
    ladder = len(list(ablation_trials(plan, Space(plan), {})))
    assert ladder == 3, "as it is, static and dynamic, on the only runtime"
    said = text(describe(plan, Space(plan).size(), LadderCost(3, 3)))
    assert "the baseline, 3 trials of one technique alone" in said
    assert "and 1 searched trial\n  of one technique alone: all are points of the space, no training\n" in said
    assert "a run\n  the baseline, then 1 searched trial\n" in text(describe(plan, Space(plan).size(), LadderCost()))
    many = plan_of("steps { precision in { none; static; dynamic } }", search="trials = 9", target=one)
    size = Space(many).size()
    assert "then at most 3 searched trials, one a point\n" in text(describe(many, size, LadderCost()))
    # The ladder has tried them all.
    assert "and no point is left to search\n" in text(describe(many, size, LadderCost(3, 3, tried=3)))


@pytest.mark.parametrize("workers", [
    "workers = 2", "workers = ray", "workers = ray { cpus = 4; gpus = 0.5; per_node = 2; most = 8 }",
])
def test_who_trains_is_said(plan_of: Callable[..., Plan], workers: str) -> None:
    plan = plan_of("steps { maybe static }", search=f"sampler = random; trials = 3; {workers}")
    assert f"search\n  sampler = random\n  trials = 3\n  {workers}\n" in text(describe(plan, Size(), LadderCost()))


@pytest.mark.parametrize(("halving", "expected"), [
    ("halving", (
        "a searched trial pauses after 1, 3 and 9 epochs of training; of those that were there one in 3 goes on\n"
        "  of 30 trials of 12 epochs about 10, 3 and 1 go on from there: 71 epochs in all, instead of 360\n"
    )),
    ("halving { reduce = 2; first = 6 }", (
        "a searched trial pauses after 6 epochs of training; of those that were there one in 2 goes on\n"
        "  of 30 trials of 12 epochs about 15 go on from there: 270 epochs in all, instead of 360\n"
    )),
])
def test_where_trials_pause_is_said(plan_of: Callable[..., Plan], halving: str, expected: str) -> None:
    steps = "steps { channels { ratio in 1% .. 60% step 1% }; finetune { epochs in [4, 12] } }"
    plan = plan_of(steps, search=f"sampler = random; trials = 30; {halving}")
    said = text(describe(plan, Space(plan).size(), LadderCost()))
    assert expected in said
    assert f"search\n  sampler = random\n  trials = 30\n  {halving}\n" in said
    # Nothing is said of what never happens.
    never = plan_of("steps { maybe static }", search="sampler = random; trials = 3; halving")
    assert "pauses" not in text(describe(never, Space(never).size(), LadderCost()))


def test_the_effort_lies_between_the_least_and_the_most(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("""
        baseline { train { epochs = 7 } }
        steps {
          repeat rounds in 1 .. 3 { finetune { epochs = rounds.round + 1 } }
          maybe train { epochs in [5, 10] }
          way in { none; both = { a = finetune { epochs = 2 }; b = finetune { epochs = 1 } } }
        }
    """)
    found = trial_cost(plan, plan.steps)
    assert found.epochs == Interval(2, 2 + 3 + 4 + 10 + 3)
    assert found.steps == Interval(1, 6)
    assert trial_cost(plan, plan.baseline).epochs == Interval(7, 7)


def test_the_effort_of_rounds_is_counted_round_by_round(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("""
        baseline { repeat turns = 2 { finetune { epochs = turns.round } } }
        steps {
          repeat rounds in 2 .. 4 {
            channels { ratio = 10% }
            recover = finetune { epochs in 1 .. 4 } when rounds.round == rounds
            polish = finetune { epochs = 9 when rounds.round < rounds } when rounds.round > 2
          }
        }
    """)
    assert trial_cost(plan, plan.baseline).epochs == Interval(3, 3)
    found = trial_cost(plan, plan.steps)
    assert found.steps == Interval(3, 4 + 1 + 2)
    assert found.epochs == Interval(1, 4 + 9 + 3)


def test_a_searched_parameter_that_a_pipeline_hands_on_is_said_by_its_values(tmp_path: Path) -> None:
    path = tmp_path / "by.opt"
    path.write_text("""optlang 1
pipeline by {
  param optimizer: name in {adamw, sgd} = adamw
  param momentum: float in 0.0 .. 0.9 = 0.9 when optimizer == sgd
  steps { train { optimizer = optimizer; momentum = momentum } }
}
study s {
  model net = zoo.digits_cnn()
  data digits = zoo.digits()
  target here { runtime = eager }
  steps { by { optimizer in {adamw, sgd}; momentum in {0.5, 0.9} } }
  maximize accuracy
}
""")
    plan = load(path).plan
    assert plan is not None
    said = text(describe(plan, Space(plan).size(), LadderCost()))
    assert "train { optimizer in {adamw, sgd}; momentum in {0.5, 0.9} }" in said
