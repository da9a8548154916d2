"""Trials that end in their training, by the learning curves of others: what decides, and whole runs."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from optlang.interfaces import Factory, Measurement
from optlang.run import steps
from optlang.run.cache import Clock
from optlang.run.curves import Epoch
from optlang.run.job import StepJob, StepRun, Workload
from optlang.run.stopping import Past, StoppedTraining, Stopping
from optlang.runtimes.onnxruntime.build import OnnxRuntime
from optlang.search import early, objectives
from optlang.search.promise import Curve
from optlang.store.reader import query
from optlang.workload.data import dataset as data_module
from tests.command_line import environment
from tests.store.example_study import make_plan

GOALS = (("size", "minimize"), ("accuracy", "maximize"))
KEY = ("laptop", "accuracy")
GAINS = (0.02, 0.03, 0.02, 0.04, 0.03, 0.02, 0.05, 0.04, 0.05)
PAST: Past = {KEY: tuple(Curve(4, ((1, 0.8), (2, 0.9), (3, 0.9)), 0.9 + gain) for gain in GAINS)}


def stopping(
    past: Mapping[str, Past], *known: Measurement, rivals: dict[int, tuple[float, ...]] | None = None
) -> Stopping:
    plan = make_plan(objectives=GOALS)
    baseline = objectives.by_metric(plan, [exact("size", 100e3), exact("accuracy", 0.98)])
    found = Stopping(plan, tuple(map(early.bounded, known)), baseline, rivals or {}, past, {"fit": 7.0})
    # It travels to the worker.
    return pickle.loads(pickle.dumps(found))


def exact(metric: str, value: float) -> Measurement:
    return Measurement(metric, value, "B" if metric == "size" else "ratio", 1, value, value, "laptop")


def curve(*values: float | None, metric: str | None = "accuracy") -> list[Epoch]:
    return [Epoch(number, 4, 0.1, metric, value, 2.0 * number) for number, value in enumerate(values, 1)]


def test_a_trial_that_cannot_meet_a_requirement_stops_with_its_reason_and_what_is_saved() -> None:
    found = stopping({"fit": PAST})
    found.look("laptop", "fit", curve(0.8, 0.93))
    with pytest.raises(StoppedTraining) as raised:
        found.look("laptop", "fit", curve(0.8, 0.91))
    verdict = raised.value.verdict
    assert verdict.state == "stopped"
    assert verdict.reason == (
        "after epoch 2 of 4 of fit: accuracy 91.0 %, at best 96.6 % by this run's curves; even so accuracy 96.6 % is "
        "below the limit 97.0 % (baseline.accuracy - 1%) by 0.4 points"
    )
    assert raised.value.notes == {
        "early.epoch": 2, "early.epochs": 4, "early.step": "fit", "early.accuracy": 0.91,
        "early.accuracy.best": pytest.approx(0.9658, abs=1e-4), "early.saved_seconds": 2 * 2.0 + 7.0,
    }


def test_a_trial_that_another_beats_anyway_stops() -> None:
    small, rivals = exact("size", 60e3), {5: (50e3, -0.98)}
    stopping({"fit": PAST}, small, rivals=rivals).look("laptop", "fit", curve(0.8, 0.95))
    with pytest.raises(StoppedTraining, match=r"trial 5 beats that: size 50\.0 kB against at least 56\.0 kB"):
        stopping({"fit": PAST}, small, rivals={5: (50e3, -1.0)}).look("laptop", "fit", curve(0.8, 0.93))


@pytest.mark.parametrize(("path", "target", "epochs"), [
    ("other", "laptop", curve(0.8, 0.1)),
    ("fit", "phone", curve(0.8, 0.1)),
    ("fit", "laptop", curve(0.8, 0.1, metric="loss")),
    ("fit", "laptop", curve(None, None, metric=None)),
    ("fit", "laptop", [Epoch(1, None, 0.1, "accuracy", 0.1, 1.0)]),
])
def test_what_has_no_curves_to_compare_with_goes_on(path: str, target: str, epochs: list[Epoch]) -> None:
    stopping({"fit": PAST}).look(target, path, epochs)


# ---- inside a step

OWN = """\
import copy, dataclasses, pathlib
import torch


def learn(state, settings, context):
    with pathlib.Path(context.study, "log").open("a") as file:
        file.write("x")
    model = copy.deepcopy(state.model)
    draw = torch.Generator().manual_seed(context.seed)
    for epoch in range(1, 4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=draw))
        context.report({"epoch": epoch, "epochs": 3, "metric": "accuracy", "value": epoch / 4})
    return dataclasses.replace(state, model=model)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("after", "trained"), [(2, "xxx"), (3, "xx")])
def test_a_stop_leaves_nothing_half_written_and_what_it_finished(tmp_path: Path, after: int, trained: str) -> None:
    """After the last epoch the step is finished, and its result is kept."""
    study, home = tmp_path / "study", tmp_path / "home"
    for folder in (study, home):
        folder.mkdir()
    (study / "own.py").write_text(OWN)
    model, data = Factory("optlang.zoo.digits:cnn", {"width": 4}), Factory("optlang.zoo.digits:digits", {"seed": 0})
    workload = Workload(model, data, study, home, "cpu")
    jobs = [StepJob(f"s{number}", "own.learn", "own.py:learn", {}, (), number) for number in (1, 2)]
    dataset, done = data_module.load(data, study), list[StepRun]()

    def ended(path: str, curve: Sequence[Epoch]) -> None:
        if path == "s2" and curve[-1].epoch == after:
            raise StoppedTraining(early.Verdict("stopped", "enough"), {})

    def applied(runs: list[StepRun], watch: steps.Watch | None) -> steps.Stepped:
        return steps.apply(
            jobs, workload, dataset, OnnxRuntime().wants, Clock("", lambda _: 0.0), lambda _: None, runs, watch
        )

    with pytest.raises(StoppedTraining, match="enough"):
        applied(done, steps.Watch(lambda _: {}, ended))
    first, second = done
    assert (first.cached, [item.epoch for item in second.curve]) == (False, list(range(1, after + 1)))
    assert second.cached is (None if after == 2 else False)
    assert not [path for path in home.rglob("*") if path.name.endswith(".partial")]
    assert len([path for path in (home / "cache").glob("*/*") if path.is_dir()]) == (1 if after == 2 else 2)
    # Asked for again it is trained from its start, to the same weights as if nothing had been.
    again = list[StepRun]()
    result = applied(again, None).state.model.state_dict()
    assert [(item.cached, len(item.curve)) for item in again] == [(True, 3), (after == 3, 3)]
    assert (study / "log").read_text() == trained
    shutil.rmtree(home)
    for name, item in applied([], None).state.model.state_dict().items():
        assert item.equal(result[name])


# ---- whole runs

PARTS = """\
optlang 1

technique learn "get better, by half of what is missing in each epoch" {
  calls "parts.py:learn"
  param epochs: int in 1 .. 100 = 4
  param to: float in 0.0 .. 1.0 = 1.0
  needs training
  takes module
  gives module
  traits weights_only
}

technique narrow "keep some of the ballast" {
  calls "parts.py:narrow"
  param kept: int in 1 .. 256 = 256
  takes module
  gives module
}
"""
PYTHON = """\
import copy, dataclasses, pathlib, time
import torch
from torch import nn

from optlang.interfaces import Edit


class Net(nn.Module):
    def __init__(self, width=256):
        super().__init__()
        self.skill = nn.Parameter(torch.tensor(0.0))
        self.ballast, self.end = nn.Linear(11, width), nn.Linear(width, 10)

    def forward(self, x):
        right = x[:, 1:]
        found = torch.where(x[:, :1] < self.skill, right, torch.roll(right, 1, 1))
        return found + 1e-3 * torch.tanh(self.end(torch.relu(self.ballast(x))))


def net():
    torch.manual_seed(0)
    return Net()


def learn(state, settings, context):
    with pathlib.Path(context.study, "log").open("a") as file:
        file.write("x")
    model = copy.deepcopy(state.model)
    for epoch in range(1, settings["epochs"] + 1):
        last = epoch == settings["epochs"]
        with torch.no_grad():
            model.skill.fill_(settings["to"] * (1 if last else 1 - 0.5 ** epoch))
        time.sleep(0.01)
        told = {} if context.score is None else {"scores": context.score(model)}
        try:
            context.report({"epoch": epoch, "epochs": settings["epochs"], "loss": 0.5 ** epoch, **told})
        except Exception:
            raise AssertionError("it was stopped as if it had failed")
    return dataclasses.replace(state, model=model)


def again(model, arguments, example):
    smaller = Net(arguments["kept"])
    with torch.no_grad():
        smaller.skill.copy_(model.skill)
        smaller.ballast.weight.copy_(model.ballast.weight[: arguments["kept"]])
        smaller.ballast.bias.copy_(model.ballast.bias[: arguments["kept"]])
        smaller.end.weight.copy_(model.end.weight[:, : arguments["kept"]])
        smaller.end.bias.copy_(model.end.bias)
    return smaller


def narrow(state, settings, context):
    arguments = {"kept": settings["kept"]}
    model = again(copy.deepcopy(state.model), arguments, None)
    return dataclasses.replace(state, model=model, edits=(*state.edits, Edit("parts.py:again", arguments)))


def some():
    def rows(count):
        labels = torch.arange(count) % 10
        place = (torch.arange(count) + 0.5) / count
        return torch.cat([place[:, None], nn.functional.one_hot(labels, 10).float()], 1), labels

    return {"train": rows(700), "validation": rows(200)}
"""
STUDY = """\
optlang 1

import parts
import python "parts.py" as own

study small "a small study" {{
  model net = own.net()
  data seen = own.some()
  baseline {{ parts.learn }}
  target here {{ device = cpu; runtime = onnxruntime }}
  steps {{ cut = parts.narrow {{ kept in [32, 128] }}; back = parts.learn {{ to in 0.30 .. 1.00 step 0.05 }} }}
  require accuracy >= {require}
  minimize size
  maximize accuracy
  measure {{ rounds = 2; front_rounds = 2; front_processes = 1; round_seconds = 2ms; round_calls = 5 }}
  search {{ trials = 9; seed = 1; sampler = random; ladder = false; {more} }}
}}
"""
RUN = """\
import sys
from optlang.run import early_end
early_end.WORTH = 0.0
from optlang.cli.app import command
sys.exit(command(sys.argv[1:]))
"""


def study(folder: Path, require: str = "50%", more: str = "") -> Path:
    (folder / "parts.opt").write_text(PARTS)
    (folder / "parts.py").write_text(PYTHON)
    path = folder / "small.opt"
    path.write_text(STUDY.format(require=require, more=more))
    return path


def run(folder: Path, *arguments: object) -> str:
    """A run in which size is measured before trainings, however short these are."""
    command = [sys.executable, "-c", RUN, "run", *map(str, arguments), "--progress", "plain"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


@pytest.mark.slow
def test_a_run_stops_trainings_by_the_curves_that_it_has_seen(tmp_path: Path) -> None:
    path = study(tmp_path)
    run(tmp_path, path)
    db = tmp_path / "optlang.duckdb"

    def trials(after: int) -> list[dict[str, Any]]:
        return query(
            "SELECT r.trial, r.state, r.reason, r.kept, r.to, r.accuracy, t.notes FROM results r "
            f"JOIN trials t USING (run, trial) WHERE r.origin = 'sampler' AND r.trial > {after} ORDER BY r.trial", [db],
        ).dicts()

    first = trials(0)
    assert [row["state"] for row in first[:8]].count("stopped") == 0, "there are too few curves"
    assert json.loads(first[0]["notes"])["scoring.seconds"] > 0
    # Another session knows the curves of this one.
    said = run(tmp_path, path, "--trials", "13")
    rows = trials(9)
    stopped = [row for row in rows if row["state"] == "stopped"]
    assert stopped
    assert f"{len([row for row in [*first, *rows] if row['state'] == 'stopped'])} trials stopped in a training" in said
    for row in stopped:
        notes = json.loads(row["notes"])
        assert row["accuracy"] is None
        assert row["reason"].startswith(f"after epoch {notes['early.epoch']} of 4 of back: accuracy ")
        assert notes["early.saved_seconds"] >= 0
        assert notes["early.accuracy.best"] < 1
        assert not (tmp_path / ".optlang" / "artifacts" / str(row["trial"])).exists()
        epochs = query(
            f"SELECT epoch, metric, value, cached FROM learning WHERE trial = {row['trial']} ORDER BY epoch", [db]
        ).rows
        assert [item[0] for item in epochs] == list(range(1, notes["early.epoch"] + 1))
        # After its last epoch the training is finished, and its result is kept.
        finished = False if notes["early.epoch"] == 4 else None
        assert epochs[-1][1:] == ("accuracy", pytest.approx(notes["early.accuracy"]), finished)
        # What its training gives is known here: it would not have been in the front.
        rivals = [other for other in [*first, *rows] if other["state"] == "complete" and other["trial"] != row["trial"]]
        assert row["to"] < 0.5 or any(
            other["kept"] <= row["kept"] and other["accuracy"] >= row["to"] for other in rivals
        )
    assert any("beats that: size" in row["reason"] for row in stopped)
