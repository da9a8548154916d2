"""Measurements take turns: one at a time on a machine, and nobody waits for the dead."""

import subprocess
import sys
from pathlib import Path

import pytest

from optlang.interfaces import OutsideError
from optlang.measure.lock import alone, held
from optlang.measure.machine import machine_lock

ROOT = Path(__file__).parents[2]
fcntl = pytest.importorskip("fcntl")

HOLD = """
import sys, time
from pathlib import Path
from optlang.measure.lock import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def is_free(path):
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_lock_is_held_inside_and_free_outside(tmp_path):
    path = tmp_path / "folder" / "lock"
    with alone(path):
        assert not is_free(path)
    assert is_free(path)
    with pytest.raises(KeyError), alone(path):
        raise KeyError
    assert is_free(path)


def test_lock_of_another_process_goes_with_it(tmp_path):
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        assert not is_free(path)
        holder.kill()
    with alone(path):
        assert not is_free(path)


def test_waiting_is_reported_and_nothing_else(tmp_path):
    path, said = tmp_path / "lock", []
    with alone(path, said.append):
        assert said == []
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as holder:
        assert holder.stdout.readline() == "held\n"

        def waits(now):
            said.append(now)
            holder.kill()

        with alone(path, waits):
            assert said == [True, False]


def test_asking_takes_nothing_away_and_leaves_nothing(tmp_path):
    path = tmp_path / "lock"
    assert not held(path)
    assert not path.exists()
    with alone(path):
        assert held(path)
        assert not is_free(path)
    assert not held(path)
    assert is_free(path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OutsideError, match="cannot be opened"):
        held(tmp_path / "link")


def test_children_do_not_inherit_it(tmp_path):
    path = tmp_path / "lock"
    with alone(path):
        child = subprocess.Popen(
            [sys.executable, "-c", "input(1)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
        )
        assert child.stdout.read(1) == b"1"
    assert is_free(path)
    child.communicate(b"\n")


def test_what_cannot_be_opened_is_told(tmp_path):
    (tmp_path / "target").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "folder").mkdir()
    for name in ("link", "folder"):
        with pytest.raises(OutsideError, match="cannot be opened"), alone(tmp_path / name):
            pass


def test_machine_lock_is_the_same_for_all_runs_of_a_user():
    assert machine_lock() == machine_lock()
    assert machine_lock().name.startswith("optlang-measure-")
