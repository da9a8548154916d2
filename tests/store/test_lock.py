"""One process writes to a database at a time; a dead one holds nothing."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from optlang.interfaces import OutsideError
from optlang.store.journal import Journal, journal_path
from optlang.store.lock import UNKNOWN, HeldByRunError, Holder, WriteLock, holder, lock_path
from tests.store.example_study import end, session, start

HOLD = """
import sys
from pathlib import Path
from optlang.store.lock import WriteLock
lock = WriteLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "x.duckdb")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with process:
        yield process
        process.kill()


def test_the_holder_is_named(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    db = tmp_path / "x.duckdb"
    assert holder(db) == other.pid
    with pytest.raises(OutsideError, match=f"process {other.pid}") as caught:
        WriteLock(db)
    assert caught.value.exit_code == 3
    assert "--db" in str(caught.value.help)
    assert re.search(r", since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", caught.value.message)


def test_the_state_of_the_first_run_is_said(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    db = tmp_path / "x.duckdb"
    journal = Journal(journal_path(db))
    for event in (session("r7"), start("r7", 0), end("r7", 0), start("r7", 1), end("r7", 1), start("r7", 2)):
        journal.append(event)
    journal.close()
    said = "run r7: 2 trials finished in this session, trial 2 in progress"
    with pytest.raises(HeldByRunError, match=said) as caught:
        WriteLock(db)
    assert "`--join r7` waits for it" in str(caught.value.help)


def test_the_lock_of_another_machine_names_it(tmp_path: Path) -> None:
    assert str(Holder(7, "far", "2026-01-02T03:04:05+00:00")) == "process 7 on far, since 2026-01-02 03:04:05 UTC"
    assert str(Holder(UNKNOWN)) == "another process"


def test_a_killed_holder_holds_nothing(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert holder(tmp_path / "x.duckdb") is None
    WriteLock(tmp_path / "x.duckdb").release()


def test_asking_who_holds_it_takes_and_frees_nothing(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    assert holder(db) is None
    lock = WriteLock(db)
    assert holder(db) == os.getpid()
    ask = (
        "import sys; from pathlib import Path; from optlang.store.lock import holder; print(holder(Path(sys.argv[1])))"
    )
    for _ in range(2):
        told = subprocess.run([sys.executable, "-c", ask, str(db)], capture_output=True, text=True, check=True).stdout
        assert told == f"{os.getpid()}\n"
    lock.release()
    assert holder(db) is None
    assert not lock_path(db).exists()


def test_one_process_cannot_take_it_twice(tmp_path: Path) -> None:
    lock = WriteLock(tmp_path / "x.duckdb")
    with pytest.raises(OutsideError, match="this process"):
        WriteLock(tmp_path / "x.duckdb")
    lock.release()
    WriteLock(tmp_path / "x.duckdb").release()


def test_a_child_that_outlives_the_holder_blocks_nobody(tmp_path: Path) -> None:
    code = HOLD.replace(
        "sys.stdin.read()", "import os\nif os.fork() == 0:\n    sys.stdin.read()\n    os._exit(0)\nos._exit(0)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "x.duckdb")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.wait()
        WriteLock(tmp_path / "x.duckdb").release()


def test_a_folder_that_does_not_exist_is_reported_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(OutsideError, match=r"there is no folder .*nowhere"):
        WriteLock(tmp_path / "nowhere" / "x.duckdb")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EIO])
def test_a_disk_that_cannot_lock_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    # As a network drive without a lock service answers.
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    db = tmp_path / "x.duckdb"
    with pytest.raises(OutsideError, match=f"cannot be locked: {os.strerror(code)}") as caught:
        WriteLock(db)
    assert "local disk" in str(caught.value.help)
    lock_path(db).touch()
    with pytest.raises(OutsideError, match="cannot be locked"):
        holder(db)


def test_asking_does_not_turn_a_run_away(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    lock_path(db).touch()
    with lock_path(db).open("rb") as asked:
        fcntl.flock(asked, fcntl.LOCK_EX)
        threading.Timer(0.1, fcntl.flock, (asked, fcntl.LOCK_UN)).start()
        WriteLock(db).release()


def test_the_file_that_a_killed_run_left_blocks_nobody(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    lock_path(db).write_text(" 1\n")
    assert holder(db) is None
    lock = WriteLock(db)
    assert lock_path(db).read_text().startswith(f" {os.getpid()} ")
    lock.release()
