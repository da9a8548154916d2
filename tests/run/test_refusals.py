"""Refusals in whole runs: each costs one trial, is said once, and is known to later sessions and to `optlang plan`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.run import test_study as small

pytestmark = pytest.mark.slow

study = small.study

DECLARED = """
technique refuse "ask for a layer that the model has not" {
  calls "parts.py:refuse"
  param number: int in 1 .. 1000 = 1
  takes module
  gives module
}
"""
RAISED = """

from optlang.interfaces import Refusal


def refuse(state, settings, context):
    raise Refusal("the model has no such layer", depends="model")
"""
STEPS = """
    first in { none; refused = parts.refuse { number in 1 .. 1000 } }
    maybe parts.nap { number in 1 .. 1000 }
"""


def failed(folder: Path) -> list[tuple[str, str | None]]:
    return [(origin, reason) for _, origin, state, reason in small.trials(folder) if state == "failed"]


def test_what_was_refused_is_not_tried_again(study: small.Study, tmp_path: Path) -> None:
    def run(trials: int) -> subprocess.CompletedProcess[str]:
        done = small.optlang(tmp_path, "run", "small.opt", "--progress", "plain", "--trials", trials)
        assert done.returncode == 0, done.stderr
        return done

    study(STEPS, trials=3)
    for name, more in (("parts.opt", DECLARED), ("parts.py", RAISED)):
        (tmp_path / name).write_text((tmp_path / name).read_text() + more)
    done = run(3)
    refused = "the model has no such layer"
    assert failed(tmp_path) == [("ladder", refused)]
    assert done.stderr.count("skipped from now on") == 1
    assert f"parts.refuse is skipped from now on (no setting of it would help): {refused}" in done.stderr
    assert sum(origin == "sampler" for _, origin, *_ in small.trials(tmp_path)) == 3

    again = run(5)
    assert "skipped" not in again.stderr
    assert len(failed(tmp_path)) == 1
    planned = small.optlang(tmp_path, "plan", "small.opt").stdout
    assert f"parts.refuse: {refused} (trial " in planned
    assert "refused in run" in planned
    assert "refused in run" not in small.optlang(tmp_path, "plan", "small.opt", "--db", "other.duckdb").stdout
    # It may do something else now.
    (tmp_path / "parts.py").write_text((tmp_path / "parts.py").read_text().replace("no such", "not one such"))
    assert f"parts.refuse: {refused}" not in small.optlang(tmp_path, "plan", "small.opt").stdout
