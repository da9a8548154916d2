"""Other workers are off the cores that something is measured on, and go on afterwards, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from optlang.measure import quiet

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot pin")

# A worker with a second thread, and a measuring process below it.
WORKER = """
import subprocess, sys, threading, time
from pathlib import Path
from optlang.measure import quiet
quiet.register(Path(sys.argv[1]), eval(sys.argv[2]))
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
below = subprocess.Popen([sys.executable, "-m", "optlang.measure.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
below.stdin.write(b'{"do": "memory"}\\n')
below.stdin.flush()
below.stdout.readline()  # it is up
print(below.pid, flush=True)
time.sleep(60)
"""
ALL = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A worker that is registered, and its measuring process."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKER), str(tmp_path), repr(set(ALL))], stdout=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdout is not None
        below = int(process.stdout.readline())
        yield process.pid, below
        for pid in (below, process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def state(pid: int) -> str:
    """One letter: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def stopped(pid: int) -> bool:
    """Whether it is stopped: the system does that when the process is next seen to."""
    deadline = time.monotonic() + 5
    while state(pid) != "T":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def cores_of(pid: int) -> set[frozenset[int]]:
    """The cores that its threads may use."""
    return {frozenset(os.sched_getaffinity(int(task.name))) for task in Path(f"/proc/{pid}/task").iterdir()}


@pytest.mark.skipif(len(ALL) < 2, reason="one core")
def test_where_there_are_other_cores_a_worker_goes_on_there(worker: tuple[int, int], tmp_path: Path) -> None:
    pid, below = worker
    measured = max(ALL)
    free = ALL - quiet._with_siblings([measured])
    if not free:
        pytest.skip("one processor core")
    assert len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    with quiet.kept(tmp_path, [measured]):
        assert cores_of(pid) == {free}
        assert state(pid) != "T"
        assert stopped(below), "it has nothing to do while another worker measures"
    assert cores_of(pid) == {ALL}
    assert state(below) != "T"


@pytest.mark.parametrize("measured", [sorted(ALL), None])
def test_where_there_are_none_it_is_stopped(
    worker: tuple[int, int], tmp_path: Path, measured: list[int] | None
) -> None:
    pid, below = worker
    with contextlib.suppress(RuntimeError), quiet.kept(tmp_path, measured):
        assert stopped(pid)
        assert stopped(below)
        raise RuntimeError
    assert state(pid) != "T"
    assert state(below) != "T"


def test_what_a_lost_worker_has_stopped_is_let_go(worker: tuple[int, int], tmp_path: Path) -> None:
    pid, below = worker
    with quiet.kept(tmp_path, None):
        assert stopped(pid)
        quiet.release(tmp_path)
        assert state(pid) != "T"
        assert state(below) != "T"


def test_what_draws_the_points_is_never_stopped(worker: tuple[int, int], tmp_path: Path) -> None:
    pid, _ = worker
    entry = tmp_path / str(pid)
    entry.write_text(entry.read_text().replace('"stoppable": true', '"stoppable": false'))
    with quiet.kept(tmp_path, None):
        time.sleep(0.1)
        assert state(pid) != "T"


def test_another_process_with_the_number_of_a_lost_worker_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        (tmp_path / str(process.pid)).write_text('{"cores": [0], "stoppable": true, "parent": 1}')
        with quiet.kept(tmp_path, None):
            time.sleep(0.1)
            assert state(process.pid) != "T"
        process.kill()
    # Nor is one a fault that is gone.
    with quiet.kept(tmp_path, None):
        pass


def test_lists_of_cores_are_read_as_the_system_writes_them() -> None:
    assert quiet._listed("0-2,5\n") == {0, 1, 2, 5}


def test_a_measuring_process_that_is_stopped_ends_with_its_worker(worker: tuple[int, int], tmp_path: Path) -> None:
    pid, below = worker
    with quiet.kept(tmp_path, None):
        assert stopped(below)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while Path(f"/proc/{below}").is_dir() and state(below) != "Z":
            assert time.monotonic() < deadline, "it is stopped for ever"
            time.sleep(0.05)
