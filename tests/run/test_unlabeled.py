"""A study of data without labels: every kind of step that needs none, compared with the baseline's answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from optlang.analysis.load import load
from optlang.run.labels import learning
from optlang.zoo.digits import cnn, digits
from tests.command_line import printed as optlang

PYTHON = """\
from optlang.zoo.digits import digits

class Rows:
    def __init__(self, rows): self.rows = rows
    def __len__(self): return len(self.rows)
    def __getitem__(self, index): return self.rows[index]

def bare():
    known = digits()
    return {name: Rows(known[name][0]) for name in ("train", "validation")}
"""
STUDY = """\
optlang 1

import python "mine.py" as mine

study bare {
  model net = zoo.digits_cnn(width = 8, weights = "net.safetensors")
  data seen = mine.bare()
  target here { runtime = onnxruntime }
  steps {
    maybe slim = { channels { ratio = 50%; importance = taylor; samples = 128 }; distill { width = 100%; epochs = 1 } }
    precision in {
      none; half; weight_only; mixed { samples = 64; held_out = 256; max_drop = 5% }
      qat { epochs = 1; distill = 100%; samples = 64 }
    }
  }
  require agreement >= 30%
  minimize size, load_time
  maximize agreement, agreement.cosine
  search { trials = 1; seed = 1 }
  measure { rounds = 1; front_rounds = 1; front_processes = 1; round_seconds = 2ms; round_calls = 3 }
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The study with its Python, and a model that was trained on labels which the study does not have."""
    (tmp_path / "mine.py").write_text(PYTHON)
    (tmp_path / "bare.opt").write_text(STUDY)
    images, labels = (torch.as_tensor(item) for item in digits()["train"])
    torch.manual_seed(0)
    net = cnn(width=8)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(6):
        for chosen in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images[chosen].float()), labels[chosen].long()).backward()
            optimizer.step()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    return tmp_path


@pytest.mark.slow
def test_a_study_without_labels(folder: Path) -> None:
    optlang(folder, "run", "bare.opt")
    rows = json.loads(optlang(
        folder, "sql", "--format", "json",
        "SELECT trial, state, alone, agreement, agreement_lost, agreement_baseline, agreement_cosine, agreement_error, "
        "memory_peak, load_time, load_time_baseline, build_time FROM results JOIN trials USING (run, trial, state)",
    ))
    # The baseline's own pupil has nothing to learn.
    assert {row["alone"] for row in rows if row["state"] == "failed" and row["alone"]} == {"training.distill"}
    rows = [row for row in rows if row["state"] != "failed"]
    techniques = {row["alone"] for row in rows}
    assert {"quant.weight_only", "quant.mixed", "quant.qat", "cast.half"} <= techniques
    for row in rows:
        assert row["agreement"] + row["agreement_lost"] == pytest.approx(1.0)
        assert row["agreement_baseline"] == 1.0
        assert min(row["memory_peak"], row["load_time"], row["load_time_baseline"], row["build_time"]) > 0
    # What is reported can be computed again from the files.
    best = next(row for row in rows if row["alone"] == "quant.mixed")
    optlang(folder, "export", "bare", str(best["trial"]), "-o", "out")
    net = cnn(width=8)
    from safetensors.torch import load_file

    net.load_state_dict(load_file(folder / "net.safetensors"))
    images = torch.as_tensor(digits()["validation"][0]).float()
    wanted = net.eval()(images).detach().numpy()
    session = onnxruntime.InferenceSession(str(next((folder / "out").rglob("*.onnx"))))
    found = numpy.concatenate([
        session.run(None, {session.get_inputs()[0].name: images[place : place + 1].numpy()})[0]
        for place in range(len(images))
    ])
    assert best["agreement"] == pytest.approx((found.argmax(1) == wanted.argmax(1)).mean())
    assert best["agreement_error"] == pytest.approx(
        float(numpy.linalg.norm(found - wanted) / numpy.linalg.norm(wanted)), rel=1e-3
    )


def test_steps_that_learn_from_labels_are_known_from_the_text(tmp_path: Path) -> None:
    text = STUDY.replace('weights = "net.safetensors"', "").replace("width = 8, )", "width = 8)")
    text = text.replace("distill { width = 100%; epochs = 1 }", "finetune").replace("distill = 100%;", "")
    (tmp_path / "mine.py").write_text(PYTHON)
    (tmp_path / "bare.opt").write_text(text.replace("  target here", "  baseline { train }\n  target here"))
    plan = load(tmp_path / "bare.opt").plan
    assert plan is not None
    found = learning(plan)
    assert list(found) == ["`train` of the baseline", "`finetune`", "`qat` with `distill = 0%`"]
    assert "`distill { width = 100% }`" in found["`finetune`"]
