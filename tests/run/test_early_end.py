"""Trials that end before their training, by what is measured without it: which may, and whole runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.plan.model import Plan
from optlang.run.budget import past_trial
from optlang.run.forecast import Rates
from optlang.space.recipe import Applied, resolve
from optlang.space.trainings import without_training
from optlang.store.reader import query
from optlang.store.writer import Writer
from tests.command_line import optlang
from tests.noise import NOISE
from tests.store.example_study import end, session, start

ROOT = Path(__file__).parents[2]

PARTS = """\
optlang 1

technique fit "write down that it ran" {
  calls "parts.py:fit"
  param epochs: int in 1 .. 100 = 3
  param by: float in 0.5 .. 2.0 = 1.0
  needs training
  takes module
  gives module
  traits weights_only
}

technique narrow "keep the first channels of the first layer" {
  calls "parts.py:narrow"
  param kept: int in 1 .. 64 = 16
  takes module
  gives module
}

technique guess "anything, by the weights" {
  calls "parts.py:narrow"
  takes module
  gives module
  cost_depends_on weights
}
"""
PYTHON = """\
import copy, dataclasses, pathlib, time
import torch
from torch import nn

from optlang.interfaces import Edit


def fit(state, settings, context):
    log = pathlib.Path(context.study, "log")
    with log.open("a") as file:
        file.write("x")
    for epoch in range(settings["epochs"]):
        time.sleep(0.02)
        context.report({"epoch": epoch + 1, "epochs": settings["epochs"], "loss": 1 / (epoch + 1)})
    model = copy.deepcopy(state.model)
    draw = torch.Generator().manual_seed(context.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * settings["by"] * torch.randn(parameter.shape, generator=draw))
    return dataclasses.replace(state, model=model)


def again(model, arguments, example):
    kept = arguments["kept"]
    old_first, old_last = model.first, model.last
    model.first, model.last = nn.Linear(64, kept), nn.Linear(kept, 10)
    with torch.no_grad():
        model.first.weight.copy_(old_first.weight[:kept])
        model.first.bias.copy_(old_first.bias[:kept])
        model.last.weight.copy_(old_last.weight[:, :kept])
        model.last.bias.copy_(old_last.bias)
    return model


def narrow(state, settings, context):
    arguments = {"kept": settings["kept"]}
    model = again(copy.deepcopy(state.model), arguments, None)
    edits = (*state.edits, Edit("parts.py:again", arguments))
    return dataclasses.replace(state, model=model, edits=edits)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.last(torch.relu(self.first(x.flatten(1))))


def net():
    torch.manual_seed(0)
    return Net()


""" + NOISE
STUDY = """\
optlang 1

import parts
import python "parts.py" as own

study small "a small study" {{
  model net = own.net()
  data seen = own.noise()
  baseline {{ parts.fit }}
  target here {{ device = cpu; runtime = onnxruntime }}
  steps {{ {steps} }}
  require {require}
  minimize size
  maximize accuracy
  measure {{ rounds = 2; front_rounds = 2; front_processes = 1; round_seconds = 2ms; round_calls = 5 }}
  search {{ trials = 4; seed = 1; sampler = random; ladder = false; {more} }}
}}
"""
STEPS = "cut = parts.narrow { kept in [16, 48] }; back = parts.fit { by in [0.5, 1.5] }"
REQUIRE = "size <= 0.5 * baseline.size"


def study(folder: Path, steps: str = STEPS, require: str = REQUIRE, more: str = "") -> Path:
    (folder / "parts.opt").write_text(PARTS)
    (folder / "parts.py").write_text(PYTHON)
    path = folder / "small.opt"
    path.write_text(STUDY.format(steps=steps, require=require, more=more))
    return path


def plan(folder: Path, steps: str) -> Plan:
    loaded = load(study(folder, steps))
    assert loaded.plan is not None, loaded.diagnostics
    return loaded.plan


@pytest.mark.parametrize(("steps", "kept"), [
    ("cut = parts.narrow; back = parts.fit", ["cut"]),
    ("back = parts.fit; cut = parts.narrow; more = parts.fit; static", ["cut", "static"]),
    ("prune.channels; back = finetune; half", ["channels", "half"]),
    ("magnitude; back = finetune", ["magnitude"]),
    # Nothing is trained.
    ("cut = parts.narrow", None),
    # What comes behind a training depends on the weights that it gives, or on how many of them are zero.
    ("back = parts.fit; cut = parts.guess", None),
    ("back = finetune; prune.channels { scope = global }", None),
    ("back = finetune; channels_to_latency", None),
    # The same share of every layer, whatever the weights are.
    ("repeat r = 2 { cut = prune.channels; back = finetune }", ["r[1].cut", "r[2].cut"]),
    ("back = finetune; magnitude", None),
    ("back = finetune; mixed", None),
    # It trains too, and more than weights change.
    ("distill", None),
    ("back = finetune; qat", None),
])
def test_a_training_is_left_out_where_nothing_depends_on_it(
    tmp_path: Path, steps: str, kept: list[str] | None
) -> None:
    made = plan(tmp_path, steps)
    found = without_training(made, resolve(made, {}))
    assert (None if found is None else [step.path for step in found.steps]) == kept


def test_a_runtime_whose_files_depend_on_the_weights_keeps_the_training(tmp_path: Path) -> None:
    made = plan(tmp_path, "back = parts.fit")
    recipe = resolve(made, {})
    assert without_training(made, recipe) is not None
    for runtime, settings in (("runtime.openvino", {"int8": "accuracy", "max_drop": 0.01}), ("runtime.tensorrt", {})):
        place = replace(recipe.places[0], runtime=runtime, settings=settings)
        gpu = made.runtimes[0].model_copy(update={"name": runtime, "needs": ("gpu",) if not settings else ()})
        there = made.model_copy(update={"runtimes": (*made.runtimes, gpu)})
        assert without_training(there, replace(recipe, places=(place,))) is None


def test_the_time_of_a_training_is_estimated_by_the_epoch(tmp_path: Path) -> None:
    done = [
        {"path": "a", "technique": "fit", "settings": {"epochs": epochs}, "cached": cached, "seconds": seconds}
        for epochs, cached, seconds in ((2, False, 3.0), (4, False, 9.0), (9, True, 0.0), (3, None, 50.0))
    ]
    with Writer(tmp_path / "x.duckdb") as store:
        for event in (session(), start("r1", 0, steps=done), end("r1", 0, steps=done)):
            store.record(event)
        rates = Rates()
        for row in store.trials("r1"):
            rates.add(past_trial(row))
    assert rates.all_of([Applied("b", "fit", {"epochs": 5}), Applied("c", "fit", {"epochs": 1})]) == 12.0
    assert rates.all_of([Applied("b", "other", {"epochs": 5})]) is None


@pytest.mark.slow
def test_a_trial_that_is_too_large_ends_before_its_training(tmp_path: Path) -> None:
    path = study(tmp_path)
    done = optlang(tmp_path, "run", path, "--progress", "plain")
    assert done.returncode == 0, done.stderr
    db = tmp_path / "optlang.duckdb"
    rows = query(
        "SELECT r.trial, r.state, r.reason, r.kept, r.size, t.notes FROM results r JOIN trials t USING (run, trial) "
        "WHERE r.origin = 'sampler' ORDER BY r.trial", [db],
    ).dicts()
    assert [row["state"] for row in sorted(rows, key=lambda row: (row["kept"], row["trial"]))] == [
        "complete", "complete", "infeasible", "infeasible"
    ]
    # The baseline's training, and those of the two trials that are small enough.
    assert (tmp_path / "log").read_text() == "xxx"
    early = [row for row in rows if row["state"] == "infeasible"]
    for row in early:
        assert row["size"] is None
        assert "is above the limit" in row["reason"]
        assert row["reason"].endswith(", which was known before its training")
        assert json.loads(row["notes"])["early.saved_seconds"] >= 0.06
    kept = {path.name for path in tmp_path.glob(".optlang/artifacts/*/*")}
    assert kept == {str(number) for number in range(5)} - {str(row["trial"]) for row in early}
    assert "2 trials ended before the training, since the result was known: about" in done.stderr
    assert query("SELECT count(*) FROM steps WHERE path = 'back' AND NOT cached", [db]).rows == ((2,),)
    learned = query("SELECT trial, step, epoch, cached FROM learning ORDER BY trial, epoch", [db]).rows
    assert len(learned) == 9
    assert learned[0] == (0, "baseline.fit", 1, False)
    # Carried out whole, these trials miss the same requirement with the same size.
    whole = optlang(tmp_path, "run", study(tmp_path, more="stop_early = false"), "--trials", "4", "--new")
    assert whole.returncode == 0, whole.stderr
    assert (tmp_path / "log").read_text() == "xxxxx"
    sizes = query(
        "SELECT DISTINCT size FROM results WHERE kept = 48 AND run = (SELECT arg_max(run, started) FROM sessions)", [db]
    ).rows
    assert sizes == ((json.loads(early[0]["notes"])["early.size"],),)
