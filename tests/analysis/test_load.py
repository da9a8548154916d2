"""From a file to its plan: knobs and their names, overrides, what is fixed, and what is never run or imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.analysis.modules.library import library
from optlang.interfaces import OutsideError
from optlang.plan.expressions import Environment, KnobRef, RoundRef, Value, holds
from optlang.plan.model import Apply, Computed, FactoryUse, Fixed, Maybe, Plan, Repeat, Searched

ROOT = Path(__file__).parents[2]
Make = Callable[..., Plan]


def columns(plan: Plan) -> dict[str, str]:
    return {knob.path: knob.column for knob in plan.knobs}


def inside(plan: Plan) -> Apply:
    """The technique in the first `maybe` or `repeat` of a plan."""
    around = plan.steps[0]
    assert isinstance(around, Maybe | Repeat)
    step = around.steps[0]
    assert isinstance(step, Apply)
    return step


def test_knobs_have_the_shortest_unique_names(plan_of: Make) -> None:
    plan = plan_of("""
        steps {
          maybe first = channels { ratio in {10%, 20%} }
          maybe second = channels { ratio in {10%, 20%}; scope in any }
        }
    """)
    assert columns(plan) == {
        "here.runtime": "runtime", "first": "first", "first.ratio": "first.ratio", "second": "second",
        "second.ratio": "second.ratio", "second.scope": "scope",
    }


def test_a_column_that_is_taken_gives_way_to_a_longer_one(plan_of: Make) -> None:
    plan = plan_of("steps { a = { maybe size = channels; maybe Trial = finetune; maybe latency_x = train } }")
    assert columns(plan) == {
        "here.runtime": "runtime", "a.size": "a.size", "a.Trial": "a.Trial", "a.latency_x": "a.latency_x",
    }


def test_a_domain_used_twice_gives_two_knobs(plan_of: Make) -> None:
    plan = plan_of("""
        let few = [64, 128]
        steps { way in { none; a = static { samples in few }; b = static { samples in few; calibrator = entropy } } }
    """)
    assert {"way.a.samples", "way.b.samples"} <= columns(plan).keys()


def test_a_setting_may_follow_the_rounds(plan_of: Make) -> None:
    plan = plan_of("""
        let final = 60%
        steps { repeat rounds in 1 .. 3 { channels { ratio = final * rounds.round / rounds } } }
    """)
    step = inside(plan)
    ratio = step.settings["ratio"]
    assert isinstance(ratio, Computed)
    assert ratio.dimension == "ratio"
    from optlang.plan.expressions import evaluate

    def rounds(ref: RoundRef) -> int:
        assert ref.path == "rounds"
        return 2 if ref.which == "round" else 3

    assert evaluate(ratio.expression, Environment(rounds=rounds)) == pytest.approx(0.4)


def test_percent_in_a_forbid_is_what_is_drawn(plan_of: Make) -> None:
    plan = plan_of("steps { channels { ratio in 10% .. 50% step 10% } }\nforbid ratio == 30%")
    drawn = plan.knobs[-1].domain
    assert 0.3 in drawn.values  # type: ignore[union-attr]

    def at(value: Value) -> bool:
        return holds(plan.forbids[0].expression, Environment(knob=lambda path: value))

    assert [value for value in drawn.values if at(value)] == [0.3]  # type: ignore[union-attr]


def test_rules_keep_their_words(plan_of: Make) -> None:
    plan = plan_of('steps { precision in { none; static } }\nforbid precision  ==  none because "why not"')
    assert (plan.forbids[0].text, plan.forbids[0].because) == ("precision == none", "why not")


def test_none_is_an_absent_knob_and_a_branch(plan_of: Make) -> None:
    plan = plan_of("steps { precision in { none; static } }\nforbid precision == none")

    def at(value: Value) -> bool:
        return holds(plan.forbids[0].expression, Environment(knob=lambda path: value))

    assert at("none")
    assert at(None)
    assert not at("static")


def test_a_declared_condition_belongs_to_the_setting(plan_of: Make) -> None:
    plan = plan_of("steps { maybe static { calibrator in any; percentile in 99.0 .. 99.9 } }")
    step = inside(plan)
    setting = step.settings["percentile"]
    assert isinstance(setting, Searched)
    assert setting.when is not None
    knob = plan.knobs[-1]
    values: dict[str, Value] = {"static": True, "static.calibrator": "minmax"}
    assert knob.condition is not None
    assert not holds(knob.condition, Environment(knob=values.get))
    assert holds(knob.condition, Environment(knob={**values, "static.calibrator": "percentile"}.get))


def test_defaults_of_a_fixed_choice_that_does_not_use_them_are_left_out(plan_of: Make) -> None:
    step = inside(plan_of("steps { maybe static { calibrator = entropy } }"))
    assert "percentile" not in step.settings
    assert step.settings["bins"] == Fixed(value=2048)


def test_a_target_takes_over_what_it_does_not_say_itself(plan_of: Make) -> None:
    plan = plan_of("steps { channels }", target="target here = targets.cpu { threads = 3 }")
    target = plan.targets[0]
    assert target.threads == Fixed(value=3)
    assert [use.label for use in target.runtimes] == ["eager", "onnxruntime", "openvino"]


def test_a_runtime_that_is_fixed_has_no_knob(plan_of: Make) -> None:
    plan = plan_of("steps { maybe static }", target="target here { runtime = onnxruntime { graph in any } }")
    assert plan.targets[0].knob is None
    assert plan.knobs[0].path == "here.runtime.graph"


def test_latency_is_its_median_and_the_target_may_be_named(plan_of: Make) -> None:
    plan = plan_of("steps { channels }\nrequire here.latency <= baseline.here.latency.p50", goals="minimize latency")
    assert plan.objectives[0].metric.metric == "latency.p50"
    from optlang.plan.expressions import references

    refs = list(references(plan.requires[0].expression))
    assert [(ref.metric, ref.baseline, ref.target) for ref in refs] == [  # type: ignore[union-attr]
        ("latency.p50", False, None), ("latency.p50", True, None)
    ]


def test_defaults_of_search_and_measure(plan_of: Make) -> None:
    plan = plan_of("steps { channels { ratio in any } }", search="")
    assert plan.search.model_dump() == {
        "sampler": {"name": "auto", "settings": {}}, "trials": None, "timeout": None, "trial_timeout": 600.0, "seed": 0,
        "ladder": True, "stop_early": True, "warm_start": False, "screening": 16, "halving": None, "disk": None,
        "workers": 1, "ray": None, "device": "auto",
    }
    assert plan.measure.model_dump() == {
        "rounds": 5, "processes": 1, "front_rounds": 10, "front_processes": 3, "round_seconds": 0.02, "round_calls": 20
    }


def test_what_models_are_trained_on_is_no_part_of_what_is_searched(plan_of: Make) -> None:
    steps = "steps { channels { ratio in any } }"
    found = {
        name: plan_of(steps, search=f"device = {name}") for name in ("auto", "cpu", "cuda", '"cuda:1"', "mps")
    }
    assert [plan.search.device for plan in found.values()] == ["auto", "cpu", "cuda", "cuda:1", "mps"]
    assert len({plan.meaning for plan in found.values()}) == 1


@pytest.mark.parametrize("text", ["21", "0", "many", "2ms", "3.5", "1; 2", "1 .. 3", ")"])
def test_overrides_are_checked(text: str) -> None:
    loaded = load(ROOT / "studies" / "digits.opt", {"epochs": text})
    assert [item.code for item in loaded.diagnostics] == ["E304"]
    assert loaded.plan is None
    span = loaded.diagnostics[0].primary.span
    assert loaded.texts[span.file][span.start : span.end] == text


def test_an_unknown_override_is_an_unknown_name() -> None:
    loaded = load(ROOT / "studies" / "digits.opt", {"epoch": "5"})
    assert [(item.code, item.help) for item in loaded.diagnostics] == [("E201", "did you mean `epochs`?")]


def test_a_module_has_no_plan_and_no_problems() -> None:
    loaded = load(ROOT / "tests" / "fixtures" / "ok" / "parts.opt")
    assert loaded.plan is None
    assert not loaded.diagnostics


def test_a_file_that_is_not_there_is_outside(tmp_path: Path) -> None:
    with pytest.raises(OutsideError, match="cannot read"):
        load(tmp_path / "absent.opt")


def test_the_users_python_is_never_run() -> None:
    loaded = load(ROOT / "tests" / "fixtures" / "ok" / "own.opt")
    assert loaded.plan is not None
    assert loaded.plan.model.calls == "parts.py:net"
    assert loaded.plan.model.arguments == {"depth": 2, "name": "first", "sizes": (8, 16), "bias": True}
    assert loaded.plan.data.arguments == {"root": "data", "share": 0.2}


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from pathlib import Path; from optlang.analysis.load import load\n"
        "assert load(Path('studies/digits.opt')).plan\n"
        "print([name for name in ('torch', 'numpy', 'optuna', 'duckdb', 'onnx') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_declaration_of_the_library_reads() -> None:
    from optlang.analysis.declarations import Declarations
    from optlang.analysis.modules.names import Scope
    from optlang.analysis.modules.python_files import objects
    from optlang.diagnostics.model import Diagnostics
    from optlang.workload.sources import file_of

    modules, _ = library()
    diagnostics = Diagnostics()
    facts = Declarations(diagnostics, lambda declared: Scope(declared.module, modules))
    for module in modules.values():
        for declared in module.declared.values():
            facts.read(declared)
            if declared.sort in ("technique", "runtime", "model", "data"):
                read = {"technique": facts.technique, "runtime": facts.runtime}.get(declared.sort, facts.maker)
                place, _, name = str(getattr(read(declared), "calls", "")).partition(":")
                file = file_of(place, [str(ROOT)])
                assert file is not None, place
                assert name in objects(file.read_text(encoding="utf-8")), f"{place}:{name}"
    assert not diagnostics.found


def test_a_knob_reference_is_by_full_path(plan_of: Make) -> None:
    plan = plan_of("steps { a = { maybe static { samples in [64, 128] } } }\nforbid static.samples == 64")
    from optlang.plan.expressions import references

    assert list(references(plan.forbids[0].expression)) == [KnobRef(path="a.static.samples")]


def test_a_study_may_search_no_trial_as_the_command_line_may(plan_of: Make) -> None:
    assert plan_of("steps { maybe static }", search="trials = 0").search.trials == 0


def test_weights_that_are_not_there_are_answered_with_a_file_of_like_name(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(b"")
    study = tmp_path / "main.opt"
    study.write_text(
        "optlang 1\nstudy s {\n  model net = zoo.digits_cnn(weights = \"nett.pt\")\n  data seen = zoo.digits()\n"
        "  target here { runtime = onnxruntime }\n  steps { maybe static }\n  minimize size\n}\n"
    )
    assert [item.help for item in load(study).diagnostics] == ["did you mean `net.pt`?"]


def test_what_is_read_of_a_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(b"")
    (tmp_path / "mine.py").write_text("def net(weights_key=None): ...\n")
    study = tmp_path / "main.opt"

    def model(call: str) -> FactoryUse:
        study.write_text(
            f'optlang 1\nimport python "mine.py" as mine\nstudy s {{\n  model net = {call}\n'
            "  data seen = zoo.digits()\n"
            "  target here { runtime = onnxruntime }\n  steps { maybe static }\n  minimize size\n}\n"
        )
        plan = load(study).plan
        assert plan is not None
        return plan.model

    found = model('mine.net(weights = "net.pt", weights_key = "ema", weights_strict = false)')
    assert (found.arguments, found.weights, found.weights_key, found.weights_strict) == ({}, "net.pt", "ema", False)
    # Without a file it is the factory's own argument.
    found = model('mine.net(weights_key = "ema")')
    assert (found.arguments, found.weights, found.weights_key) == ({"weights_key": "ema"}, None, None)


def test_files_of_one_name_in_two_folders_stay_apart(tmp_path: Path) -> None:
    for folder, low, high in (("coarse", 2, 8), ("fine", 10, 16)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "parts.opt").write_text(
            f'optlang 1\n\ntechnique grid {{\n  calls "parts.py:grid"\n  param bits: int in {low} .. {high} = {high}\n'
            "  takes module\n  gives module\n}\n"
        )
        (tmp_path / folder / "parts.py").write_text("def grid(state, settings, context): ...\n")
    study = tmp_path / "small.opt"
    study.write_text(
        "optlang 1\n\nimport coarse.parts as coarse\nimport fine.parts as fine\n\nstudy small {\n"
        "  model net = zoo.digits_cnn()\n  data seen = zoo.digits()\n  target cpu { runtime = eager }\n"
        "  steps {\n    first = coarse.grid { bits in 2 .. 8 }\n    second = fine.grid { bits in 10 .. 16 }\n  }\n"
        "  minimize size\n}\n"
    )
    plan = load(study).plan
    assert plan is not None
    declared = {item.name: item.params[0].domain for item in plan.techniques}
    assert declared.keys() == {"coarse.parts.grid", "fine.parts.grid"}
    assert declared["coarse.parts.grid"] != declared["fine.parts.grid"]
    called = {item.name: item.calls for item in plan.techniques}
    assert called == {"coarse.parts.grid": "coarse/parts.py:grid", "fine.parts.grid": "fine/parts.py:grid"}
