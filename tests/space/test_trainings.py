"""The trainings that several recipes share."""

from __future__ import annotations

from collections.abc import Callable

from optlang.plan.model import Plan
from optlang.search.ablation import ablation_trials
from optlang.space.space import Space
from optlang.space.trainings import Training, trainings

Make = Callable[..., Plan]


def of(plan: Plan) -> list[Training]:
    return trainings(plan, [rung.recipe for rung in ablation_trials(plan, Space(plan), {})])


def test_what_begins_alike_is_trained_once(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          thin in { none; slim = { channels { ratio = 50% }; finetune { epochs = 2 } } }
          maybe train { epochs = 5 }
          precision in { none; static }
        }
    """)
    # The pruning stands on three runtimes, and is trained once for all of them.
    assert sorted(map(str, of(plan))) == sorted(map(str, [
        Training("training.finetune", 2),  # alone
        Training("training.finetune", 2),  # behind the pruning
        Training("training.train", 5),
    ]))


def test_a_training_for_a_runtime_serves_no_other(plan_of: Make) -> None:
    plan = plan_of("steps { maybe qat { epochs = 3 } }")
    assert of(plan) == [Training("quant.qat", 3, runtime) for runtime in ("eager", "onnxruntime", "openvino")]
    assert of(plan_of("steps { maybe static }")) == []
