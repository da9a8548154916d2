"""What the facts rule out is exactly what cannot run, said in the fewest values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.plan.expressions import Value
from optlang.plan.model import FloatDomain, Impossible, Plan
from optlang.search.ablation import ablation_trials
from optlang.space import feasibility
from optlang.space.combinations import Index, assignments, ruled_out
from optlang.space.compatibility import incompatibility
from optlang.space.feasibility import _Study
from optlang.space.feasibility_cache import AnswerCache, PlainPairs
from optlang.space.space import Space

# Of these torchscript alone runs nothing but modules.
RUNTIMES = "target here { runtime in { torchscript; onnxruntime; openvino } }"

STEPS = {
    "digits": "steps { repeat rounds in 0 .. 3 { channels }; precision in { none; dynamic; static } }",
    "in or out": "steps { maybe static; maybe finetune; maybe channels }",
    "rounds": "steps { repeat r in 0 .. 4 { channels; maybe q = static }; maybe dynamic }",
    "an order": "steps { x in any order { channels; maybe finetune; maybe static } }",
    "a longer order": (
        "steps { x in any order { channels; maybe finetune; a = { magnitude; maybe b = finetune }; maybe static } }"
    ),
    "when": "steps { repeat r in 0 .. 2 { channels }; maybe static; when r >= 2 { maybe late = finetune } }",
    "only without": "steps { precision in { none; static; dynamic }; maybe after = finetune when precision == none }",
    "a condition on a setting": (
        "steps { maybe channels { ratio in {10%, 20%} }; maybe static; maybe finetune when ratio == 20% }"
    ),
    "branches sometimes": (
        "steps { repeat r in 0 .. 2 { channels }; a in { none; finetune when r >= 1 }; "
        "b in { none when a == none; static when r != 1; dynamic } }"
    ),
    "nested": "steps { a in { none; b in { static; c = { channels; dynamic } } }; maybe finetune }",
    "many": "steps { precision in { none; static }; " + "; ".join(f"maybe m{i} = finetune" for i in range(14)) + " }",
}


def points(plan: Plan) -> list[dict[str, Value]]:
    finite = [knob for knob in plan.knobs if not isinstance(knob.domain, FloatDomain)]
    return [dict(point) for point in assignments(finite)]


@pytest.mark.parametrize("name", [name for name in STEPS if name != "many"])
def test_it_rules_out_what_cannot_run_and_nothing_else(name: str, plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(STEPS[name])
    for point in points(plan):
        assert ruled_out(point, plan.impossible) == (incompatibility(plan, point) is not None), point


@pytest.mark.parametrize("name", [name for name in STEPS if name != "many"])
def test_no_value_can_be_left_away(name: str, plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(STEPS[name])
    every = points(plan)
    for item in plan.impossible:
        for path in item.values:
            rest = {key: value for key, value in item.values.items() if key != path}
            less = Impossible(values=rest, reason="")
            assert any(ruled_out(point, [less]) and incompatibility(plan, point) is None for point in every), item


def test_many_steps_are_compared_two_at_a_time(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(STEPS["many"], target=RUNTIMES)
    steps = [f"m{number}" for number in range(14)]
    assert {tuple(sorted(item.values)) for item in plan.impossible} == {
        ("here.runtime", "precision"), *(tuple(sorted((step, "precision"))) for step in steps)
    }


def test_the_reason_is_in_words(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(STEPS["digits"], target=RUNTIMES)
    assert [(item.values, item.reason) for item in plan.impossible] == [
        (
            {"here.runtime": "torchscript", "precision": technique},
            f"torchscript runs a PyTorch module; {technique} leaves an ONNX file",
        )
        for technique in ("dynamic", "static")
    ]


@pytest.mark.parametrize(("goals", "ruled"), [
    ("minimize size\n  maximize accuracy", False),
    ("minimize size\n  maximize sparsity", True),
    ("minimize size\n  require sparsity >= 40%", True),
])
def test_a_sparsity_that_a_runtime_hides_is_not_asked_of_it(
    plan_of: Callable[..., Plan], goals: str, ruled: bool
) -> None:
    plan = plan_of(
        "steps { maybe magnitude; precision in { none; static } }", goals=goals,
        target="target here { runtime in { onnxruntime; executorch } }",
    )
    cells = [{"here.runtime": "executorch", "precision": "static"}] if ruled else []
    assert [item.values for item in plan.impossible] == cells
    labels = {trial.recipe.label for trial in ablation_trials(plan, Space(plan), {}) if trial.alone == "quant.static"}
    assert labels == ({"onnxruntime"} if ruled else {"onnxruntime", "executorch"})


def test_assignments_respect_conditions(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("steps { maybe p = channels { ratio in [10%, 20%] }; maybe finetune when ratio == 10% }")
    found = [tuple(point.values()) for point in assignments(Index(plan.knobs).closed({"finetune"}))]
    assert found == [(False, None, None), (True, 0.1, False), (True, 0.1, True), (True, 0.2, None)]


def test_an_impossible_order_is_a_tuple_of_labels(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(STEPS["an order"])
    orders = [item.values["x"] for item in plan.impossible if "x" in item.values]
    assert ("static", "channels", "finetune") in orders
    assert Plan.model_validate_json(plan.model_dump_json()).impossible == plan.impossible


WIDE = {
    "choices": "steps { "
    + "; ".join(f"c{i} in {{ none; s{i} = static; y{i} = dynamic; q{i} = qat; m{i} = magnitude }}" for i in range(12))
    + " }",
    "in or out": "steps { " + "; ".join(f"maybe m{i} = {('static', 'finetune')[i % 2]}" for i in range(30)) + " }",
    "under conditions": "steps { maybe channels; "
    + "; ".join(f"maybe m{i} = {('static', 'finetune')[i % 2]} when channels" for i in range(10))
    + "; " + "; ".join(f"maybe n{i} = {('static', 'finetune')[i % 2]} when m{i}" for i in range(10))
    + " }",
    "branches sometimes": "steps { repeat r in 0 .. 3 { channels }; "
    + "; ".join(f"c{i} in {{ none; t{i} = finetune when r >= {1 + i % 2}; s{i} = static }}" for i in range(8))
    + " }",
    "a condition on a continuous knob": "steps { maybe p = channels { ratio in 10% .. 90% }; "
    + "; ".join(f"maybe m{i} = {('static', 'finetune')[i % 2]} when ratio > 50%" for i in range(4))
    + "; " + "; ".join(f"maybe n{i} = {('static', 'finetune')[i % 2]}" for i in range(8)) + " }",
    "nested": "steps { "
    + "; ".join(f"c{i} in {{ none; d{i} in {{ s{i} = static; h{i} = half }}; f{i} = finetune }}" for i in range(8))
    + "; maybe last = dynamic }",
}


@pytest.mark.parametrize("name", WIDE)
def test_what_is_looked_up_is_what_walking_every_pair_finds(
    name: str, plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cells(plan: Plan) -> dict[frozenset[tuple[str, Value]], str]:
        return {frozenset(item.values.items()): item.reason for item in plan.impossible}

    monkeypatch.setattr(feasibility, "QUICK", 0)
    looked_up = cells(plan_of(WIDE[name], target=RUNTIMES))
    monkeypatch.setattr(PlainPairs, "knows", lambda *_: False)
    monkeypatch.setattr(AnswerCache, "ask", lambda *_: None)
    assert looked_up == cells(plan_of(WIDE[name], target=RUNTIMES))
    assert len(looked_up) > 10


CLASHING = {
    "a step that never is": "maybe q0 = static; c in { none; a = dynamic when q0; b = train }; magnitude",
    "two of them": "c0 in { none; s0 = static }; c1 in { none; s1 = static }; train; magnitude",
}


@pytest.mark.parametrize("name", CLASHING)
def test_what_can_never_be_taken_is_told_with_its_own_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sample.opt"
    path.write_text(
        "optlang 1\nstudy x { model net = zoo.digits_cnn(); data d = zoo.digits()\n"
        f"target here {{ runtime = onnxruntime }}\nsteps {{ {CLASHING[name]} }}\nminimize latency }}\n"
    )
    monkeypatch.setattr(feasibility, "QUICK", 0)
    looked_up = [(item.code, item.message, item.primary, item.labels) for item in load(path).diagnostics]
    monkeypatch.setattr(PlainPairs, "knows", lambda *_: False)
    monkeypatch.setattr(AnswerCache, "ask", lambda *_: None)
    assert [(item.code, item.message, item.primary, item.labels) for item in load(path).diagnostics] == looked_up
    assert looked_up


def test_a_hundred_choices_are_not_walked_pair_by_pair(
    plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    techniques = ("magnitude", "static", "qat", "finetune")
    branches = ["; ".join(f"{name[0]}{i} = {name}" for name in techniques) for i in range(100)]
    walked: list[object] = []
    look = _Study.look
    monkeypatch.setattr(_Study, "look", lambda study: walked.append(study) or look(study))  # type: ignore[func-returns-value]
    plan = plan_of("steps { " + "; ".join(f"c{i} in {{ {each} }}" for i, each in enumerate(branches)) + " }")
    assert len(walked) <= 4 * 100
    assert len(plan.impossible) > 10_000
    # A point that has two of the clashing steps is ruled out, one with steps that go together is not.
    point: dict[str, Value] = {knob.path: f"m{i}" for i, knob in enumerate(plan.knobs[1:])}
    point["here.runtime"] = "onnxruntime"
    assert not ruled_out(point, plan.impossible)
    point[plan.knobs[7].path], point[plan.knobs[8].path] = "s6", "q7"
    assert ruled_out(point, plan.impossible)
