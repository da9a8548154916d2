"""Whole runs of models whose answers depend on the other samples of a call: what is reported is the target's call."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

from optlang.store.reader import query
from tests.command_line import optlang

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

PYTHON = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, normalized=False):
        super().__init__()
        self.normalized = normalized
        self.first, self.last = nn.Linear(16, 32, bias=False), nn.Linear(32, 16, bias=False)
        with torch.no_grad():
            eye = torch.eye(16)
            self.first.weight.copy_(torch.cat([eye, -eye]))
            self.last.weight.copy_(torch.cat([eye, -eye], 1))

    def forward(self, x):
        if self.normalized:
            x = x - x.mean(0)
            x = x / (x.square().sum(0) / (x.shape[0] - 1)).sqrt()
        return self.last(torch.relu(self.first(x)))


def net(normalized: bool = False):
    return Net(normalized)


def samples():
    # Every tenth sample is forty times as large: in a call with others it decides their range.
    x = torch.randn(456, 16, generator=torch.Generator().manual_seed(0))
    x[::10] *= 40
    y = x.argmax(1)
    return {"train": (x[:256], y[:256]), "validation": (x[256:], y[256:])}
"""
STUDY = """\
optlang 1

import python "mine.py" as mine

study calls "of many sizes" {{
  model net = mine.net(normalized = {normalized})
  data seen = mine.samples()
  target here {{ batch in [{batches}]; runtime = onnxruntime }}
  steps {{ dynamic }}
  minimize size
  maximize accuracy
  measure {{ rounds = 2; front_rounds = 2; front_processes = 1; round_seconds = 2ms; round_calls = 5 }}
  search {{ trials = 2; seed = 1 }}
}}
"""


def ran(folder: Path, normalized: bool, batches: str) -> subprocess.CompletedProcess[str]:
    (folder / "mine.py").write_text(PYTHON)
    text = STUDY.format(normalized=str(normalized).lower(), batches=batches)
    (folder / "calls.opt").write_text(text)
    return optlang(folder, "run", "calls.opt", "--progress", "plain")


def rows(folder: Path, sql: str) -> list[dict[str, Any]]:
    return query(sql, [folder / "optlang.duckdb"]).dicts()


def right(model: Path, batch: int) -> float:
    """The accuracy of the file on the validation data, in calls of so many samples, as a user would measure it."""
    import onnxruntime
    import torch

    known: dict[str, Any] = {}
    exec(PYTHON, known)
    x, y = known["samples"]()["validation"]
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    pieces = []
    for start in range(0, len(x), batch):
        call = x[torch.arange(start, start + batch) % len(x)]
        pieces.append(session.run(None, {name: call.numpy()})[0][: len(x) - start])
    return float((numpy.concatenate(pieces).argmax(1) == y.numpy()).mean())


def test_accuracy_is_that_of_the_targets_calls(tmp_path: Path) -> None:
    done = ran(tmp_path, normalized=False, batches="1, 32")
    assert done.returncode == 0, done.stderr
    quantized = "FROM results SEMI JOIN steps ON steps.trial = results.trial AND technique = 'quant.dynamic'"
    found = {row["batch"]: row for row in rows(tmp_path, quantized)}
    assert set(found) == {1, 32}
    for batch, row in found.items():
        out = tmp_path / f"out-{batch}"
        assert optlang(tmp_path, "export", "calls", row["trial"], "-o", out).returncode == 0
        assert row["accuracy"] == pytest.approx(right(out / "model.onnx", batch))
        assert (row["accuracy_baseline"], row["accuracy_lost"]) == (1.0, pytest.approx(1 - row["accuracy"]))
        (entry,) = json.loads((out / "manifest.json").read_text())["artifacts"]
        assert entry["samples_a_call"] == batch
        assert f"The figures hold for calls with batch {batch} (" in (out / "README.md").read_text()
        with numpy.load(out / "example_inputs.npz") as kept:
            (inputs,) = kept.values()
        # Whole calls are kept, so what comes with the export answers as was measured.
        assert len(inputs) == max(batch, 8)
        checked = subprocess.run(
            [sys.executable, "-I", "run.py"], cwd=out, capture_output=True, text=True, check=False, timeout=100
        )
        assert "largest difference 0 of" in checked.stdout, checked.stdout + checked.stderr
    assert found[1]["accuracy"] > found[32]["accuracy"] + 0.1, "each sample has a range of its own, or shares one"
    assert found[1]["batch_dependent"], "a deployer who calls it with 64 gets other answers than those measured"
    assert f"Trial {found[1]['trial']}: an answer depends on the other samples of its call" in done.stdout
    assert "(its answers depend on the batch)" in done.stderr


def test_a_model_that_answers_nan_at_the_targets_batch_ends_in_words(tmp_path: Path) -> None:
    done = ran(tmp_path, normalized=True, batches="1")
    assert done.returncode == 1
    assert "the baseline failed: the model's answer output holds NaN" in done.stderr
    assert "in calls of 1 sample, the target's `batch`, and numbers in calls of 64: an answer depends on the other" in (
        done.stderr
    )
    assert "such as `batch = 64`" in done.stderr
    done = ran(tmp_path, normalized=True, batches="8")
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path, "FROM results WHERE state = 'complete' ORDER BY trial")
    # Alone a sample has no answer in it: whoever calls it with another number than eight must know.
    assert len(found) > 1
    assert all(row["batch_dependent"] for row in found)
    assert optlang(tmp_path, "export", "calls", 0, "-o", "out").returncode == 0
    assert "**Call it as it was measured**" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["artifacts"][0]["batch_dependent"] is True
