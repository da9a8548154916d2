"""Modules that installed distributions bring: found without an import, told where they cannot be had."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.cli.app import command
from optlang.cli.doctor import examine, page
from optlang.diagnostics.model import Diagnostic
from optlang.plan.model import Apply, Maybe
from optlang.report.explain import _modules

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "language" / "declarations.md").read_text()
DOCUMENTED = PAGE[PAGE.index("## A module for others"):]
MODULE, STUDY = re.findall(r"```text\n(.*?)```", DOCUMENTED, re.DOTALL)
VALUE, = re.findall(r'^coarse = "(.*)"$', DOCUMENTED, re.MULTILINE)


def install(site: Path, distribution: str, package: str, text: str, *, name: str = "coarse", value: str) -> None:
    """Put a distribution into `site` as pip does: its package, and what it says of itself."""
    about = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[optlang.modules]\n{name} = {value}\n")
    (site / package).mkdir()
    (site / package / "__init__.py").write_text("")
    (site / package / f"{name}.opt").write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed distributions, the documented one among them."""
    found = tmp_path / "site"
    install(found, "optlang-coarse", "optlang_coarse", MODULE, value=VALUE)
    parts = re.search(r"<!-- example: parts\.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert parts is not None
    (found / "optlang_coarse" / "weights.py").write_text(parts[1])
    monkeypatch.syspath_prepend(str(found))
    return found


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "small.opt"
    path.parent.mkdir()
    path.write_text(STUDY)
    return path


def problems(study: Path) -> list[Diagnostic]:
    return list(load(study).diagnostics)


def test_it_is_read_and_nothing_of_it_is_imported(site: Path, study: Path) -> None:
    (site / "optlang_coarse" / "__init__.py").write_text("raise RuntimeError('imported')")
    loaded = load(study)
    assert not loaded.diagnostics
    assert loaded.plan is not None
    step = loaded.plan.steps[0]
    assert isinstance(step, Maybe)
    assert isinstance(step.steps[0], Apply)
    assert step.steps[0].technique == "coarse.grid"
    assert "optlang_coarse" not in sys.modules


@pytest.mark.slow
def test_it_runs_in_a_study(site: Path, study: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(site)))}

    def optlang(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "optlang", *arguments], cwd=study.parent, capture_output=True, text=True,
            check=False, env=environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    measure = "measure { rounds = 2; front_rounds = 2; front_processes = 1; round_seconds = 2ms; round_calls = 5 }"
    study.write_text(STUDY.replace("  search", f"  {measure}\n  search"))
    optlang("run", "small.opt")
    sql = "SELECT bits, size_compressed_x > 1 AS smaller FROM results WHERE origin = 'sampler' AND grid ORDER BY bits"
    found = json.loads(optlang("sql", sql, "--format", "json"))
    assert found, "two of three points have the step"
    assert all(row["smaller"] for row in found)


def test_a_file_beside_the_study_goes_before_it(site: Path, study: Path) -> None:
    (study.parent / "coarse.opt").write_text(MODULE.replace("grid", "raster"))
    assert [item.code for item in problems(study)] == ["E201"]


def test_a_name_that_two_bring_is_neithers(site: Path, study: Path) -> None:
    install(site, "coarse-too", "coarse_too", MODULE, value="coarse_too:coarse.opt")
    found, = problems(study)
    assert found.code == "E704"
    assert found.message == "the module `coarse` is brought by `coarse-too` and by `optlang-coarse`"
    assert study.read_text()[found.primary.span.start: found.primary.span.end] == "coarse"
    examined = examine(study.parent / "optlang.duckdb")
    assert [item.distribution for item in examined.modules] == ["coarse-too", "optlang-coarse"]
    assert "pip uninstall coarse-too" in page(examined)


def test_a_name_of_the_library_is_nobody_elses(site: Path, study: Path) -> None:
    install(site, "quant-too", "quant_too", MODULE, name="quant", value="quant_too:quant.opt")
    study.write_text(STUDY.replace("coarse", "quant").replace("quant.grid { bits in [3, 6] }", "quant.static"))
    found, = problems(study)
    assert found.code == "E704"
    assert found.message == "the module `quant` is brought by the standard library and by `quant-too`"
    study.write_text(STUDY.replace("import coarse\n", "").replace("coarse.grid { bits in [3, 6] }", "finetune"))
    assert not problems(study), "who does not import it notices nothing"


@pytest.mark.parametrize(
    "value", ["absent:coarse.opt", "optlang_coarse:absent.opt", "optlang_coarse", "optlang_coarse:weights.py"]
)
def test_an_entry_point_that_leads_nowhere_is_told(value: str, site: Path, study: Path) -> None:
    (site / "optlang_coarse-1.0.dist-info" / "entry_points.txt").write_text(f"[optlang.modules]\ncoarse = {value}\n")
    found, = problems(study)
    assert found.code == "E203"
    assert f'its entry point says "{value}"' in found.primary.text


def test_a_file_of_python_is_no_object_of_an_installed_module(site: Path, study: Path) -> None:
    (site / "optlang_coarse" / "coarse.opt").write_text(MODULE.replace("optlang_coarse.weights:", "weights.py:"))
    found, = problems(study)
    assert (found.code, found.primary.span.file) == ("E703", (site / "optlang_coarse" / "coarse.opt").as_posix())


def test_a_slip_in_its_name_is_understood(site: Path, study: Path) -> None:
    study.write_text(STUDY.replace("import coarse", "import corse"))
    assert problems(study)[0].help == "did you mean `coarse`?"


def test_what_a_distribution_brings_is_explained(site: Path, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "optlang_coarse" / "__init__.py").write_text("raise RuntimeError('imported')")
    # What is installed is looked for once a command.
    _modules.cache_clear()
    try:
        assert command(["explain", "coarse.grid"]) == 0
        told = capsys.readouterr().out
    finally:
        _modules.cache_clear()
    assert told.startswith("technique grid (coarse.grid)\n")
    assert "    import coarse\n\n    steps { maybe coarse.grid" in told
    assert "optlang_coarse" not in sys.modules
