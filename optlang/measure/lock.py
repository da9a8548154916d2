"""One measurement at a time on a machine: a lock that waits, and that the system releases when its holder dies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor, unlock_descriptor

from optlang.interfaces import OutsideError

_POLL = 0.01
"""Seconds between two attempts to take the lock: short next to a measurement."""


@contextlib.contextmanager
def alone(path: Path, waiting: Callable[..., object] | None = None) -> Iterator[None]:
    """Hold the lock file `path` (made if absent), after waiting for its holder. OutsideError if it cannot be locked.

    Where it has to wait, `waiting` is called with True before, and with False after.
    """
    # No fallback to a file that merely exists: a killed holder would leave it, and block everybody.
    lock = FileLock(path, mode=0o600, poll_interval=_POLL, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if waiting is not None:
                waiting(True)
            lock.acquire()
            if waiting is not None:
                waiting(False)
    except OSError as error:
        raise _closed(path, error) from error
    try:
        yield
    finally:
        lock.release()


def held(path: Path) -> bool:
    """Whether a process holds the lock file `path` now. Never waits, creates no file.

    It takes the lock for some microseconds to find out. OutsideError if it cannot be asked.
    """
    try:
        # In a folder that others may write to, a link could lead anywhere.
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _closed(path, error) from error
    try:
        if not lock_descriptor(descriptor, blocking=False):
            return True
        unlock_descriptor(descriptor)
    except OSError as error:
        raise _closed(path, error) from error
    finally:
        os.close(descriptor)
    return False


def _closed(path: Path, error: OSError) -> OutsideError:
    return OutsideError(
        f"the lock {path} cannot be opened: {error.strerror or error}",
        help="processes take turns through it: make its folder writable, on a disk that has locks, or remove the file",
    )
