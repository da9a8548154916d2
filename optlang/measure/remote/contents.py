"""Files on a device, each once by what is in it: kept for later runs up to a limit, and shown under other names.

It runs on the device, with nothing but Python's own library.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

LIMIT = 2 * 2**30
"""Bytes of files that are kept; the ones that were used longest ago are removed first."""

_PIECE = 2**18


class Source(Protocol):
    """Where the bytes of a file come from."""

    def read(self, size: int) -> bytes:
        """At most so many bytes; none at the end."""


class Damaged(Exception):  # noqa: N818 - what happened, in a word
    """What arrived is not what was sent."""


class Contents:
    """The folder `home`: `files/` holds contents by their SHA-256, `run-…/` what this process alone uses.

    A file is there whole or not at all: it is written under another name, compared with its hash, and renamed.
    """

    def __init__(self, home: Path, limit: int = LIMIT) -> None:
        self._files, self._limit = home / "files", limit
        self._files.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(home)
        self.scratch = home / f"run-{os.getpid()}-{secrets.token_hex(4)}"
        self.scratch.mkdir()
        self._alive = (self.scratch / "alive").open("wb")
        fcntl.flock(self._alive, fcntl.LOCK_EX)

    def missing(self, hashes: list[str]) -> list[str]:
        """Those of which there is no file; the others count as used now."""
        absent = []
        for name in dict.fromkeys(hashes):
            try:
                os.utime(self._files / name)
            except OSError:
                absent.append(name)
        return absent

    def put(self, sha256: str, size: int, source: Source) -> None:
        """Read a file of `size` bytes from `source`, all of them whatever happens. OSError, Damaged."""
        aside = self.scratch / f"part-{secrets.token_hex(4)}"
        digest = hashlib.sha256()
        left = size
        try:
            with aside.open("wb") as file:
                while left and (piece := source.read(min(left, _PIECE))):
                    left -= len(piece)
                    digest.update(piece)
                    file.write(piece)
            if left or digest.hexdigest() != sha256:
                raise Damaged(f"a file of {size} bytes did not arrive as it was sent")
            aside.replace(self._files / sha256)
        finally:
            # What is not read would be taken for the next request.
            while left and (piece := source.read(min(left, _PIECE))):
                left -= len(piece)
            aside.unlink(missing_ok=True)
        self._tidy(sha256)

    def show(self, folder: Path, names: Mapping[str, str]) -> None:
        """Put contents by hash into `folder`, under their names. OSError where one is not there."""
        for name, sha256 in names.items():
            place = folder / name
            if not place.resolve().is_relative_to(folder.resolve()):
                raise OSError(f"{name} leads out of its folder")
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(self._files / sha256, place)
            except OSError:
                # Not every file system has links.
                shutil.copyfile(self._files / sha256, place)

    def _tidy(self, newest: str) -> None:
        found = sorted(_stats(self._files), key=lambda item: item[1].st_mtime_ns)
        total = sum(stat.st_size for _, stat in found)
        for path, stat in found:
            if total <= self._limit:
                return
            if path.name != newest:
                path.unlink(missing_ok=True)
                total -= stat.st_size

    def close(self) -> None:
        """Remove what this process alone used."""
        self._alive.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """The hash of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _stats(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                yield Path(entry.path), entry.stat()
            except FileNotFoundError:
                continue


def _remove_left_behind(home: Path) -> None:
    """Remove the folders of processes that are gone: one that was killed could not."""
    for folder in home.glob("run-*"):
        try:
            with (folder / "alive").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            # Another one begins just now, or a part of it is left.
            if _age(folder) < 60:
                continue
        except OSError:
            continue
        shutil.rmtree(folder, ignore_errors=True)


def _age(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0
