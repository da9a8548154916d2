"""The data's test part: scored once for the baseline and the front, shown apart, and nothing that the search knows."""

from __future__ import annotations

import json

import numpy
import onnxruntime
import pytest

from optlang.interfaces import Measurement
from optlang.run.test_data import said
from optlang.zoo.digits import digits
from tests.command_line import optlang, printed
from tests.store.example_study import make_plan

pytestmark = pytest.mark.slow

PYTHON = """\
from optlang.zoo.digits import digits

def data():
    known = digits()
    images, labels = known["train"]
    parts = {"train": (images[:900], labels[:900]), "test": (images[900:], labels[900:])}
    return {**parts, "validation": known["validation"]}
"""
STUDY = """\
optlang 1

import python "mine.py" as mine

study tested {
  model net = zoo.digits_cnn(width = 8)
  data seen = mine.data()
  baseline { train { epochs = 3; lr = 3e-3 } }
  target here { runtime = onnxruntime }
  steps { precision in { none; static { samples = 64 } } }
  minimize size
  maximize accuracy
  search { trials = 1; seed = 1 }
  measure { rounds = 1; front_rounds = 1; front_processes = 1; round_seconds = 2ms; round_calls = 3 }
}
"""


def test_the_front_is_scored_on_samples_that_decided_nothing(tmp_path):
    (tmp_path / "mine.py").write_text(PYTHON)
    (tmp_path / "tested.opt").write_text(STUDY)
    done = optlang(tmp_path, "run", "tested.opt", "--progress", "plain")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accuracy on 447 samples of test data: the baseline has" in done.stderr
    assert "accuracy on the test data: the baseline" in printed(tmp_path, "front", "tested")
    asked = "SELECT trial, accuracy, test_accuracy, test_accuracy_lost FROM front ORDER BY trial"
    rows = json.loads(printed(tmp_path, "sql", asked, "--format", "json"))
    assert len(rows) > 1
    assert all(row["test_accuracy"] is not None for row in rows)
    last = rows[-1]
    assert last["test_accuracy_lost"] == pytest.approx(rows[0]["test_accuracy"] - last["test_accuracy"])

    # An independent count, from the exported file.
    printed(tmp_path, "export", "tested", str(last["trial"]), "-o", "out")
    images, labels = (numpy.asarray(item[900:]) for item in digits()["train"])
    session = onnxruntime.InferenceSession(next((tmp_path / "out").rglob("model.onnx")))
    [answers] = session.run(None, {session.get_inputs()[0].name: images})
    assert last["test_accuracy"] == pytest.approx((answers.argmax(1) == labels).mean())
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "| test.accuracy | " in readme
    assert "From 447 samples of test data, which the search has not seen: " in readme
    figures = json.loads((tmp_path / "out" / "manifest.json").read_text())["figures"]
    [figure] = [item for item in figures if item["metric"] == "test.accuracy"]
    assert figure["n"] == 447
    assert figure["low"] < figure["value"] < figure["high"]
    assert figure["lost"] == pytest.approx(last["test_accuracy_lost"])

    # Once is enough.
    again = optlang(tmp_path, "run", "tested.opt", "--progress", "plain")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "test data: the baseline has" not in again.stderr


def measured(metric: str, value: float, baseline: float | None) -> Measurement:
    return Measurement(metric, value, "ratio", 100, value, value, "cpu", baseline=baseline)


def test_how_optimistic_a_front_is():
    baseline = [measured("accuracy", 0.9, None), measured("test.accuracy", 0.88, None)]
    gains = [measured("accuracy", 0.92, 0.9), measured("test.accuracy", 0.87, 0.88)]
    loses = [measured("accuracy", 0.9, 0.9), measured("test.accuracy", 0.87, 0.88)]
    assert said(make_plan(), {0: baseline, 1: gains, 2: loses}) == (
        "accuracy on 100 samples of test data: the baseline has 88.0 %, and the 2 trials of the front lose on average "
        "2.0 points more against it than on the validation data"
    )
    assert said(make_plan(), {0: baseline[:1], 1: gains[:1]}) is None
    assert said(make_plan(), {0: baseline}) is None
