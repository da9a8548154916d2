"""A trial carried out again from nothing: nothing of the first run is used, and the same comes out."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from optlang.interfaces import OptlangError, OutsideError
from optlang.plan.model import Plan
from optlang.run.repeat import Wanted, recipe_of
from optlang.search.ablation import ablation_trials, baseline_recipe
from optlang.space.recipe import resolve
from optlang.space.space import Space
from tests.command_line import optlang
from tests.run.test_study import PARTS, PYTHON, STUDY, rows

PlanOf = Callable[..., Plan]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study in a folder of its own. It trains, so that a seed decides the weights."""
    (tmp_path / "parts.opt").write_text(PARTS)
    (tmp_path / "parts.py").write_text(PYTHON)
    steps = "parts.nap { number in 1 .. 1000 }; precision in { none; dynamic }"
    text = STUDY.format(steps=steps, more="", trials=2, patience="2min").replace(
        "baseline { parts.nap }", "baseline { train { epochs = 1 } }"
    ).replace("minimize latency, size", "minimize size").replace("sampler = random", "ladder = false")
    (tmp_path / "small.opt").write_text(text)
    return tmp_path


ARTIFACTS = "SELECT trial, files FROM artifacts ORDER BY trial"
FIGURES = """
    SELECT trial, metric, value FROM measurements
    WHERE metric IN ('accuracy', 'agreement', 'size', 'sparsity') AND pass = 0 ORDER BY ALL
"""
POINTS = "SELECT trial, state, point FROM trials ORDER BY trial"


def changed_by_hand(folder: Path, name: str, *statements: str) -> Path:
    """A copy of the database, without its journal, that says something else."""
    (folder / name).mkdir()
    path = folder / name / "optlang.duckdb"
    shutil.copyfile(folder / "one" / "optlang.duckdb", path)
    with duckdb.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


@pytest.mark.slow
def test_a_study_and_a_trial_are_repeated_and_a_figure_changed_by_hand_is_not(folder: Path) -> None:
    found = []
    for name in ("one", "two"):
        done = optlang(folder, "run", "small.opt", "--home", folder / name, "--db", f"{name}/optlang.duckdb")
        assert done.returncode == 0, done.stderr
        found.append([rows(folder / name, sql) for sql in (POINTS, FIGURES, ARTIFACTS)])
    assert found[0] == found[1]
    assert [row["state"] for row in found[0][0]] == ["complete"] * 3

    # How far two latencies are apart on a busy machine is not what is tested.
    wide = "UPDATE measurements SET ratio_low = 0, ratio_high = 1000 WHERE ratio IS NOT NULL"
    good = changed_by_hand(folder, "good", wide)
    before = good.read_bytes()
    again = optlang(folder, "repeat", "small", 2, "--db", good, "-o", "kept")
    assert again.returncode == 0, again.stdout + again.stderr
    verdicts = {line.split()[0]: line.split()[-1] for line in again.stdout.splitlines() if line}
    for name in ("files", "size", "parameters", "accuracy", "agreement"):
        assert verdicts[name] == "same", again.stdout
    assert re.search(r"^latency\.p50 .* within\b", again.stdout, re.MULTILINE), again.stdout
    assert "no figure differs" in again.stdout
    assert good.read_bytes() == before
    # Nothing of the first run was used, and what was made is kept under the same number.
    assert rows(folder / "kept", "SELECT DISTINCT cached FROM steps WHERE trial = 0") == [{"cached": False}]
    assert [row["trial"] for row in rows(folder / "kept", "SELECT trial FROM trials ORDER BY trial")] == [0, 2]

    bad = changed_by_hand(folder, "bad", wide, "UPDATE measurements SET value = value + 1 WHERE metric = 'size'")
    again = optlang(folder, "repeat", "small.opt", 2, "--db", bad)
    assert again.returncode == 1, again.stdout + again.stderr
    assert "The trial was not repeated: size differs." in again.stdout


def test_what_a_trial_did_is_found_by_its_point(plan_of: PlanOf) -> None:
    plan = plan_of("steps { precision in { none; dynamic } }")
    point = next(iter(Space(plan).points()))
    baseline = baseline_recipe(plan).label
    wanted = Wanted(4, "sampler", None, "", baseline, dict(point), tested=False)
    assert recipe_of(plan, wanted, {}) == (resolve(plan, point), point)
    assert recipe_of(plan, Wanted(0, "baseline", None, "", baseline, None, tested=False), {})[0].steps == ()
    with pytest.raises(OptlangError, match="trial 4 is no point of the newest plan"):
        recipe_of(plan, Wanted(4, "sampler", None, "", baseline, {**point, "gone": 1}, tested=False), {})


def test_what_a_trial_of_the_ladder_did_is_found_by_its_technique(plan_of: PlanOf) -> None:
    plan = plan_of("steps { repeat rounds in 1 .. 2 { channels { ratio = 20% }; finetune { epochs = 1 } }; dynamic }")
    space = Space(plan)
    trial = next(trial for trial in ablation_trials(plan, space, {}) if trial.point is None and trial.recipe.steps)
    wanted = Wanted(2, "ladder", trial.alone, trial.recipe.label, baseline_recipe(plan).label, None, tested=False)
    assert recipe_of(plan, wanted, {}) == (trial.recipe, None)


def test_a_runtime_that_is_missing_here_is_named(plan_of: PlanOf) -> None:
    plan = plan_of("steps { precision in { none; dynamic } }")
    missing = {use.path: "no openvino" for use in plan.targets[0].runtimes if use.label == "openvino"}
    point = next(point for point in Space(plan).points() if resolve(plan, point).label == "openvino")
    wanted = Wanted(4, "sampler", None, "", baseline_recipe(plan).label, dict(point), tested=False)
    with pytest.raises(OutsideError, match="trial 4 runs on openvino, which this machine lacks: no openvino"):
        recipe_of(plan, wanted, missing)
    other = Wanted(4, "sampler", None, "", "tensorrt", dict(point), tested=False)
    with pytest.raises(OutsideError, match="the baseline ran on tensorrt"):
        recipe_of(plan, other, {})
