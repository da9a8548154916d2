"""Who may write to a database: one process at a time, known by a lock that the system releases when its holder dies."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor, unlock_descriptor

from optlang.interfaces import OutsideError

WAIT = 0.5
"""Seconds that a run tries for the lock: a process that checks it (`holder`) holds it for some microseconds."""

UNKNOWN = 0
"""The holder's process id where its file does not say it."""



class HeldByRunError(OutsideError):
    """Another run writes to the database."""


_HELD: set[Path] = set()
_GUARD = threading.Lock()


def lock_path(db: Path) -> Path:
    """The file that is locked while a run writes to `db`; it holds the process id of the run."""
    return Path(f"{db.resolve()}.lock")


def holder(db: Path) -> int | None:
    """The process that writes to `db` now (`UNKNOWN` where it cannot be named), None where none does.

    Raises OutsideError where the system cannot say whether the file is locked.
    """
    path = lock_path(db)
    if path in _HELD:
        return os.getpid()
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        if not lock_descriptor(descriptor, blocking=False):
            return _written(descriptor)
        unlock_descriptor(descriptor)
        return None
    except OSError as error:
        raise _unlockable(db, error) from error
    finally:
        os.close(descriptor)


def _written(descriptor: int) -> int:
    """The process id in a lock file. Its first byte is the one that Windows locks: nobody else may read that."""
    os.lseek(descriptor, 1, os.SEEK_SET)
    text = os.read(descriptor, 32).strip()
    return int(text) if text.isdigit() else UNKNOWN


def _write(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f" {os.getpid()}\n".encode())


class WriteLock:
    """The right to write to a database, held until `release` or until this process ends in whatever way.

    A child process does not inherit it, so a worker that outlives a killed run blocks nobody.
    """

    def __init__(self, db: Path) -> None:
        """Take the lock of `db`.

        Raises OutsideError with the holder's process id where another run has it, and with the system's reason where
        the file cannot be locked at all (a read-only folder, a network drive without locks).
        """
        self.path = lock_path(db)
        with _GUARD:
            if self.path in _HELD:
                raise _taken(db, os.getpid())
            if not self.path.parent.is_dir():
                # The lock library would make the folder, and a mistyped path a database.
                raise OutsideError(
                    f"cannot write the database {db}: there is no folder {self.path.parent}",
                    help="create the folder, or name another database with --db PATH",
                )
            self._lock = FileLock(self.path, timeout=WAIT, poll_interval=0.01, thread_local=False, on_acquired=_write)
            try:
                self._lock.acquire()
            except Timeout as error:
                raise _taken(db, holder(db) or UNKNOWN) from error
            except OSError as error:
                raise _unlockable(db, error) from error
            _HELD.add(self.path)

    def release(self) -> None:
        """Let others write; the lock's file goes."""
        with _GUARD:
            if self.path in _HELD:
                _HELD.discard(self.path)
                if os.name == "posix":
                    # While it is held: a run that waits for this file sees that it is gone, and makes another.
                    self.path.unlink(missing_ok=True)
                self._lock.release()


def _taken(db: Path, pid: int) -> HeldByRunError:
    who = "this process" if pid == os.getpid() else f"process {pid}" if pid != UNKNOWN else "another process"
    return HeldByRunError(
        f"another run is writing to {db} ({who})",
        help="wait until it has finished, stop it, or give this run a database of its own with --db PATH",
    )


def _unlockable(db: Path, error: OSError) -> OutsideError:
    return OutsideError(
        f"the database {db} cannot be locked: {error.strerror or error}",
        help="make its folder writable, or name a database on a local disk with --db PATH",
    )
