"""`optlang explain`: every name that is declared has its page, and every example on a page is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.analysis.lower.search_settings import ABOUT, MEASURE, SAMPLERS, SEARCH
from optlang.analysis.lower.targets import PARAMS
from optlang.analysis.modules.library import library
from optlang.analysis.modules.names import Declared
from optlang.cli.app import command
from optlang.diagnostics.render import render
from optlang.report.explain import explained, listing, suggestion
from optlang.syntax import tree

DECLARED = [item for module in library()[0].values() for item in module.declared.values()]
MEMBERS = {
    "model": "model net = zoo.digits_cnn()", "data": "data seen = zoo.digits()",
    "target": "target here { runtime in { eager; onnxruntime } }", "steps": "steps { maybe train }",
    "minimize": "minimize size",
}


def problems(page: str, folder: Path) -> str:
    """What is wrong with a study that has the example of a page among its members."""
    example = page.partition("Example:\n\n")[2]
    assert example, page
    above = ""
    if example.lstrip().startswith("technique"):
        above, example = example, ""
        (folder / "mine.py").write_text("def mine(state, settings, context): ...\n")
    rest = [text for word, text in MEMBERS.items() if not re.search(rf"^ *{word}\b", example, re.MULTILINE)]
    path = folder / "main.opt"
    members = "\n  ".join(rest)
    path.write_text(f"optlang 1\n\n{above}\nstudy small {{\n  {members}\n{example}}}\n", encoding="utf-8")
    found = load(path)
    return render([item for item in found.diagnostics if item.severity == "error"], found.texts)


@pytest.mark.parametrize("item", DECLARED, ids=lambda item: item.qualified)
def test_every_declaration_is_explained_with_a_right_example(item: Declared, tmp_path: Path) -> None:
    page = explained(item.qualified)
    assert page is not None
    assert page in str(explained(item.name))
    node = item.node
    if isinstance(node, tree.Declaration):
        assert node.help is not None
        assert " ".join(node.help.value.split()) in " ".join(page.split())
        for param in (member.node for member in item.members):
            assert re.search(rf"^    {param.name.text}: {param.type.text}\b", page, re.MULTILINE)
            assert param.help is None or " ".join(param.help.value.split()) in " ".join(page.split())
    assert max(map(len, page.splitlines())) <= 140
    assert problems(page, tmp_path) == ""


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_explained_with_a_right_example(name: str, tmp_path: Path) -> None:
    page = explained(name)
    assert page is not None
    assert ABOUT[name] in " ".join(page.split())
    assert all(f"{param.name}: " in page for param in SAMPLERS[name])
    assert problems(page, tmp_path) == ""


@pytest.mark.parametrize("param", [*SEARCH, *MEASURE, *PARAMS], ids=lambda param: param.name)
def test_every_setting_is_explained_with_a_right_example(param: object, tmp_path: Path) -> None:
    page = explained(getattr(param, "name"))  # noqa: B009 - parametrize gives no type
    assert page is not None
    # `dynamic` is a technique too, and `device` a setting of two sections: each has a page.
    pages = page[page.index("setting ") :].split("\n\nsetting ")
    assert all(problems(text, tmp_path) == "" for text in pages)


def test_a_page_in_its_own_words() -> None:
    assert explained("smooth") == """\
technique smooth (quant.smooth)
  move part of the activations' range into the weights behind a LayerNorm, for Transformers
  (SmoothQuant)

Parameters:

    alpha: float in 0.0 .. 1.0 = 0.5
        share of the range that moves into the weights; 1: all channels of the activations have
        one range afterwards
    samples: int in 1 .. 65536 = 256
        calibration samples

What it needs, accepts and returns:

    needs: calibration data
    takes: a PyTorch module
    gives: a PyTorch module
    traits: `weights_only`
    comes after: all of `prune`, all of `training`
    Size and speed depend on the settings alone.

Example:

    steps { maybe smooth { alpha = 0.5; samples = 256 } }
"""


def test_a_parameter_says_where_it_is_declared() -> None:
    page = str(explained("samples"))
    assert "Of smooth, static, qat:" in page
    assert str(explained("static.calibrator")).startswith("parameter calibrator\n\nOf static:\n")
    assert explained("dynamic.calibrator") is None


def test_codes_and_short_names() -> None:
    assert str(explained("e201")).startswith("error[E201]")
    assert str(explained("latency")).startswith("metric latency.p50\n")
    assert explained("banana") is None


@pytest.mark.parametrize(("name", "words"), [
    ("statc", "did you mean `static`?"), ("quantize", "did you mean `static`, `dynamic` or `qat`?"),
    ("onnx", "did you mean `onnxruntime`?"), ("fps", "did you mean `throughput`?"),
    ("bayesian", "did you mean `tpe` or `gp`?"), ("sampels", "did you mean `samples`?"),
    ("E2O1", "did you mean `E201`?"), ("xyzxyzxyz", "`optlang explain` lists all names"),
])
def test_an_unknown_name_is_answered_with_what_was_meant(
    name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert suggestion(name) == words
    assert command(["explain", name]) == 2
    assert words in capsys.readouterr().err


def test_the_listing_has_every_name_once_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["explain"]) == 0
    assert capsys.readouterr().out == listing()
    for item in DECLARED:
        if not isinstance(item.node, tree.Let):
            assert len(re.findall(rf"^  {re.escape(item.name)}  ", listing(), re.MULTILINE)) >= 1, item
    for name in SAMPLERS:
        assert f"\n  {name} " in listing()
