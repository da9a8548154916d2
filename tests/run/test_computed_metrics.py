"""A run whose goals are metrics of TorchMetrics: what it stores is what they are of the exported file's answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy
import onnxruntime
import pytest

from optlang.zoo.digits import digits

ROOT = Path(__file__).parents[2]
STUDY = """\
optlang 1

import python "torchmetrics" as tm

metric f1: ratio maximize = tm.F1Score(task = "multiclass", num_classes = 10, average = "macro")

study judged {
  model net  = zoo.digits_cnn(width = 8)
  data  seen = zoo.digits()
  target here { runtime = onnxruntime }
  steps { maybe static }
  require f1 >= baseline.f1 - 50%
  minimize size
  maximize f1
  measure { rounds = 1; front_rounds = 1; front_processes = 1; round_seconds = 2ms; round_calls = 5 }
}
"""


@pytest.mark.slow
def test_what_is_stored_is_the_metric_of_the_exported_file(tmp_path: Path, torchvision: ModuleType) -> None:
    pytest.importorskip("torchmetrics")
    from sklearn.metrics import f1_score

    def optlang(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}"}
        done = subprocess.run(
            [sys.executable, "-m", "optlang", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "study.opt").write_text(STUDY)
    front = optlang("run", "study.opt", "--trials", "1").splitlines()
    assert any("f1" in line for line in front)
    query = "SELECT trial, f1, f1_lost FROM results WHERE trial > 0 ORDER BY trial DESC LIMIT 1"
    [row] = json.loads(optlang("sql", query, "--format", "json"))
    optlang("export", "judged", str(row["trial"]), "-o", "out")
    [file] = (tmp_path / "out").glob("*.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    inputs, labels = digits()["validation"]
    name, given = session.get_inputs()[0].name, numpy.asarray(inputs, dtype=numpy.float32)
    found = [session.run(None, {name: given[index : index + 1]})[0] for index in range(len(given))]
    expected = f1_score(numpy.asarray(labels), numpy.concatenate(found).argmax(1), average="macro")
    assert row["f1"] == pytest.approx(expected, abs=1e-6)
