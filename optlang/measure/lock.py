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
        # In a folder that others may write to, a link could lead anywhere.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        raise OutsideError(
            f"the lock {path} for measuring cannot be opened: {error.strerror}",
            help="measurements take turns through it: make its folder writable, or remove what is there",
        ) from error
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
