"""Whole runs on lines of different lengths: scores are those of the target's calls, files take other lengths."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import onnxruntime
import pytest

from optlang.interfaces import Factory
from optlang.store.reader import query
from optlang.workload.data import dataset as data_module
from tests.command_line import optlang

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "fixtures" / "models"
pytestmark = pytest.mark.slow

STUDY = """\
optlang 1

import python "lines.py" as mine

study reading "lines of different lengths" {{
  model net = mine.reader(several = false, width = 64)
  data seen = mine.lines(several = false, loader = {loader}{data})
  baseline {{ train {{ epochs = 1; lr = 1e-2 }} }}
  target here {{ runtime = onnxruntime{target} }}
  steps {{ precision in {{ none; static {{ samples = 16 }} }} }}
  minimize size
  maximize accuracy
  measure {{ rounds = 1; front_rounds = 1; front_processes = 1; round_seconds = 2ms; round_calls = 5 }}
  search {{ trials = 2 }}
}}
"""


def ran(folder: Path, target: str, *, data: str = "", loader: bool = True) -> str:
    shutil.copy(MODELS / "lines.py", folder)
    text = STUDY.format(loader=str(loader).lower(), data=data, target=target)
    (folder / "reading.opt").write_text(text)
    result = optlang(folder, "run", "reading.opt", "--progress", "plain")
    return result.stdout + result.stderr


def test_scores_are_those_of_one_sample_a_call(tmp_path: Path) -> None:
    output = ran(tmp_path, '; shape = ["mask:1 = 9"]')
    stored = query(
        "SELECT trial, value FROM measurements WHERE metric = 'accuracy' AND trial > 0 ORDER BY trial",
        [tmp_path / "optlang.duckdb"],
    ).dicts()
    assert len(stored) == 2, output
    data = data_module.load(Factory("lines.py:lines", {"several": False, "loader": True}), MODELS)
    for row in stored:
        folder = tmp_path / str(row["trial"])
        assert optlang(tmp_path, "export", "reading", row["trial"], "-o", folder).returncode == 0
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        right = []
        for inputs, labels in data.batches("validation", 99):
            for place in range(len(labels)):
                given = {name: item[place : place + 1].numpy() for name, item in inputs.items()}
                right.append(int(session.run(None, given)[0].argmax()) == int(labels[place]))
        assert row["value"] == pytest.approx(sum(right) / len(right), abs=1e-9)
        manifest = json.loads((folder / "manifest.json").read_text())
        (entry,) = manifest["artifacts"]
        assert [item["shape"] for item in entry["inputs"]] == [["samples", "tokens_1"]] * 2
        assert entry["about"]["measured"]["sizes"] == {"tokens": [9], "mask": [9]}
        assert "`tokens` [1, 9]" in (folder / "README.md").read_text()
        numpy.savez(folder / "other.npz", tokens=numpy.ones((3, 40), numpy.int64), mask=numpy.ones((3, 40), "float32"))
        for arguments in ([], ["other.npz"]):
            done = subprocess.run([sys.executable, "run.py", *arguments], cwd=folder, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr


def test_an_axis_that_no_input_has_ends_the_run_before_anything_is_trained(tmp_path: Path) -> None:
    output = ran(tmp_path, '; dynamic = ["token:1"]', data=", length = 8")
    assert "target here: `dynamic` names the input `token`, and the inputs are tokens, mask" in output
    assert 'did you mean "tokens:1"?' in output
    assert not query("SELECT * FROM trials", [tmp_path / "optlang.duckdb"]).dicts()


def test_an_axis_of_fixed_data_that_the_data_open_is_open_in_the_file(tmp_path: Path) -> None:
    output = ran(tmp_path, '; dynamic = ["tokens:1"]', data=', length = 8, dynamic = ["mask:1 = 4..32"]')
    (row,) = query("SELECT about FROM artifacts WHERE trial = 2", [tmp_path / "optlang.duckdb"]).dicts()
    assert json.loads(row["about"])["inputs"]["mask"]["shape"] == ["samples", "tokens_1"], output
