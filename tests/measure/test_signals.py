"""Real signals to real runs: what each of them leaves behind, and what the command says and returns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.run import test_study as small

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")]

study, ended = small.study, small.ended

# The grace as it is, or another one, before the command line begins.
PROGRAM = """\
import sys
from optlang.cli.app import command
from optlang.measure import signals
if __name__ == "__main__":
    signals.GRACE = float(sys.argv.pop(1))
    sys.exit(command(sys.argv[1:]))
"""
LONG = small.NAPS.replace("tenths = 5", "tenths = 100")

Ended = list[subprocess.Popen[str]]


def started(folder: Path, ended: Ended, grace: float = 30.0) -> subprocess.Popen[str]:
    """A run whose second trial has begun."""
    program = folder / "graceful.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(program), str(grace), "run", "small.opt", "--progress", "plain"], cwd=folder,
        env=small.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )
    ended.append(process)
    small.until(small.running(folder, 1), process)
    return process


def over(process: subprocess.Popen[str]) -> str:
    """What a run that was asked to stop says on standard error."""
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "leaked" not in err
    return err


def alone(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)


def group(process: subprocess.Popen[str], number: int) -> None:
    os.killpg(process.pid, number)


@pytest.mark.parametrize(("send", "number"), [(alone, signal.SIGTERM), (group, signal.SIGHUP)])
def test_the_running_trial_is_finished(
    study: small.Study, tmp_path: Path, ended: Ended, send: Callable[[subprocess.Popen[str], int], None], number: int
) -> None:
    study(trials=50)
    process = started(tmp_path, ended)
    send(process, number)
    # `timeout` sends its signal to the command, and at once to the group: that is one wish.
    send(process, number)
    assert "30 s at the latest; a second signal stops now" in over(process)
    found = small.trials(tmp_path)
    assert {state for *_, state, _ in found} == {"complete"}
    assert 2 <= len(found) < 50
    assert small.rows(tmp_path, "SELECT why FROM sessions") == [{"why": "interrupted"}]


def test_a_second_sigterm_stops_now(study: small.Study, tmp_path: Path, ended: Ended) -> None:
    study(LONG, trials=1)
    process = started(tmp_path, ended)
    group(process, signal.SIGTERM)
    # Longer than what counts as one signal.
    time.sleep(0.5)
    group(process, signal.SIGTERM)
    over(process)
    assert small.trials(tmp_path)[-1][2:] == ("failed", "interrupted")
    assert {event["why"] for event in small.events(tmp_path, "finish")} == {"interrupted"}


def test_past_the_deadline_the_trial_is_stopped(study: small.Study, tmp_path: Path, ended: Ended) -> None:
    study(LONG, trials=1)
    process = started(tmp_path, ended, grace=0.5)
    alone(process, signal.SIGTERM)
    over(process)
    assert small.trials(tmp_path)[-1][2:] == ("failed", "interrupted")


def test_a_terminal_that_is_closed(study: small.Study, tmp_path: Path, ended: Ended) -> None:
    study(trials=50)
    ours, its = os.openpty()
    # In the process itself, not between fork and exec: other tests leave threads that forbid a fork.
    controlled = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", controlled, *small.command("run", "small.opt")], cwd=tmp_path, text=True,
        env=small.environment(), stdin=its, stdout=its, stderr=its, start_new_session=True,
    )
    os.close(its)
    ended.append(process)
    os.set_blocking(ours, False)

    def runs() -> bool:
        with suppress(BlockingIOError):
            os.read(ours, 1 << 16)
        return small.running(tmp_path, 1)()

    small.until(runs, process)
    os.close(ours)
    assert process.wait(timeout=60) == 130
    found = small.trials(tmp_path)
    assert {state for *_, state, _ in found} == {"complete"}
    assert small.rows(tmp_path, "SELECT why FROM sessions") == [{"why": "interrupted"}]


@pytest.mark.parametrize("options", [(), ("-W", "error")])
def test_semaphores_that_a_library_left_in_a_worker_are_nobodys_business(options: tuple[str, ...]) -> None:
    left = "resource_tracker.register('/optlang-left-behind', 'semaphore')"
    imported = "from multiprocessing import resource_tracker\nfrom optlang.measure import signals\n"
    program = f"{imported}signals.start_tracker()\n{left}"
    done = subprocess.run([sys.executable, *options, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
