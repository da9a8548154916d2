"""Fixtures that more than one room's tests use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from optlang.plan.model import Plan

STUDY = """\
optlang 1

study sample "a study for tests" {{
  model net  = zoo.digits_cnn(width = 8)
  data  seen = zoo.digits(seed = 0)
  {target}
  {members}
  {goals}
  search {{ {search} }}
}}
"""

TARGET = "target here { device = cpu; runtime in { eager; onnxruntime; openvino } }"
GOALS = "minimize latency, size\n  maximize accuracy"


@pytest.fixture
def plan_of(tmp_path: Path) -> Callable[..., Plan]:
    """The plan of a study made of the given members; everything else is filled in."""

    from optlang.plan.load import load
    from optlang.render import render

    def make(
        members: str, *, target: str = TARGET, goals: str = GOALS, search: str = "trials = 10; seed = 1",
        overrides: Mapping[str, str] | None = None,
    ) -> Plan:
        path = tmp_path / "sample.opt"
        path.write_text(STUDY.format(target=target, members=dedent(members).strip(), goals=goals, search=search))
        loaded = load(path, overrides)
        assert loaded.plan is not None, render(loaded.diagnostics, loaded.texts)
        return loaded.plan

    return make
