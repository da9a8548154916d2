"""Memory of a GPU that runs out in one trial: it fails with a hint, and the next one runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import optlang

OWN = """optlang 1

technique greedy "takes more memory than there is" {
  calls "own.py:greedy"
  takes module
  gives module
}
"""
CODE = """import torch

def greedy(state, settings, context):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB")
"""
STUDY = """optlang 1
import own

study hungry "A step that takes too much" {
  model net  = zoo.digits_cnn(width = 8)
  data  seen = zoo.digits(seed = 0)
  target here { runtime = eager }
  steps { what in { own.greedy; half { dtype = bfloat16 } } }
  minimize size
  search { trials = 2; ladder = false; seed = 1 }
}
"""


@pytest.mark.slow
def test_one_trial_fails_with_a_hint_and_the_next_one_runs(tmp_path: Path) -> None:
    for name, text in (("own.opt", OWN), ("own.py", CODE), ("hungry.opt", STUDY)):
        (tmp_path / name).write_text(text)
    done = optlang(tmp_path, "run", "hungry.opt", timeout=None)
    assert done.returncode == 0, done.stderr
    found = optlang(tmp_path, "sql", "SELECT state, reason FROM results ORDER BY trial", "--format", "json")
    rows = json.loads(found.stdout)
    assert [row["state"] for row in rows] == ["complete", "failed", "complete"]
    assert rows[1]["reason"] == (
        "out of memory on the GPU (2.00 GiB more were asked for): a smaller `batch` or `amp = bfloat16` in "
        "the step takes less"
    )
