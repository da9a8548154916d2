"""Warm starts: which trials of earlier runs a search is given, and whole runs that are given some."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from optlang.plan.model import Plan
from optlang.run.job import WORKLOAD
from optlang.run.warm_start import observations
from optlang.search.observation import Observation
from optlang.store.reader import query
from optlang.store.writer import Writer
from tests.command_line import optlang
from tests.run.test_early_end import study
from tests.store.example_study import end, measurement, session, start

Make = Callable[..., Plan]

SPACE = "steps { prune = channels { ratio in [20%, 40%] }; precision in { none; dynamic } }"
OPENED = "steps { cut = channels { ratio in 10% .. 40% step 10% }; precision in { none; dynamic } }"
WARM = "warm_start = true; seed = 1"
MACHINE = {"processor": "x", "cores": 2, "memory": 8}
STEP = [{"path": "train", "technique": "training.train", "key": "k1", "cached": False, "seconds": 1.0, "started": None}]


def figures(accuracy: float, size: float, ratio: float) -> list[dict[str, Any]]:
    return [
        measurement("accuracy", accuracy, target="here"), measurement("size", size, target="here"),
        measurement("latency.p50", 1e-3 / ratio, target="here", ratio=ratio),
    ]


def point(ratio: float, precision: str = "none") -> dict[str, Any]:
    return {"here.runtime": "onnxruntime", "prune.ratio": ratio, "precision": precision}


def run_of(
    plan: Plan, run: str, trials: Sequence[dict[str, Any]] = (), *, note: str | None = "w", key: str = "k1",
    **more: Any,
) -> Iterator[dict[str, Any]]:
    """A run of the plan: its baseline, and a trial for each of the points, which get better and better."""
    number = int(run[1:])
    yield session(run, plan=plan, number=number, **{"machine": MACHINE, "versions": {"torch": "2"}, **more})
    yield start(run, 0, number=number)
    yield end(
        run, 0, measurements=figures(0.9, 1000.0, 1.0), steps=[{**STEP[0], "key": key}],
        notes={} if note is None else {WORKLOAD: note},
    )
    for trial, item in enumerate(trials, start=1):
        yield start(run, trial, item, number=number)
        yield end(run, trial, measurements=figures(0.9 - trial / 100, 1000.0 / (1 + trial), 1.0 + trial))


def given(folder: Path, plan: Plan, events: Sequence[dict[str, Any]]) -> tuple[list[Observation], list[str]]:
    said: list[str] = []
    with Writer(folder / "x.duckdb") as store:
        for event in events:
            store.record(event)
        found = observations(plan, store, "r9", said.append)
        silent: list[str] = []
        assert observations(plan, store, "r9", silent.append) == found
        assert not silent, "what was given is recorded: a later session asks nothing again"
    with Writer(folder / "x.duckdb") as store:
        assert observations(plan, store, "r9", silent.append) == found
    return found, said


def test_trials_next_to_the_same_baseline_are_given_as_this_plan_sees_them(plan_of: Make, tmp_path: Path) -> None:
    old = plan_of(SPACE)
    plan = plan_of(f"{SPACE}\nrequire size <= 400B", goals="minimize latency\n  maximize accuracy", search=WARM)
    found, said = given(tmp_path, plan, [
        *run_of(old, "r1", [point(0.2), point(0.4, "dynamic"), point(0.2)]), *run_of(plan, "r9"),
    ])
    assert found == [
        Observation(point(0.4, "dynamic"), (1 / 3, 0.88), ((1000 / 3 - 400) / 400,)),
        Observation(point(0.2), (1 / 4, 0.87), ((250 - 400) / 400,)),
    ]
    assert said == ["the search is given 2 trials of 1 earlier run; left out: 1 measured again later"]
    rows = query("SELECT position, from_run, from_trial, objectives FROM warm_starts ORDER BY ALL", [
        tmp_path / "x.duckdb"
    ]).rows
    assert [row[:3] for row in rows] == [(0, "r1", 2), (1, "r1", 3)]


def test_a_point_is_found_by_what_it_does_and_others_are_left_out(plan_of: Make, tmp_path: Path) -> None:
    old = plan_of(SPACE)
    plan = plan_of(OPENED.replace("40%", "30%"), search=WARM)
    found, said = given(tmp_path, plan, [*run_of(old, "r1", [point(0.2), point(0.4)]), *run_of(plan, "r9")])
    assert [item.point for item in found] == [{"here.runtime": "onnxruntime", "cut.ratio": 0.2, "precision": "none"}]
    assert said == ["the search is given 1 trial of 1 earlier run; left out: 1 outside this space"]


@pytest.mark.parametrize(("changed", "why"), [
    ({"key": "k2"}, "1 next to another baseline"),
    ({"note": "other"}, "1 next to another baseline"),
    ({"machine": {**MACHINE, "processor": "y"}}, "1 on another machine or with other versions of the runtimes"),
    ({"versions": {"torch": "1"}}, "1 on another machine or with other versions of the runtimes"),
])
def test_what_is_not_comparable_is_left_out(
    plan_of: Make, tmp_path: Path, changed: dict[str, Any], why: str
) -> None:
    plan = plan_of(SPACE, search=WARM)
    found, said = given(tmp_path, plan, [*run_of(plan, "r1", [point(0.2)], **changed), *run_of(plan, "r9")])
    assert not found
    assert said == [f"no trial of an earlier run of this model and data can be taken: {why}"]


def test_the_machine_counts_only_where_a_goal_or_a_requirement_depends_on_it(plan_of: Make, tmp_path: Path) -> None:
    plan = plan_of(SPACE, goals="minimize size\n  maximize accuracy", search=WARM)
    elsewhere = {"machine": {**MACHINE, "processor": "y"}}
    found, _ = given(tmp_path, plan, [*run_of(plan, "r1", [point(0.2)], **elsewhere), *run_of(plan, "r9")])
    assert [item.values for item in found] == [(500.0, 0.89)]


def test_runs_stored_before_the_workload_was_noted_are_known_by_their_steps(plan_of: Make, tmp_path: Path) -> None:
    plan = plan_of(SPACE, search=WARM)
    found, _ = given(tmp_path, plan, [*run_of(plan, "r1", [point(0.2)], note=None), *run_of(plan, "r9")])
    assert len(found) == 1


def test_what_failed_or_has_no_figure_for_a_goal_is_left_out(plan_of: Make, tmp_path: Path) -> None:
    plan = plan_of(SPACE, goals="minimize latency, macs\n  maximize accuracy", search=WARM)
    found, said = given(tmp_path, plan, [
        *run_of(plan, "r1", [point(0.2)]), start("r1", 2, point(0.4), number=1),
        end("r1", 2, "failed", reason="as asked"), *run_of(plan, "r9"),
    ])
    assert not found
    assert said[0].endswith("1 without a figure for every goal, 1 failed, paused or ended early")


def test_studies_of_another_model_are_not_spoken_of(plan_of: Make, tmp_path: Path) -> None:
    plan = plan_of(SPACE, search=WARM)
    other = plan.model_copy(update={"model": plan.model.model_copy(update={"calls": "optlang.zoo.digits:cnn2"})})
    found, said = given(tmp_path, plan, [*run_of(other, "r1", [point(0.2)]), *run_of(plan, "r9")])
    assert (found, said) == ([], ["no trial of an earlier run of this model and data can be taken"])


@pytest.mark.slow
def test_a_run_is_given_the_trials_of_another_and_their_steps_cost_it_nothing(tmp_path: Path) -> None:
    steps = "cut = parts.narrow { kept in [16, 24, 32, 48] }; back = parts.fit"
    sampler = ("sampler = random", "sampler = tpe { startup = 2 }")
    folders = [tmp_path / name for name in ("once", "twice")]
    folders[0].mkdir()
    path = study(folders[0], steps, "size <= 2 * baseline.size")
    first = optlang(folders[0], "run", path, "--trials", "4")
    assert first.returncode == 0, first.stderr
    shutil.copytree(folders[0], folders[1])
    for folder, turns in zip(folders, (["3"], ["1", "3"]), strict=True):
        path = folder / "small.opt"
        path.write_text(
            path.read_text().replace("2 * baseline.size", "0.9 * baseline.size").replace(*sampler)
            .replace("ladder = false", "ladder = false; warm_start = true")
        )
        for turn in turns:
            run = optlang(folder, "run", path, "--trials", turn)
            assert run.returncode == 0, run.stderr
            assert ("the search is given 4 trials of 1 earlier run" in run.stderr) is (turn == turns[0])
    drawn = """
        SELECT t.trial, t.point FROM trials t WHERE origin = 'sampler' AND run IN (FROM warm_starts SELECT run)
        ORDER BY t.trial
    """
    once, twice = (query(drawn, [folder / "optlang.duckdb"]).rows for folder in folders)
    assert len(once) == 3
    assert once == twice, "a run that goes on is given the same, and draws the same"
    cached = "SELECT DISTINCT s.cached FROM steps s JOIN trials t USING (run, trial) WHERE t.origin = 'sampler' AND " \
        "t.run IN (FROM warm_starts SELECT run)"
    assert query(cached, [folders[0] / "optlang.duckdb"]).rows == ((True,),)
