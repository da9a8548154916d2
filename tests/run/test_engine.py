"""The engine: whatever becomes of a worker, the scheduler gets an answer and the next task a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from optlang.run.engine import LocalEngine, WorkerDied, WorkerTimeout


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


def where(_: int) -> tuple[str, str]:
    return str(Path.cwd()), sys.path[0]


def talk(_: int) -> None:
    print("from Python", flush=True)
    os.write(2, b"from below\n")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    made = LocalEngine(tmp_path, tmp_path)
    yield made
    made.close()


def test_a_worker_is_kept_between_tasks(engine: LocalEngine) -> None:
    first = engine.submit(own_pid, 0).result()
    assert engine.submit(double, 21).result() == 42
    assert engine.submit(own_pid, 0).result() == first != os.getpid()


def test_an_exception_comes_back_as_it_was(engine: LocalEngine) -> None:
    with pytest.raises(ValueError, match="as it should"):
        engine.submit(fail, 0).result()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_is_killed_is_named_and_replaced(engine: LocalEngine, number: int) -> None:
    with pytest.raises(WorkerDied, match=signal.Signals(number).name):
        engine.submit(die, number).result()
    assert engine.submit(double, 1).result() == 2


def test_a_worker_that_leaves_is_named_and_replaced(engine: LocalEngine) -> None:
    with pytest.raises(WorkerDied, match="exit code 7"):
        engine.submit(leave, 7).result()
    assert engine.submit(double, 1).result() == 2


def test_a_task_that_hangs_is_ended(engine: LocalEngine) -> None:
    assert engine.submit(double, 1).result() == 2
    future = engine.submit(hang, 0)
    time.sleep(0.5)
    engine.expire(future, 0.5)
    with pytest.raises(WorkerTimeout, match=r"longer than 0\.5 s"):
        future.result(60)
    assert engine.submit(double, 1).result() == 2


def test_the_users_folder_is_where_the_worker_stands(engine: LocalEngine, tmp_path: Path) -> None:
    assert engine.submit(where, 0).result() == (str(tmp_path), str(tmp_path))


def test_what_a_worker_prints_goes_to_its_log(engine: LocalEngine, tmp_path: Path) -> None:
    engine.submit(talk, 0).result()
    assert (tmp_path / "worker.log").read_text() == "from Python\nfrom below\n"


def test_a_script_needs_no_guard_around_what_it_runs(tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(textwrap.dedent("""
        import sys
        from pathlib import Path
        from optlang.run.engine import LocalEngine
        from tests.run.test_engine import double

        print("once")
        engine = LocalEngine(Path(sys.argv[1]), Path(sys.argv[1]))
        print(engine.submit(double, 21).result())
        engine.close()
        print(sys.modules["__main__"].__file__ == __file__)
    """))
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=100, check=True,
        env={**os.environ, "PYTHONPATH": str(root)}, cwd=root,
    )
    assert ran.stdout == "once\n42\nTrue\n"


def test_a_worker_ends_when_its_loop_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from optlang.run.engine import LocalEngine
        from tests.run.test_engine import hang, own_pid

        if __name__ == "__main__":
            engine = LocalEngine(Path(sys.argv[1]), Path(sys.argv[1]))
            print(engine.submit(own_pid, 0).result(), flush=True)
            engine.submit(hang, 0)
            time.sleep(60)
    """)
    script = tmp_path / "loop.py"
    script.write_text(program)
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)}, cwd=root,
    ) as loop:
        assert loop.stdout is not None
        worker = int(loop.stdout.readline())
        loop.send_signal(signal.SIGKILL)
        loop.wait()
    deadline = time.monotonic() + 20
    while _alive(worker):
        assert time.monotonic() < deadline, "the worker outlived its loop"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
