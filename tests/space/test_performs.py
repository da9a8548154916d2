"""Techniques that a runtime carries out itself: what may stand around them, and on which runtimes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from optlang.analysis.load import load
from optlang.diagnostics.render import render
from optlang.plan.model import Plan
from optlang.space.compatibility import incompatibility

STUDY = """\
optlang 1

runtime phone "compiles modules itself" {{
  calls "own.py:Phone"
  takes {takes}
  performs static, cast
}}

technique stamp "marks a module" {{
  calls "own.py:stamp"
}}

study sample {{
  model net  = zoo.digits_cnn(width = 8)
  data  seen = zoo.digits(seed = 0)
  target here {{ runtime in {{ torchscript; onnxruntime; phone }} }}
  steps {{ {steps} }}
  minimize size
  search {{ trials = 4 }}
}}
"""


def read(folder: Path, steps: str, takes: str = "module, graph"):
    (folder / "own.py").write_text("class Phone:\n    pass\n\n\ndef stamp():\n    pass\n")
    path = folder / "sample.opt"
    path.write_text(STUDY.format(steps=steps, takes=takes))
    return load(path)


def plan(folder: Path, steps: str) -> Plan:
    loaded = read(folder, steps)
    assert loaded.plan is not None, render(loaded.diagnostics, loaded.texts)
    return loaded.plan


def runs_on(found: Plan, **values: object) -> set[str]:
    labels = ("torchscript", "onnxruntime", "phone")
    return {label for label in labels if incompatibility(found, {"here.runtime": label, **values}) is None}


def test_one_name_serves_runtimes_with_and_without_int8_of_their_own(tmp_path):
    found = plan(tmp_path, "maybe static")
    assert [item.performs for item in found.runtimes if item.name.endswith("phone")] == [("quant.static", "cast")]
    assert runs_on(found, static=True) == {"onnxruntime", "phone"}
    assert runs_on(found, static=False) == {"torchscript", "onnxruntime", "phone"}


def test_a_module_of_techniques_may_be_named(tmp_path):
    found = plan(tmp_path, "maybe half")
    assert runs_on(found, half=True) == {"torchscript", "onnxruntime", "phone"}
    assert found.impossible == ()


def test_nothing_that_takes_a_module_comes_after(tmp_path):
    found = plan(tmp_path, "maybe half; maybe stamp")
    reason = incompatibility(found, {"here.runtime": "phone", "half": True, "stamp": True})
    assert reason == (
        "stamp takes a PyTorch module; half leaves a module that its runtime converts itself when it builds"
    )
    assert [dict(item.values) for item in found.impossible] == [
        {"here.runtime": "phone", "half": True, "stamp": True}
    ]


def test_what_it_does_not_perform_is_done_as_everywhere(tmp_path):
    found = plan(tmp_path, "maybe dynamic")
    assert runs_on(found, dynamic=True) == {"onnxruntime"}


def test_unknown_techniques_are_told(tmp_path):
    path = tmp_path / "sample.opt"
    read(tmp_path, "maybe static")
    path.write_text(path.read_text().replace("static, cast", "statc"))
    found = load(path)
    assert [item.code for item in found.diagnostics] == ["E201"]
    assert found.diagnostics[0].help == "did you mean `static`?"


def test_plans_keep_it(tmp_path, plan_of: Callable[..., Plan]):
    found = plan(tmp_path, "maybe static")
    assert Plan.model_validate_json(found.model_dump_json()) == found
