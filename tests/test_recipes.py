"""The library's recipes run as they stand, and leave of the model what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import optlang

ROOT = Path(__file__).parent.parent
STUDY = """\
optlang 1

study recipe {
  model net  = zoo.digits_cnn(width = 16)
  data  seen = zoo.digits(seed = 0)
  baseline { train { epochs = 3; lr = 1e-2 } }
  target here { device = cpu; runtime = onnxruntime }
  steps { recipes.recommended { epochs = 1 } }
  forbid smaller != pruned and precision != none because "these six are enough for a test"
  minimize latency, size
  maximize accuracy
  measure { rounds = 2; front_rounds = 2; front_processes = 1; round_seconds = 2ms; round_calls = 5 }
  search { trials = 6; seed = 2; sampler = random }
}
"""


@pytest.mark.slow
def test_recommended_alone_is_a_search(tmp_path: Path) -> None:
    from optlang.zoo.digits import cnn

    (tmp_path / "recipe.opt").write_text(STUDY)
    done = optlang(tmp_path, "run", "recipe.opt")
    assert done.returncode == 0, done.stderr
    told = optlang(tmp_path, "sql", "FROM results WHERE trial > 0 AND smaller IS NOT NULL", "--format", "json")
    found: list[dict[str, Any]] = json.loads(told.stdout)
    assert {row["state"] for row in found} == {"complete"}
    # The model as it is, taught and pruned stand on the ladder.
    assert {row["precision"] for row in found if row["origin"] == "sampler"} == {"dynamic", "static", "qat"}
    pairs = {(row["smaller"], row["precision"]) for row in found}
    pruned = {("pruned", item) for item in ("none", "dynamic", "static", "qat")}
    assert pairs == {("none", "none"), ("taught", "none"), *pruned}
    # `most` is half of the channels, whether a slimmer copy is taught or rounds of pruning end there.
    half, whole = (sum(item.numel() for item in cnn(width).parameters()) for width in (8, 16))
    for row in found:
        if row["precision"] != "qat":  # which folds the batch norms away
            assert row["parameters"] == (whole if row["smaller"] == "none" else half)
