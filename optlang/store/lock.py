"""Who may write to a database: one process at a time, known by a lock that its holder's death sets free at once."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import threading
from pathlib import Path

from optlang.forms import OutsideError

# `struct flock` of fcntl(2): the order of its members is the system's.
_LAYOUT = "qqihh" if sys.platform == "darwin" else "hhqqi4x"
_HELD: dict[Path, int] = {}
_GUARD = threading.Lock()


def _described(kind: int) -> bytes:
    members = (0, 0, 0, kind, os.SEEK_SET) if sys.platform == "darwin" else (kind, os.SEEK_SET, 0, 0, 0)
    return struct.pack(_LAYOUT, *members)


def _holder(descriptor: int) -> int | None:
    members = struct.unpack(_LAYOUT, fcntl.fcntl(descriptor, fcntl.F_GETLK, _described(fcntl.F_WRLCK)))
    kind, pid = (members[3], members[2]) if sys.platform == "darwin" else (members[0], members[4])
    return None if kind == fcntl.F_UNLCK else int(pid)


def lock_path(db: Path) -> Path:
    """The file that is locked while a run writes to `db`."""
    return Path(f"{db.resolve()}.lock")


def holder(db: Path) -> int | None:
    """The process that writes to `db` now, None where none does. Never takes the lock, not even for a moment."""
    path = lock_path(db)
    # Closing any descriptor of a file drops all POSIX locks this process has on it, so our own is never opened again.
    with _GUARD:
        if path in _HELD:
            return os.getpid()
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        try:
            return _holder(descriptor)
        finally:
            os.close(descriptor)


class WriteLock:
    """The right to write to a database, held until `release` or until this process ends in whatever way.

    A POSIX record lock: a child process does not inherit it, so a worker that outlives a killed run blocks nobody.
    """

    def __init__(self, db: Path) -> None:
        """Take the lock of `db`; OutsideError with the holder's process id where another run has it."""
        self.path = lock_path(db)
        with _GUARD:
            if self.path in _HELD:
                raise _taken(db, os.getpid())
            self._descriptor = self._take(db)
            _HELD[self.path] = self._descriptor

    def _take(self, db: Path) -> int:
        while True:
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise OutsideError(
                    f"cannot write beside the database {db}: {error.strerror}",
                    help="create the folder, or name another database with --db PATH",
                ) from error
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The last holder may have removed the file between our opening and our locking it.
                if os.path.samestat(os.fstat(descriptor), self.path.stat()):
                    return descriptor
            except FileNotFoundError:
                pass
            except OSError as error:
                pid = _holder(descriptor)
                os.close(descriptor)
                if pid is None:
                    continue
                raise _taken(db, pid) from error
            os.close(descriptor)

    def release(self) -> None:
        """Let others write; the lock's file goes."""
        with _GUARD:
            if _HELD.pop(self.path, None) is not None:
                self.path.unlink(missing_ok=True)
                os.close(self._descriptor)


def _taken(db: Path, pid: int) -> OutsideError:
    who = "this process" if pid == os.getpid() else f"process {pid}"
    return OutsideError(
        f"another run is writing to {db} ({who})",
        help="wait until it has finished, stop it, or give this run a database of its own with --db PATH",
    )
