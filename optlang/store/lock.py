"""Who may write to a database: one process at a time, known by a lock that the system releases when its holder dies."""

from __future__ import annotations

import os
import platform
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor, unlock_descriptor

from optlang.interfaces import OutsideError
from optlang.store.journal import journal_path, read

WAIT = 0.5
"""Seconds that a run tries for the lock: a process that checks it (`holder`) holds it for some microseconds."""

UNKNOWN = 0
"""The holder's process id where its file does not say it."""



class HeldByRunError(OutsideError):
    """Another run writes to the database."""


_HELD: set[Path] = set()
_GUARD = threading.Lock()


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that writes to a database: its id (`UNKNOWN`), its machine, and since when (UTC), as far as known."""

    process: int
    machine: str | None = None
    since: str | None = None

    def __str__(self) -> str:
        who = "this process" if self._here and self.process == os.getpid() else f"process {self.process}"
        where = "" if self._here else f" on {self.machine}"
        since = "" if self.since is None else f", since {self.since.replace('T', ' ')[:19]} UTC"
        return f"{'another process' if self.process == UNKNOWN else who}{where}{since}"

    @property
    def _here(self) -> bool:
        return self.machine in (None, platform.node())


def lock_path(db: Path) -> Path:
    """The file that is locked while a run writes to `db`; it holds the run's process id, machine and start."""
    return Path(f"{db.resolve()}.lock")


def holder(db: Path) -> int | None:
    """The process that writes to `db` now (`UNKNOWN` where it cannot be named), None where none does.

    Raises OutsideError where the system cannot say whether the file is locked.
    """
    found = holding(db)
    return None if found is None else found.process


def holding(db: Path) -> Holder | None:
    """As `holder`, with all that is known of that process."""
    path = lock_path(db)
    if path in _HELD:
        return Holder(os.getpid())
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


def _written(descriptor: int) -> Holder:
    """What a lock file says. Its first byte is the one that Windows locks: nobody else may read that."""
    os.lseek(descriptor, 1, os.SEEK_SET)
    words = os.read(descriptor, 512).decode(errors="replace").split()
    process = int(words[0]) if words and words[0].isdigit() else UNKNOWN
    machine, since = words[1:] if len(words) == 3 else (None, None)
    return Holder(process, machine, since)


def _write(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    os.write(descriptor, f" {os.getpid()} {platform.node() or '-'} {now}\n".encode())


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
                raise _taken(db, Holder(os.getpid()))
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
                raise _taken(db, holding(db) or Holder(UNKNOWN)) from error
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


def _taken(db: Path, found: Holder) -> HeldByRunError:
    state, run = _state(db)
    again = f"`--join {run}` waits for it and goes on with its run; or " if run else ""
    return HeldByRunError(
        f"another run is writing to {db} ({found}{state})",
        help=f"wait until it has finished, or stop it; {again}give this run a database of its own with --db PATH",
    )


def _state(db: Path) -> tuple[str, str | None]:
    """What its journal says of the run that goes on, in words, and the run's id."""
    study = run = None
    ended: set[int] = set()
    running: set[int] = set()
    for line in read(journal_path(db.resolve())):
        record = line.record
        match record.get("event"):
            case "session":
                study, run, ended, running = record["study"], record["run"], set(), set()
            case "start" | "resume":
                running.add(record["trial"])
            case "end" | "pause":
                running.discard(record["trial"])
                ended.add(record["trial"])
    if run is None:
        return "", None
    now = f", {', '.join(f'trial {number}' for number in sorted(running))} in progress" if running else ""
    trials = f"{len(ended)} trial{'' if len(ended) == 1 else 's'}"
    return f"; study `{study}`, run {run}: {trials} finished in this session{now}", run


def _unlockable(db: Path, error: OSError) -> OutsideError:
    return OutsideError(
        f"the database {db} cannot be locked: {error.strerror or error}",
        help="make its folder writable, or name a database on a local disk with --db PATH",
    )
