"""A job's limit counts what the job takes, not what it waits for while somebody else measures on the machine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from optlang.run.dispatch import Dispatcher
from optlang.run.engine import LocalEngine, WorkerTimeout
from optlang.run.progress_file import report


@dataclass(frozen=True)
class Job:
    waits: float
    works: float


def carry_out(job: Job) -> str:
    report({"doing": "prune", "path": "prune"})
    report({"waiting": "something else is measured on this machine"})
    time.sleep(job.waits)
    report({"waiting": False})
    time.sleep(job.works)
    return "done"


class Shown:
    """A watcher that keeps what is going on."""

    def __init__(self) -> None:
        self.doing: list[object] = []

    def message(self, text: str) -> None:
        raise AssertionError(text)

    def progress(self, activity: dict[str, object]) -> None:
        self.doing.append(activity["doing"])


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.fixture
def dispatcher(tmp_path: Path, shown: Shown) -> Iterator[Dispatcher]:
    engine = LocalEngine(tmp_path, tmp_path)
    anything: Any = SimpleNamespace(
        sync=lambda: True, trouble=None, check=lambda message: None,
    )
    watcher: Any = shown
    yield Dispatcher(anything, anything, engine, anything, watcher, anything)
    engine.close()


def test_what_schedules_a_run_holds_no_torch() -> None:
    program = (
        "import sys, optlang.run.study, optlang.run.calibrate, optlang.run.repeat\n"
        "print([name for name in ('torch', 'sklearn', 'onnx', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n", "a run begins at once; its worker imports what trains"


@pytest.mark.slow
def test_what_a_job_waits_is_not_its_own(dispatcher: Dispatcher, shown: Shown) -> None:
    # The first job pays for starting the worker.
    dispatcher.run(carry_out, Job(0.0, 0.0), None)
    begun = time.monotonic()
    assert dispatcher.run(carry_out, Job(6.0, 0.0), 3.0) == "done"
    path, since = dispatcher.step
    assert path == "prune"
    assert since - begun > 5, "nor is it the step's"
    assert shown.doing[-3:] == ["prune", "wait: something else is measured on this machine", "prune"]


def test_a_job_that_takes_too_long_itself_ends(dispatcher: Dispatcher) -> None:
    dispatcher.run(carry_out, Job(0.0, 0.0), None)
    with pytest.raises(WorkerTimeout, match="longer than 1 s"):
        dispatcher.run(carry_out, Job(0.5, 60.0), 1.0)
    assert dispatcher.run(carry_out, Job(0.0, 0.0), 60.0) == "done"
