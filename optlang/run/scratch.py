"""The folder for temporary files of one session: only it writes to it, and it is removed at its end."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock

from optlang.interfaces import OutsideError
from optlang.measure.lock import held

FOLDER = "scratch"
"""Where the folders of all sessions lie, in the folder of cache and artifacts."""


def make_home(home: Path) -> None:
    """Make the folder of cache, artifacts and scratch, where it is absent; OutsideError where that cannot be."""
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutsideError(
            f"cannot make the folder {home}: {error.strerror or error}",
            help="make the folder above it writable, or name another one with --home DIR",
        ) from error


class Scratch:
    """A session's name and its folder, which is locked as long as the session lives.

    Two databases in one folder share the cache and the artifacts' folder, and never this. What a killed session left
    is removed by the next one.
    """

    def __init__(self, home: Path) -> None:
        """Make a session's folder below `home`. OutsideError where that cannot be written to, or has no locks."""
        self.session = uuid.uuid4().hex
        parent = home / FOLDER
        try:
            parent.mkdir(parents=True, exist_ok=True)
            _sweep(parent)
            # Locked before it exists, so that no other session takes it for one that was left behind.
            self._lock = FileLock(lock_of(parent / self.session), thread_local=False, fallback_to_soft=False)
            self._lock.acquire()
            self.folder = parent / self.session
            self.folder.mkdir()
        except OSError as error:
            raise OutsideError(
                f"cannot make and lock a folder in {parent}: {error.strerror or error}",
                help="make it writable, or name another folder with --home DIR, on a disk that has locks",
            ) from error

    def close(self) -> None:
        """Remove the folder and all that is in it."""
        _remove(self.folder)
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lock_of(folder: Path) -> Path:
    """The file that a session holds locked as long as it lives, next to its folder."""
    return folder.with_name(f"{folder.name}.lock")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock_of(folder).unlink(missing_ok=True)


def _sweep(parent: Path) -> None:
    """Remove the folders of sessions that are over."""
    for path in list(parent.iterdir()):
        folder = path.with_suffix("") if path.suffix == ".lock" else path
        if not held(lock_of(folder)):
            _remove(folder)
