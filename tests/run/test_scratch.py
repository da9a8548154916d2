"""Each session has a folder for temporary files of its own; none removes a living one's, and none leaves any behind."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from optlang.interfaces import Factory, OutsideError
from optlang.run import steps
from optlang.run.job import Workload
from optlang.run.scratch import FOLDER, Scratch

LIVE = """
import sys
from pathlib import Path
from optlang.run.scratch import Scratch
scratch = Scratch(Path(sys.argv[1]))
(scratch.folder / "file").write_text("of the other")
print(scratch.folder, flush=True)
sys.stdin.read()
"""


def workload(home: Path, scratch: Scratch) -> Workload:
    return Workload(Factory("own.py:net"), Factory("own.py:data"), home, home, "cpu", scratch.session)


def test_the_end_of_a_trial_touches_no_other_session(tmp_path: Path) -> None:
    with Scratch(tmp_path) as one, Scratch(tmp_path) as other:
        files = []
        for scratch in (one, other):
            file = steps.scratch(workload(tmp_path, scratch)) / "step"
            file.write_text("half done")
            files.append(file)
        steps.clear_scratch(workload(tmp_path, one))
        assert not files[0].exists()
        assert files[1].read_text() == "half done"
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_what_a_killed_session_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LIVE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    folders = [Path(process.stdout.readline().strip()) for process in processes if process.stdout is not None]
    try:
        processes[0].kill()
        processes[0].wait()
        assert all((folder / "file").is_file() for folder in folders)
        with Scratch(tmp_path):
            assert not folders[0].exists()
            assert (folders[1] / "file").read_text() == "of the other"
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    Scratch(tmp_path).close()
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_a_disk_without_locks_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutsideError, match=os.strerror(errno.ENOLCK)) as caught:
        Scratch(tmp_path)
    assert "--home DIR" in str(caught.value.help)


def test_a_folder_that_cannot_be_made_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutsideError, match=r"cannot make and lock a folder in .*file"):
        Scratch(tmp_path / "file")
