"""Groups of parameters: what a declaration has is what would be there if they were written out."""

from __future__ import annotations

from pathlib import Path

import pytest

from optlang.analysis.load import Loaded, load
from optlang.analysis.modules.library import library
from optlang.plan.model import Param, Plan, Technique
from optlang.report.explain import _modules, explained
from tests.analysis.modules.test_plugins import install

STUDY = """
study small {
  model net  = zoo.digits_cnn()
  data  seen = zoo.digits()
  target here { runtime in { eager; onnxruntime } }
  steps { maybe NAME { SETTINGS } }
  minimize size
}
"""
SHARED = """optlang 1

let sizes = [2, 4, 8]

params first "amounts" {
  param amount: ratio in 1% .. 99% = 50% "how much"
  param way: name in {soft, hard, random} = soft "how"
  param draws: int in 1 .. 64 = 4 when way == random "how often"
}

params second {
  with first { amount = 20% }
  param size: int in sizes = 4
}
"""
OUT = """
  param amount: ratio in 1% .. 50% = 30% "how much here"
  param way: name in {hard, random} = random "how"
  param draws: int in 1 .. 64 = 4 when way == random "how often"
  param size: int in [2, 4, 8] = 4
"""
WITH = """
  with PREFIXsecond { amount in 1% .. 50% = 30% "how much here"; way in {hard, random} = random }
"""


def written(folder: Path, above: str, facts: str, used: str = "mine", settings: str = "amount = 10%") -> Loaded:
    (folder / "mine.py").write_text("def mine(state, settings, context): ...\n")
    declared = 'technique mine {\n  calls "mine.py:mine"\n'
    declared += f"  param before: bool = false{facts}  param after: int = 1\n}}\n"
    study = STUDY.replace("NAME", used).replace("SETTINGS", settings)
    path = folder / "study.opt"
    path.write_text(f"optlang 1\n{above}\n{declared}{study}")
    return load(path)


def plan(loaded: Loaded) -> Plan:
    assert loaded.plan is not None, loaded.diagnostics
    return loaded.plan


def mine(loaded: Loaded) -> Technique:
    return next(item for item in plan(loaded).techniques if item.name == "study.mine")


@pytest.mark.parametrize(
    ("above", "prefix"),
    [("import shared", "shared."), ("import shared as other", "other."), ("from shared import second", ""), ("", "")],
    ids=["module", "alias", "name", "own"],
)
def test_the_plan_is_that_of_what_is_written_out(above: str, prefix: str, tmp_path: Path) -> None:
    expected = written(tmp_path, "", OUT)
    (tmp_path / "shared.opt").write_text(SHARED)
    above = above or SHARED.partition("\n")[2]
    found = written(tmp_path, above, WITH.replace("PREFIX", prefix))
    assert not found.diagnostics
    assert mine(found) == mine(expected)
    assert plan(found).meaning == plan(expected).meaning
    assert [item.name for item in mine(found).params] == ["before", "amount", "way", "draws", "size", "after"]


def test_a_condition_of_the_declaration_names_what_the_group_has(tmp_path: Path) -> None:
    facts = "\n  with first\n  param much: bool = true when amount > 10%\n"
    found = written(tmp_path, SHARED.partition("\n")[2], facts)
    params = {item.name: item for item in mine(found).params}
    assert "amount" in str(params["much"].when)


def test_a_groups_condition_names_only_its_own(tmp_path: Path) -> None:
    group = "params first {\n  param draws: int = 1 when before\n}\n"
    found = written(tmp_path, group, "\n  with first\n", settings="")
    assert [(item.code, item.message) for item in found.diagnostics] == [("E201", "unknown name `before`")]


def test_a_mistake_in_a_group_of_another_file_is_told_once_and_there(tmp_path: Path) -> None:
    (tmp_path / "shared.opt").write_text(SHARED.replace("1% .. 99% = 50%", "99% .. 1% = 50%"))
    others = "".join(
        f'technique more{i} {{\n  calls "mine.py:mine"\n  with shared.second\n}}\n' for i in range(3)
    )
    found = written(tmp_path, f"import shared\n{others}", "\n  with shared.first, shared.second\n")
    told = {(item.code, Path(item.primary.span.file).name) for item in found.diagnostics}
    assert told == {("E401", "shared.opt"), ("E202", "study.opt")}
    assert len(found.diagnostics) == 2


@pytest.mark.parametrize("sort", ["runtime", "pipeline", "model", "data"])
def test_everything_that_has_parameters_may_use_groups(sort: str, tmp_path: Path) -> None:
    facts = "steps { magnitude { sparsity = amount } }" if sort == "pipeline" else f'calls "mine.py:{sort}"'
    (tmp_path / "mine.py").write_text(
        "def runtime(): ...\ndef model(amount, way, draws): ...\ndef data(amount, way, draws): ...\n"
    )
    used = {
        "runtime": ("runtime in { eager; onnxruntime }", "runtime = used { amount = 10% }"),
        "pipeline": ("maybe NAME { SETTINGS }", "maybe used { amount in {10%, 20%} }"),
        "model": ("zoo.digits_cnn()", "used(amount = 10%)"), "data": ("zoo.digits()", "used(way = hard)"),
    }
    study = STUDY.replace(*used[sort]).replace("NAME { SETTINGS }", "magnitude { sparsity in {10%, 20%} }")
    path = tmp_path / "study.opt"
    path.write_text(f"{SHARED}\n{sort} used {{\n  {facts}\n  with first\n}}\n{study}")
    found = load(path)
    assert not found.diagnostics
    assert plan(found).knobs


@pytest.mark.parametrize("sort", ["technique", "runtime", "pipeline", "model", "data"])
def test_what_an_unknown_group_may_have_is_not_told_as_unknown(sort: str, tmp_path: Path) -> None:
    facts = "steps { magnitude { sparsity = amount } }" if sort == "pipeline" else f'calls "mine.py:{sort}"'
    (tmp_path / "mine.py").write_text("".join(
        f"def {name}(amount, way): ...\n" for name in ("technique", "runtime", "model", "data")
    ))
    step = ("maybe NAME { SETTINGS }", "maybe used { amount = 10% }")
    used = {
        "runtime": ("runtime in { eager; onnxruntime }", "runtime in { eager; used { amount = 10% } }"),
        "model": ("zoo.digits_cnn()", "used(amount = 10%)"), "data": ("zoo.digits()", "used(way = hard)"),
    }
    study = STUDY.replace(*used.get(sort, step)).replace("NAME { SETTINGS }", "magnitude")
    path = tmp_path / "study.opt"
    path.write_text(
        f"{SHARED}\n{sort} used {{\n  {facts}\n  with nothing\n  param more: bool = true when amount > 2%\n}}\n{study}"
    )
    errors = [item for item in load(path).diagnostics if item.severity == "error"]
    assert [(item.code, item.message) for item in errors if item.code != "E702"] == [
        ("E201", "unknown group of parameters `nothing`")
    ]


def test_a_pipelines_parameters_are_those_of_its_group(tmp_path: Path) -> None:
    path = tmp_path / "study.opt"
    body = "\n  with first { amount in 10% .. 40% = 20% }\n  steps { zero = magnitude { sparsity = amount } }\n"
    study = STUDY.replace("NAME", "little").replace("SETTINGS", "amount in {10%, 30%}")
    path.write_text(f"{SHARED}\npipeline little {{{body}}}\n{study}")
    found = load(path)
    assert not found.diagnostics
    assert [knob.path for knob in plan(found).knobs] == ["here.runtime", "little", "little.amount"]
    path.write_text(path.read_text().replace("{10%, 30%}", "{10%, 50%}"))
    assert [item.code for item in load(path).diagnostics] == ["E406"]


def test_a_group_that_only_an_import_brings_counts_as_its_use(tmp_path: Path) -> None:
    (tmp_path / "shared.opt").write_text(SHARED)
    assert not written(tmp_path, "import shared", "\n  with shared.first\n").diagnostics


def test_the_library_says_a_group_once_and_shows_it_everywhere() -> None:
    modules, _ = library()
    train, tuned = (modules["training"].declared[name] for name in ("train", "finetune"))
    names = [member.node.name.text for member in train.members]
    assert names[:3] == ["epochs", "lr", "optimizer"]
    assert names == [member.node.name.text for member in tuned.members]
    assert "    epochs: int in 1 .. 10000 = 3\n        passes over the training data\n" in str(explained("finetune"))
    shown = str(explained("samples"))
    assert "Of channels, channels_to_budget, channels_to_latency, widths, heads, units, magnitude:" not in shown
    assert "scores" not in shown
    assert str(explained("prune.scores")).startswith("group of parameters scores (prune.scores)\n")


def test_a_group_of_an_installed_module_is_used_and_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    used = 'with second, prune.pruned_layers { keep "what stays" }'
    technique = f'\ntechnique grid {{ calls "coarse_parts:grid"; {used} }}\n'
    install(site, "coarse-parts", "coarse_parts", SHARED + technique, value="coarse_parts:coarse.opt")
    (site / "coarse_parts" / "__init__.py").write_text("def grid(state, settings, context): ...\n")
    monkeypatch.syspath_prepend(str(site))
    home = tmp_path / "home"
    home.mkdir()
    found = written(home, "import coarse", "\n  with coarse.first\n", "coarse.grid", "size in any")
    assert not found.diagnostics
    grid: tuple[Param, ...] = next(item.params for item in plan(found).techniques if item.name == "coarse.grid")
    assert [item.name for item in grid] == ["amount", "way", "draws", "size", "keep", "only"]
    _modules.cache_clear()
    try:
        page = str(explained("coarse.grid"))
    finally:
        _modules.cache_clear()
    assert "    amount: ratio in 1% .. 99% = 20%\n        how much\n" in page
    assert "    keep: names = []\n        what stays\n" in page
    assert "    only: names = []\n        the layers to prune" in page
