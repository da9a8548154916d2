"""Studies with several targets: one search, metrics of each, steps that fork, targets that cannot run here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from optlang.store.reader import query
from tests.command_line import optlang
from tests.noise import NOISE

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

PARTS = """\
optlang 1

technique count "leave a line in a file each time it is really done" {
  calls "parts.py:count"
}

runtime archive "builds for hardware that is not here" {
  calls "parts.py:Archive"
  takes module, graph
  performs static
}
"""
PYTHON = """\
import copy, dataclasses, pathlib
import torch
from optlang.interfaces import Artifact, QuantWants
from optlang.runtimes.shared.artifact_files import described

HERE = pathlib.Path(__file__).parent


def count(state, settings, context):
    with (HERE / "counted").open("a") as file:
        file.write("x")
    model = copy.deepcopy(state.model)
    with torch.no_grad():
        next(model.parameters()).mul_(0.999)
    return dataclasses.replace(state, model=model, notes={"counted": True})


class Archive:
    def available(self):
        return None

    def runs(self):
        return "archives run nowhere"

    def wants(self):
        raise AssertionError("it does its int8 itself")

    def build(self, state, target, settings, folder, data, study):
        asked = "".join(f"{item.technique} {item.settings['samples']}" for item in state.requests)
        (folder / "model.bin").write_bytes(b"0" * (10 if asked else 40))
        (folder / "asked.txt").write_text(asked)
        return Artifact(folder, "archive", described(folder, ["model.bin"]), data.input_names, ("output",))

    def open(self, artifact, target, settings, study):
        raise AssertionError("nothing is to be opened here")


""" + NOISE
STUDY = """\
optlang 1

import parts
import python "parts.py" as own

study several "three kinds of hardware" {{
  model net = zoo.digits_cnn(width = 16)
  data seen = own.noise()
  {targets}
  steps {{ maybe parts.count; maybe static {{ samples = 64 }} }}
  {goals}
  measure {{ rounds = 2; front_rounds = 2; front_processes = 1; round_seconds = 2ms; round_calls = 5 }}
  search {{ trials = 4; seed = 1; sampler = random }}
}}
"""
TARGETS = """
  target laptop { runtime in { onnxruntime; openvino } }
  target server { threads = 2; batch = 4; runtime = onnxruntime { graph = basic } }
  target shelf  { runtime = parts.archive }
"""
GOALS = """
  require server.latency <= 100 * baseline.server.latency
  minimize laptop.latency, server.latency, shelf.size
  maximize accuracy
"""


def written(folder: Path, targets: str = TARGETS, goals: str = GOALS) -> Path:
    (folder / "parts.opt").write_text(PARTS)
    (folder / "parts.py").write_text(PYTHON)
    path = folder / "several.opt"
    path.write_text(STUDY.format(targets=targets, goals=goals))
    return path


def rows(folder: Path, sql: str) -> list[dict[str, Any]]:
    return query(sql, [folder / "optlang.duckdb"]).dicts()


def in_integers(folder: Path, trial: int, target: str) -> float:
    """The share of the numbers in matrices and larger constants of a trial's ONNX file that are int8."""
    where = f"WHERE trial = {trial} AND target = '{target}'"
    (row,) = rows(folder, f"SELECT path FROM artifacts {where}")
    constants = onnx.load(folder / row["path"] / "model.onnx").graph.initializer
    arrays = [array for item in constants if (array := numpy_helper.to_array(item)).ndim > 1]
    return sum(item.size for item in arrays if item.dtype == "int8") / sum(item.size for item in arrays)


def test_one_search_measures_on_every_target(tmp_path: Path) -> None:
    written(tmp_path)
    run = optlang(tmp_path, "run", "several.opt", "--progress", "plain")
    assert run.returncode == 0, run.stderr
    assert "shelf.archive is built and not run: archives run nowhere" in run.stderr

    # A technique that asks nothing of a runtime is done once for all targets and trials.
    assert (tmp_path / "counted").read_text() == "x"
    found = {row["trial"]: row for row in rows(tmp_path, "SELECT * FROM results ORDER BY trial")}
    baseline = found[0]
    assert all(row["state"] == "complete" for row in found.values())
    for row in found.values():
        # What is not run has a size; without a target a metric is the worst of those that have it.
        assert row["trial"] == 0 or row["shelf_size"] in (10, 40)
        assert row["trial"] == 0 or row["shelf_latency"] is None
        for metric, worst in (("size", max), ("latency", max), ("accuracy", min)):
            each = [row[f"{target}_{metric}"] for target in ("laptop", "server", "shelf")]
            assert row[metric] == worst(value for value in each if value is not None)
    assert baseline["laptop_latency_x"] == baseline["server_latency_x"] == 1
    # A target's batch is its own: four samples a call on the server.
    throughput = baseline["server_throughput"] * baseline["server_latency_mean"]
    assert throughput == pytest.approx(4)

    int8 = [row for row in found.values() if row["static"]]
    assert int8
    assert all(row["shelf_size"] == 10 for row in int8)
    assert all(row["laptop_size_x"] > 1.2 for row in int8)
    # Anyone can count it in the file; a runtime that does not say it has no such figure.
    assert baseline["laptop_quantized"] == 0
    for row in int8:
        assert row["laptop_quantized"] == in_integers(tmp_path, row["trial"], "laptop") > 0.9
        assert row.get("shelf_quantized") is None
    runtimes = {row["runtime"] for row in rows(tmp_path, "SELECT DISTINCT runtime FROM trials WHERE in_space")}
    assert "laptop.openvino, server.onnxruntime, shelf.archive" in runtimes
    artifacts = rows(tmp_path, "SELECT trial, target, path FROM artifacts WHERE target = 'shelf' ORDER BY trial")
    asked = {row["trial"]: (tmp_path / row["path"] / "asked.txt") for row in artifacts if row["trial"]}
    for number, path in asked.items():
        assert path.read_text() in (("static 64", "static 256") if "static" in done(tmp_path, number) else ("",))
    # Steps have one row a trial, whatever the number of targets.
    counted = rows(tmp_path, "SELECT trial, path, count(*) AS n FROM steps GROUP BY ALL")
    assert {row["n"] for row in counted} == {1}
    notes = [json.loads(row["notes"]) for row in rows(tmp_path, "SELECT notes FROM trials WHERE trial > 0")]
    assert all(item["shelf.not run"] == "archives run nowhere" for item in notes if "shelf.not run" in item)

    # Going on runs nothing again, and the front is told with the latencies that the goals name.
    again = optlang(tmp_path, "run", "several.opt", "--progress", "plain")
    assert again.returncode == 0, again.stderr
    assert "laptop latency p50" in again.stdout
    assert "server latency p50" in again.stdout
    assert len(rows(tmp_path, "SELECT * FROM trials")) == len(found)

    best = int8[-1]["trial"]
    assert optlang(tmp_path, "export", "several", str(best), "-o", "out").returncode == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [(item["target"], item["runtime"]) for item in manifest["artifacts"]][1:] == [
        ("server", "runtime.onnxruntime"), ("shelf", "parts.archive"),
    ]
    for target in ("laptop", "server"):
        checked = subprocess.run(
            [sys.executable, "-I", "run.py"], cwd=tmp_path / "out" / target, capture_output=True, text=True, check=True
        )
        assert "largest difference 0 of" in checked.stdout


def done(folder: Path, trial: int) -> str:
    return " ".join(row["technique"] for row in rows(folder, f"SELECT technique FROM steps WHERE trial = {trial}"))


@pytest.mark.parametrize(("targets", "goals", "told"), [
    (
        "target shelf { runtime = parts.archive }", "minimize latency, size",
        "no runtime of the target `shelf` can run here: archive: archives run nowhere, and the study asks for "
        "latency.p50",
    ),
    (
        "target laptop { runtime = onnxruntime }\n  target shelf { runtime = parts.archive }",
        "minimize shelf.latency, laptop.size",
        "no runtime of the target `shelf` can run here: archive: archives run nowhere, and the study asks for "
        "shelf.latency.p50",
    ),
    (
        "target one { runtime = parts.archive }\n  target other { runtime = parts.archive }",
        "minimize size\n  maximize accuracy",
        "`accuracy` cannot be measured here: one.archive: archives run nowhere; other.archive: archives run nowhere",
    ),
])
def test_what_cannot_be_measured_is_said_before_anything_runs(
    targets: str, goals: str, told: str, tmp_path: Path
) -> None:
    written(tmp_path, targets, goals)
    run = optlang(tmp_path, "run", "several.opt")
    assert run.returncode == 3
    assert told in " ".join(run.stderr.split())
    assert not (tmp_path / "counted").exists()
