"""Learning curves: what is taken from a technique's reports, and that they stay with a step's result."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from optlang.interfaces import Factory, Refusal
from optlang.run import steps, trial
from optlang.run.cache import Cache, Clock
from optlang.run.curves import CurveRecorder, Epoch, read_curve, write_curve
from optlang.run.job import StepJob, StepRun, Workload
from optlang.runtimes.onnxruntime.build import OnnxRuntime
from optlang.store.curves import curve_event, curve_rows, curves_of
from optlang.workload.data import dataset as data_module

OWN = '''\
import copy
import dataclasses

import torch

from optlang.interfaces import Refusal


def learn(state, settings, context):
    model = copy.deepcopy(state.model)
    with torch.no_grad():
        next(model.parameters()).mul_(settings["by"])
    for number in (1, 2, 3):
        if settings["by"] > 2 and number == 3:
            raise Refusal("it went astray")
        context.report({"epoch": number, "epochs": 3, "loss": 1 / number, "metric": "accuracy", "value": number / 4})
    return dataclasses.replace(state, model=model)
'''


def test_only_whole_epochs_and_finite_numbers_are_taken() -> None:
    recorder = CurveRecorder()
    recorder({"layer": 1, "layers": 4})
    recorder({"epoch": True, "loss": 1.0})
    recorder({"epoch": 1, "epochs": 2, "loss": 0.123456789, "metric": "loss", "value": 0.5})
    recorder({"epoch": 2, "epochs": "many", "loss": math.nan, "metric": 3, "value": "high"})
    first, second = (replace(item, seconds=0.0) for item in recorder.curve)
    assert first == Epoch(1, 2, 0.123457, "loss", 0.5, 0.0)
    assert second == Epoch(2, None, None, None, None, 0.0)


def test_a_curve_is_read_as_it_was_written_and_may_be_absent(tmp_path: Path) -> None:
    curve = (Epoch(1, 2, 0.5, "loss", 0.25, 1.5), Epoch(2, 2, 0.25, None, None, 3.0))
    write_curve(tmp_path, curve)
    assert read_curve(tmp_path) == curve
    assert read_curve(tmp_path / "before") == read_curve(None) == ()


def test_the_journal_has_a_curve_as_lists_and_the_table_as_rows() -> None:
    epochs = [
        {"epoch": number, "epochs": 2, "loss": 0.5, "metric": None, "value": None, "seconds": 1.0, "target": target}
        for target in (None, "b") for number in (1, 2)
    ]
    events = json.loads(json.dumps(list(curve_event("fit", False, epochs))))
    assert [(event.get("target"), event["epoch"]) for event in events] == [(None, [1, 2]), ("b", [1, 2])]
    rows = curve_rows("r", 3, events)
    assert [(row["trial"], row["path"], row["target"], row["epoch"]) for row in rows] == [
        (3, "fit", None, 1), (3, "fit", None, 2), (3, "fit", "b", 1), (3, "fit", "b", 2)
    ]
    assert curves_of(rows) == events


def test_a_step_has_the_curve_of_each_target_on_which_its_result_is_another() -> None:
    curve = (Epoch(1, 1, 0.5, None, None, 1.0),)
    runs: list[StepRun] = []
    trial.merge(runs, [StepRun("fit", "t", "k", False, 1.0, "", curve)], "a")
    trial.merge(runs, [StepRun("fit", "t", "k", True, 0.0, "", curve)], "b")
    assert runs[0].curve == curve
    trial.merge(runs, [StepRun("fit", "t", "other", False, 1.0, "", curve)], "c")
    assert runs[0].curve == (*curve, replace(curve[0], target="c"))


@pytest.mark.slow
def test_the_cache_has_the_curve_and_a_step_that_is_broken_off_keeps_its_own(tmp_path: Path) -> None:
    study, home = tmp_path / "study", tmp_path / "home"
    for folder in (study, home):
        folder.mkdir()
    (study / "own.py").write_text(OWN)
    model, data = Factory("optlang.zoo.digits:cnn", {"width": 4}), Factory("optlang.zoo.digits:digits", {"seed": 0})
    workload = Workload(model, data, study, home, "cpu")

    def run(by: float) -> list[StepRun]:
        jobs = [
            StepJob(f"s{number}", "own.learn", "own.py:learn", {"by": each}, (), 1)
            for number, each in enumerate((1.5, by))
        ]
        done: list[StepRun] = []
        loaded = data_module.load(data, study)
        with suppress(Refusal):
            steps.apply(jobs, workload, loaded, OnnxRuntime().wants, Clock("", lambda _: 0.0), lambda _: None, done)
        return done

    first, again = run(2.0), run(2.0)
    assert [item.cached for item in first] == [False, False]
    assert [item.cached for item in again] == [True, True]
    for item in first:
        assert [(epoch.loss, epoch.metric, epoch.value) for epoch in item.curve] == [
            (1.0, "accuracy", 0.25), (0.5, "accuracy", 0.5), (0.333333, "accuracy", 0.75)
        ]
    assert [item.curve for item in again] == [item.curve for item in first]
    before, broken = run(3.0)
    assert before.cached
    assert (broken.key, broken.cached, len(broken.curve)) == (None, None, 2)
    assert Cache(home / "cache").find(first[1].key or "") is not None
