"""The engine on this machine: see `engine_contract` for what is asked of all of them."""

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

from optlang.run.engine import LocalEngine
from tests.run.engine_contract import NOTE, EngineContract


class TestLocalEngine(EngineContract):
    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[LocalEngine]:
        (tmp_path / NOTE).write_text("of the study")
        made = LocalEngine(tmp_path, tmp_path, 2)
        yield made
        made.close()


def test_a_script_needs_no_guard_around_what_it_runs(tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(textwrap.dedent("""
        import sys
        from pathlib import Path
        from optlang.run.engine import LocalEngine
        from tests.run.engine_contract import double

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
        from tests.run.engine_contract import hang, own_pid

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
