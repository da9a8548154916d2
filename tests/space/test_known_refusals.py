"""What was refused once: which points that rules out, exactly, and that no sampler draws them again."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest

from optlang.interfaces import Refusal
from optlang.plan.model import Plan
from optlang.run.job import Failure, Refused
from optlang.run.refusals import refusal_of, timeout_refusal
from optlang.search.sampler import Observation, Sampler
from optlang.space.known_refusals import KnownRefusal, KnownRefusals, refusal_from
from optlang.space.recipe import Recipe, resolve
from optlang.space.space import Exhausted, Space

Make = Callable[..., Plan]

STEPS = """
steps {
  maybe first = finetune { epochs in [1, 2] }
  smaller in {
    none
    heads { ratio in [25%, 50%] }
    channels { ratio in [25%, 50%] }
    taught = distill { student = zoo.digits_cnn(width = 4); epochs in [1, 4] }
  }
  maybe again = heads { ratio = 75% }
  precision in { none; dynamic; static { samples in [64, 128] } }
}
"""


@pytest.fixture
def plan(plan_of: Make) -> Plan:
    return plan_of(STEPS, target="target here { runtime in { onnxruntime; openvino } }")


def recipe(plan: Plan, runtime: str = "onnxruntime", **knobs: object) -> Recipe:
    """The trial at the point with these knobs, all others out."""
    values = {"first": False, "smaller": "none", "again": False, "precision": "none", **knobs}
    point = {knob.path: values[knob.path] for knob in plan.knobs if knob.path in values}
    point |= {knob.path: value for knob in plan.knobs for name, value in knobs.items() if knob.column == name}
    return resolve(plan, {"here.runtime": runtime, **point})  # type: ignore[dict-item]


def learned(plan: Plan, trial: Recipe, step: str | None, depends: str = "settings") -> KnownRefusals:
    """What is known after the trial was refused at this step; by its runtime where that is None."""
    failure = Failure("as it is", "", refused=Refused(depends, step, "here"))  # type: ignore[arg-type]
    refusal = refusal_of(plan, 3, trial, failure)
    assert refusal is not None
    refusals = KnownRefusals(plan)
    refusals.add(refusal)
    return refusals


HALF, QUARTER = {"smaller.heads.ratio": 0.5}, {"smaller.heads.ratio": 0.25}


def heads(plan: Plan, ratio: float, **knobs: object) -> Recipe:
    return recipe(plan, smaller="heads", **{"heads.ratio": ratio, **knobs})


def test_a_refusal_rules_out_what_begins_with_the_same_steps(plan: Plan) -> None:
    refusals = learned(plan, heads(plan, 0.5), "smaller.heads")
    assert refusals.against(heads(plan, 0.5, precision="dynamic")) is not None
    assert refusals.against(replace(heads(plan, 0.5), places=recipe(plan, "openvino").places)) is not None
    assert refusals.against(heads(plan, 0.25)) is None
    assert refusals.against(heads(plan, 0.5, first=True, **{"first.epochs": 1})) is None
    assert refusals.against(recipe(plan, again=True)) is None


def test_the_model_has_no_such_layer_whatever_the_settings(plan: Plan) -> None:
    refusals = learned(plan, heads(plan, 0.5), "smaller.heads", "model")
    assert refusals.against(heads(plan, 0.25)) is not None
    assert refusals.against(recipe(plan, again=True)) is not None
    assert refusals.against(heads(plan, 0.25, first=True, **{"first.epochs": 2})) is not None
    assert refusals.against(recipe(plan, smaller="channels", again=True, **{"channels.ratio": 0.5})) is not None
    # Another model may have one.
    assert refusals.against(recipe(plan, smaller="taught", again=True, **{"taught.epochs": 1})) is None
    assert refusals.against(recipe(plan, smaller="channels", **{"channels.ratio": 0.5})) is None


def test_behind_a_change_of_layers_nothing_is_proved_of_the_model(plan: Plan) -> None:
    trial = recipe(plan, smaller="taught", again=True, **{"taught.epochs": 1})
    refusals = learned(plan, trial, "again", "model")
    assert [refusal.depends for refusal in refusals] == ["settings"]
    assert refusals.against(recipe(plan, again=True)) is None
    behind = heads(plan, 0.5, first=True, **{"first.epochs": 1})
    assert [refusal.depends for refusal in learned(plan, behind, "smaller.heads", "model")] == ["model"]


def test_what_asks_for_the_runtime_is_refused_there_only(plan: Plan) -> None:
    refusals = learned(plan, recipe(plan, precision="dynamic"), "precision.dynamic", "model")
    assert refusals.against(recipe(plan, precision="dynamic", first=True, **{"first.epochs": 1})) is not None
    assert refusals.against(recipe(plan, "openvino", precision="dynamic")) is None


def test_a_runtime_refuses_what_it_was_given(plan: Plan) -> None:
    trained = {"first": True, "first.epochs": 1}
    refusals = learned(plan, recipe(plan, **trained), None)
    assert refusals.against(recipe(plan, **trained)) is not None
    assert refusals.against(recipe(plan, precision="dynamic", **trained)) is None
    assert refusals.against(recipe(plan, "openvino", **trained)) is None
    refusals = learned(plan, recipe(plan), None, "model")
    assert refusals.against(recipe(plan, **trained)) is not None
    assert refusals.against(recipe(plan, smaller="channels", **{"channels.ratio": 0.5})) is not None
    assert refusals.against(recipe(plan, precision="dynamic")) is None
    assert refusals.against(recipe(plan, smaller="taught", **{"taught.epochs": 1})) is None
    assert refusals.against(recipe(plan, "openvino")) is None


def timed_out(plan: Plan, *trials: tuple[Recipe, str], seconds: float = 500.0) -> KnownRefusals:
    refusals = KnownRefusals(plan)
    for trial, path in trials:
        refusal = timeout_refusal(plan, 1, trial, path, seconds, "took longer than 600 s")
        assert refusal is not None
        refusals.add(refusal)
    return refusals


def test_a_step_that_took_too_long_is_not_tried_at_a_higher_cost(plan: Plan) -> None:
    def taught(epochs: int, **knobs: object) -> Recipe:
        return recipe(plan, smaller="taught", **{"taught.epochs": epochs, **knobs})

    refusals = timed_out(plan, (taught(1), "smaller.taught"))
    assert refusals.against(taught(1, precision="dynamic")) is not None
    assert refusals.against(taught(4)) is not None
    assert timed_out(plan, (taught(4), "smaller.taught")).against(taught(1)) is None
    assert refusals.against(taught(1, first=True, **{"first.epochs": 1})) is None
    # The steps before it are in the cache the next time: what had little of the time may have enough then.
    assert timed_out(plan, (taught(1), "smaller.taught"), seconds=100.0).against(taught(1)) is None


def test_a_step_that_took_too_long_twice_is_not_tried_a_third_time(plan_of: Make) -> None:
    plan = plan_of("steps { channels { ratio in [10%, 20%, 30%] } }")

    def cut(ratio: float) -> Recipe:
        return resolve(plan, {"here.runtime": "onnxruntime", "channels.ratio": ratio})

    once = timed_out(plan, (cut(0.1), "channels"))
    assert once.against(cut(0.1)) is not None
    assert once.against(cut(0.3)) is None
    assert timed_out(plan, (cut(0.1), "channels"), (cut(0.2), "channels")).against(cut(0.3)) is not None


def test_nothing_is_learned_where_nobody_refused(plan: Plan) -> None:
    assert refusal_of(plan, 1, heads(plan, 0.5), Failure("ValueError: no", "")) is None
    assert timeout_refusal(plan, 1, heads(plan, 0.5), "", 600.0, "") is None
    of_baseline = Failure("no", "", refused=Refused("model", "baseline.train", "here"))
    assert refusal_of(plan, 1, heads(plan, 0.5), of_baseline) is None


def test_a_fact_survives_being_stored(plan: Plan) -> None:
    for refusals in (
        learned(plan, recipe(plan, precision="static", samples=64), "precision.static"),
        learned(plan, recipe(plan, smaller="taught", **{"taught.epochs": 1}), None, "model"),
    ):
        (refusal,) = refusals
        again = refusal_from(refusal.trial, refusal.reason, json.loads(json.dumps(refusal.to_json())))
        other = KnownRefusals(plan)
        other.add(again)
        assert again.what == refusal.what
        for point in Space(plan).points():
            assert (other.against(resolve(plan, point)) is None) == (refusals.against(resolve(plan, point)) is None)


def test_a_refusal_says_what_it_depends_on_in_another_process_too() -> None:
    refusal = Refusal("no layer", help="none", depends="model")
    refusal.step = "smaller.heads"
    again = pickle.loads(pickle.dumps(refusal))
    assert (again.message, again.help, again.depends, again.step) == ("no layer", "none", "model", "smaller.heads")
    assert Refusal("no").depends == "settings"


@pytest.mark.parametrize("sampler", ["tpe { startup = 4 }", "random", "grid", "qmc", "nsga2 { population = 6 }", "gp"])
def test_no_sampler_draws_what_is_refused(plan_of: Make, sampler: str) -> None:
    plan = plan_of(
        STEPS, search=f"trials = 30; seed = 3; sampler = {sampler}", target="target here { runtime = onnxruntime }",
    )
    refusals, known = KnownRefusals(plan), set[str]()
    search = Sampler(plan, Space(plan, refusals=refusals), known)
    later: list[Recipe] = []
    for number in range(12):
        if number == 4:
            refusals.add(KnownRefusal(1, "no heads", "model", heads(plan_of(STEPS), 0.5).steps))
        asked = search.ask(number)
        done = resolve(plan, asked.point)
        known.add(done.effect)
        later += [done] if refusals else []
        search.tell(Observation(asked.point, [1.0 + number % 3, 2.0, 0.9], [0.0], asked.state))
    assert len(later) == 8
    assert all(refusals.against(done) is None for done in later)


def test_a_space_of_which_all_is_refused_or_tried_is_exhausted(plan_of: Make) -> None:
    plan = plan_of(
        "steps { maybe heads { ratio in [25%, 50%] } }", search="trials = 9; seed = 1; sampler = random",
        target="target here { runtime = onnxruntime }",
    )
    refusals = KnownRefusals(plan)
    bare, cut, _ = (resolve(plan, point) for point in Space(plan).points())
    refusals.add(KnownRefusal(1, "no heads", "model", cut.steps))
    space = Space(plan, refusals=refusals)
    assert len(list(space.points())) == 1
    assert len(list(space.without_refusals().points())) == 3
    assert len(list(space.points())) == 1
    search = Sampler(plan, space, {bare.effect})
    with pytest.raises(Exhausted):
        search.ask(2)
