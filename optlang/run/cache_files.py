"""What lies in a folder of optlang's own: results of the cache and artifacts, how large they are, and their removal.

Several processes use one cache, and each may remove what it has not to keep: a folder goes away by a rename, as a
whole, and its files after that.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from optlang.run import partial
from optlang.run.cache import CHECKPOINT, MEMO, SUMS, sha256

Kind = Literal["step", "memo", "checkpoint", "partial"]

STALE = 3600.0
"""Seconds after which what was being written is left over, while other sessions live."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A result in the cache: its key (of a partial one, its name), the bytes it takes, when it was used last.

    `used` are nanoseconds since 1970.
    """

    key: str
    folder: Path
    kind: Kind
    bytes: int
    used: int


def entries(cache: Path) -> Iterator[Entry]:
    """All that lies in a cache, in no order. What is removed meanwhile is left out."""
    for prefix in _listed(cache):
        if not prefix.is_dir(follow_symlinks=False):
            continue
        for found in _listed(Path(prefix.path)):
            with suppress(FileNotFoundError):
                yield _entry(Path(found.path))


def _entry(path: Path) -> Entry:
    used = path.stat().st_mtime_ns
    if path.name.endswith(partial.PARTIAL):
        # A large file is written for minutes, and its folder is as old as its first moment.
        newest = max([used, *(item.stat().st_mtime_ns for item in path.rglob("*"))])
        return Entry(path.name, path, "partial", size_of(path), newest)
    kind: Kind = "memo" if (path / MEMO).is_file() else "checkpoint" if (path / CHECKPOINT).is_file() else "step"
    return Entry(path.name, path, kind, size_of(path), used)


def size_of_folders(cache: Path) -> int:
    """The bytes that a cache takes apart from what lies in it: those of the folders in it that hold results."""
    return _bytes(cache) + sum(_bytes(Path(item.path)) for item in _listed(cache))


def size_of(folder: Path) -> int:
    """The bytes that a folder with all in it takes on the disk; 0 where it is absent."""
    found = _bytes(folder)
    with suppress(NotADirectoryError):
        for item in _listed(folder):
            found += size_of(Path(item.path)) if item.is_dir(follow_symlinks=False) else _bytes(Path(item.path))
    return found


def _bytes(path: Path) -> int:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    # A file of a byte takes a block; one that was just written may have none yet.
    return max(found.st_size, 512 * getattr(found, "st_blocks", 0))


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:
        return []


def remove(folder: Path, used: int | None = None) -> bool:
    """Remove a folder, as a whole for everybody; whether it is gone.

    With `used` it stays where it was used after that.
    """
    aside = partial.aside(folder.parent)
    try:
        folder.rename(aside)
    except OSError:
        return not folder.exists()
    if used is not None and aside.stat().st_mtime_ns > used:
        # Somebody has found it since it was listed, and is about to read it.
        with suppress(OSError):
            aside.rename(folder)
            return False
    if aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink(missing_ok=True)
    return not aside.exists()


def left_over(entry: Entry, *, alone: bool) -> bool:
    """Whether a partial result is of a process that is over: `alone` says that no other session lives."""
    return entry.kind == "partial" and (alone or time.time() - entry.used / 1e9 > STALE)


def broken(entry: Entry) -> str | None:
    """What is wrong with a result, None where it is whole: each file has the sum that it was written with."""
    if entry.kind == "checkpoint":
        return _torn(entry.folder / CHECKPOINT)
    sums = entry.folder / SUMS
    if not sums.is_file():
        # An earlier version wrote none: what torch and numpy write has sums inside.
        packed = (path for path in entry.folder.rglob("*") if path.is_file() and zipfile.is_zipfile(path))
        return next((said for path in packed if (said := _torn(path)) is not None), None)
    try:
        written = json.loads(sums.read_text(encoding="utf-8"))
    except ValueError:
        return f"{SUMS} is no JSON"
    for name, digest in written.items():
        path = entry.folder / name
        if not path.is_file():
            return f"{name} is gone"
        if sha256(path) != digest:
            return f"{name} has changed"
    return None


def _torn(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        return f"{path.name}: {error}"
    return None if damaged is None else f"{path.name}: {damaged} in it is damaged"
