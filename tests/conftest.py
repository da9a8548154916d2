"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import fcntl
import os
import runpy
import tempfile
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from textwrap import dedent
from types import ModuleType

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
TORCHVISION_IMPORT = Path(__file__).parent / "torchvision_import"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Under `pytest -n`, a test that is marked `alone` waits until no other runs, and all others wait for it.

    Everybody passes the gate first, so that who waits to be alone is not overtaken for ever. The locks are the
    kernel's: a worker that dies leaves them.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    # Another run of the tests on this machine is no less a disturbance than this run's other worker.
    locks = Path(tempfile.gettempdir()) / f"optlang-tests-{os.getuid()}"
    with locks.with_suffix(".gate").open("w") as gate, locks.with_suffix(".room").open("w") as room:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        # Unlocked and not only closed: processes that a test forked hold the file too.
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """torchvision, importable in this process and in those that it starts; the test is skipped where it is missing.

    A test that sets its children's PYTHONPATH itself appends the one that it finds in `os.environ`.
    """
    runpy.run_path(str(TORCHVISION_IMPORT / "sitecustomize.py"))
    monkeypatch.setenv("PYTHONPATH", str(TORCHVISION_IMPORT), prepend=os.pathsep)
    module: ModuleType = pytest.importorskip("torchvision")
    return module


@pytest.fixture
def plan_of(tmp_path: Path) -> Callable[..., Plan]:
    """The plan of a study made of the given members; everything else is filled in."""

    from optlang.analysis.load import load
    from optlang.diagnostics.render import render

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
