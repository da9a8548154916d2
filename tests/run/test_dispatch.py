"""A job's limit counts what the job takes, not what it waits for while somebody else measures on the machine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from optlang.interfaces import OutsideError
from optlang.run.dispatch import Dispatcher
from optlang.run.engine import LocalEngine, WorkerDied, WorkerTimeout
from optlang.run.job import Prepared
from optlang.run.progress_file import report
from tests.store.example_study import make_plan


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


class DyingEngine:
    """Its worker is killed in the first tasks, and has loaded the model and the data in the next."""

    lanes, apart = 1, False

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths

    def submit(self, task: object, job: object, lane: int = 0) -> Future[object]:
        future: Future[object] = Future()
        self.deaths -= 1
        if self.deaths >= 0:
            future.set_exception(WorkerDied("the worker process was ended by SIGKILL"))
        else:
            future.set_result(Prepared((), {}))
        return future

    def activities(self, lane: int = 0) -> Iterator[object]:
        return iter(())


def test_a_worker_that_is_killed_while_it_loads_has_another_try(shown: Shown) -> None:
    anything: Any = SimpleNamespace(
        sync=lambda: True, trouble=None, check=lambda message: None, record=lambda event: None, session="s",
    )
    watcher: Any = shown
    for deaths in (1, 2):
        engine: Any = DyingEngine(deaths)
        dispatcher = Dispatcher(make_plan(), anything, engine, anything, watcher, anything)
        if deaths == 1:
            dispatcher.load()
        else:
            with pytest.raises(OutsideError, match=r"loading the model and the data: .* SIGKILL"):
                dispatcher.load()
