"""What a run counts, counted again in what it exports: of a model with a mask, a weight_norm, and an interpolation."""

from __future__ import annotations

from pathlib import Path

import numpy
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file

from optlang.store.reader import query
from tests.command_line import printed as optlang

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

MODEL = """\
import warnings

import torch
from torch import nn
from torch.nn.utils import prune


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.a = nn.utils.weight_norm(nn.Conv2d(1, 16, 3, padding=1))
        self.b, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(64, 4)
        prune.l1_unstructured(self.b, "weight", 0.5)

    def forward(self, x):
        x = nn.functional.interpolate(x, scale_factor=1, mode="bilinear")
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def net():
    return Net()


def noise():
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.rand(96, 1, 8, 8, generator=draw), torch.arange(96) % 4
    return {"train": (images[:64], labels[:64]), "validation": (images[64:], labels[64:])}
"""
STUDY = """\
optlang 1

import python "mine.py" as mine

study counted {
  model net = mine.net()
  data seen = mine.noise()
  target here { runtime = onnxruntime }
  steps { maybe magnitude { sparsity = 60% } }
  minimize size, parameters, macs
  maximize sparsity
  measure { rounds = 1; front_rounds = 1; front_processes = 1; round_seconds = 2ms; round_calls = 5 }
  search { trials = 2; sampler = grid; ladder = false }
}
"""
# By hand: 72 + 4 · 64 + 2304 weights with 1152 masked, and 16 + 16 + 4 biases.
WEIGHTS, MASKED, BIASES = 144 + 2304 + 256, 1152, 36


def test_parameters_and_zeros_are_those_of_the_exported_files(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODEL)
    (tmp_path / "counted.opt").write_text(STUDY)
    shown = " ".join(optlang(tmp_path, "run", "counted.opt", "--progress", "plain").split())
    assert "leave out what has no formula: upsample_bilinear2d" in shown
    answer = query(
        "SELECT trial, parameters, macs, sparsity FROM results ORDER BY trial", [tmp_path / "optlang.duckdb"]
    )
    found = [tuple(row) for row in answer.rows]
    macs = 64 * 144 + 64 * 2304 + 256
    assert found[0] == (0, WEIGHTS + BIASES, macs, MASKED / WEIGHTS)
    more = sum(round(0.6 * size) for size in (144, 2304, 256))
    assert sorted(row[3] for row in found[1:]) == [MASKED / WEIGHTS, more / WEIGHTS]
    for trial, parameters, _, sparsity in (found[0], found[-1]):
        optlang(tmp_path, "export", "counted", str(trial), "-o", f"out{trial}")
        out = tmp_path / f"out{trial}"
        stored: list[numpy.ndarray] = [
            numpy_helper.to_array(item) for path in out.glob("*.onnx") for item in onnx.load(path).graph.initializer
        ]
        stored += [item for path in out.glob("*.safetensors") for item in load_file(path).values()]
        weights = [item for item in stored if item.ndim > 1]
        assert sum(int((item == 0).sum()) for item in weights) / sum(item.size for item in weights) == sparsity
        assert sum(item.size for item in weights) + BIASES == parameters
