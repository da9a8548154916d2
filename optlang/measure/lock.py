"""One measurement at a time on a machine: a lock that waits, and that the system lets go when its holder dies."""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from optlang.forms import OutsideError


def machine_lock() -> Path:
    """The file that all runs of this user on this machine share."""
    try:
        name = str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
    except OSError:
        name = "all"
    return Path(tempfile.gettempdir()) / f"optlang-measure-{name}.lock"


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock file `path` (made if absent), after waiting for whoever holds it. OutsideError if it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _open(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise _closed(path, error) from error
    # Closing lets go, and so does the end of the process however it comes; children do not inherit it.
    with os.fdopen(descriptor, "r+b") as file:
        if sys.platform == "win32":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                    break
                except OSError:
                    time.sleep(0.05)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def held(path: Path) -> bool:
    """Whether somebody holds the lock file `path` now. Never waits, makes no file. OutsideError if it cannot be asked.

    It is asked by taking the lock for a moment, shared where the system has that: whoever waits does not notice.
    """
    try:
        descriptor = _open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _closed(path, error) from error
    with os.fdopen(descriptor, "r+b") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _open(path: Path, flags: int) -> int:
    # In a folder that others may write to, a link could lead anywhere.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _closed(path: Path, error: OSError) -> OutsideError:
    return OutsideError(
        f"the lock {path} for measuring cannot be opened: {error.strerror}",
        help="measurements take turns through it: make its folder writable, or remove what is there",
    )
