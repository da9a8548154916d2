"""What every engine has to do: whatever becomes of a worker, the scheduler gets an answer and the next task a worker.

The tests of an engine inherit from `EngineContract`, and have a fixture `engine` with two lanes, made for a study's
folder in which `NOTE` is a file.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import wait
from pathlib import Path

import pytest

from optlang.run.engine import Engine, WorkerDied, WorkerTimeout
from optlang.run.progress_file import report

NOTE = "note.txt"

LONG = 100
"""Seconds that nothing takes that works."""


def double(number: int) -> int:
    return 2 * number


def own_pid(_: int) -> int:
    return os.getpid()


def die(number: int) -> int:
    os.kill(os.getpid(), number)
    time.sleep(60)
    return 0


def leave(code: int) -> int:
    os._exit(code)


def hang(_: int) -> int:
    while True:
        time.sleep(1)


def fail(_: int) -> int:
    raise ValueError("as it should")


def reads(name: str) -> tuple[str, bool]:
    return Path(name).read_text(), sys.path[0] == str(Path.cwd())


def talk(_: int) -> None:
    print("from Python", flush=True)
    os.write(2, b"from below\n")


def says(numbers: int) -> None:
    for number in range(numbers):
        report({"doing": f"count {number}"})


def meet(paths: tuple[str, str]) -> bool:
    """Whether the other one is there at the same time."""
    own, other = map(Path, paths)
    own.touch()
    deadline = time.monotonic() + 30
    while not other.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return other.exists()


class EngineContract:
    def test_a_worker_is_kept_between_tasks(self, engine: Engine) -> None:
        first = engine.submit(own_pid, 0).result(LONG)
        assert engine.submit(double, 21).result(LONG) == 42
        assert engine.submit(own_pid, 0).result(LONG) == first != os.getpid()

    def test_an_exception_comes_back_as_it_was(self, engine: Engine) -> None:
        with pytest.raises(ValueError, match="as it should"):
            engine.submit(fail, 0).result(LONG)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
    def test_a_worker_that_is_killed_is_named_and_replaced(self, engine: Engine, number: int) -> None:
        with pytest.raises(WorkerDied, match=signal.Signals(number).name):
            engine.submit(die, number).result(LONG)
        assert engine.submit(double, 1).result(LONG) == 2

    def test_a_worker_that_leaves_is_named_and_replaced(self, engine: Engine) -> None:
        with pytest.raises(WorkerDied, match="exit code 7"):
            engine.submit(leave, 7).result(LONG)
        assert engine.submit(double, 1).result(LONG) == 2

    def test_a_task_that_hangs_is_ended(self, engine: Engine) -> None:
        assert engine.submit(double, 1).result(LONG) == 2
        future = engine.submit(hang, 0)
        time.sleep(0.5)
        engine.expire(future, 0.5)
        with pytest.raises(WorkerTimeout, match=r"longer than 0\.5 s"):
            future.result(LONG)
        assert engine.submit(double, 1).result(LONG) == 2

    def test_the_users_folder_is_where_the_worker_stands(self, engine: Engine) -> None:
        assert engine.submit(reads, NOTE).result(LONG) == ("of the study", True)

    def test_what_a_worker_prints_goes_to_its_log(self, engine: Engine) -> None:
        engine.submit(talk, 0).result(LONG)
        assert engine.log_tail().endswith("from Python\nfrom below\n")

    def test_what_a_task_reports_arrives_once_and_in_order(self, engine: Engine) -> None:
        future = engine.submit(says, 3)
        heard = []
        while not future.done():
            heard += engine.activities()
            wait([future], 0.05)
        heard += engine.activities()
        assert [item["doing"] for item in heard] == ["count 0", "count 1", "count 2"]
        engine.submit(double, 1).result(LONG)
        assert list(engine.activities()) == []

    def test_lanes_have_tasks_at_the_same_time(self, engine: Engine, tmp_path: Path) -> None:
        assert engine.lanes == 2
        one, other = str(tmp_path / "one"), str(tmp_path / "other")
        futures = [engine.submit(meet, (one, other), 0), engine.submit(meet, (other, one), 1)]
        assert [future.result(LONG) for future in futures] == [True, True]
