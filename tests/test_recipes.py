"""The library's recipes run as they stand, and leave of the model what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
STUDY = """\
optlang 1

study recipe {{
  model net  = zoo.digits_cnn(width = 16)
  data  seen = zoo.digits(seed = 0)
  baseline {{ train {{ epochs = 3; lr = 1e-2 }} }}
  target here {{ device = cpu; runtime = onnxruntime }}
  steps {{ {steps} }}
  minimize latency, size
  maximize accuracy
  measure {{ rounds = 2; front_rounds = 2; front_processes = 1; round_seconds = 2ms; round_calls = 5 }}
  search {{ trials = {trials}; seed = 2; sampler = random }}
}}
"""


def optlang(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "optlang", *map(str, arguments)], cwd=folder, capture_output=True, text=True,
        check=False, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def searched(folder: Path, steps: str, trials: int) -> list[dict[str, Any]]:
    (folder / "recipe.opt").write_text(STUDY.format(steps=steps, trials=trials))
    done = optlang(folder, "run", "recipe.opt")
    assert done.returncode == 0, done.stderr
    told = optlang(folder, "sql", "FROM results WHERE origin = 'sampler'", "--format", "json")
    found: list[dict[str, Any]] = json.loads(told.stdout)
    return found


@pytest.mark.slow
def test_recommended_alone_is_a_search(tmp_path: Path) -> None:
    found = searched(tmp_path, "recipes.recommended { epochs = 1 }", trials=4)
    assert [row["state"] for row in found] == ["complete"] * 4
    assert len({(row["smaller"], row["precision"]) for row in found}) == 4
    for row in found:
        # Half the channels of two layers in a row are a quarter of the weights between them.
        assert (row["parameters"] < 2000) is (row["smaller"] != "none")


@pytest.mark.slow
def test_slim_leaves_the_channels_that_it_says(tmp_path: Path) -> None:
    from optlang.zoo.digits import cnn

    (row,) = searched(tmp_path, "slim { most = 50%; rounds = 2; epochs in [1, 2] }", trials=1)
    assert row["state"] == "complete"
    assert row["parameters"] == sum(item.numel() for item in cnn(8).parameters())
