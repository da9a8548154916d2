"""Step results by content: folders named by the hash of all that they follow from. Knows nothing of what is in them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from optlang.interfaces import JSON


def key_of(*parts: JSON) -> str:
    """The SHA-256 of the parts as canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Cache:
    """A folder of results. What `find` returns was written whole: a result appears under its name by a rename only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: str) -> Path | None:
        """The folder that holds the result, None where there is none."""
        place = self._place(key)
        return place if place.is_dir() else None

    def put(self, key: str, write: Callable[[Path], None]) -> Path:
        """Have `write` fill an empty folder, and keep it under `key`; another process's same result wins a race."""
        place = self._place(key)
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.parent / f".{uuid.uuid4().hex}.partial"
        aside.mkdir()
        try:
            write(aside)
            for path in aside.rglob("*"):
                if path.is_file():
                    _sync(path)
            try:
                aside.rename(place)
            except OSError:
                if not place.is_dir():
                    raise
            _sync(place.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return place

    def _place(self, key: str) -> Path:
        return self._folder / key[:2] / key


def _sync(path: Path) -> None:
    """Have the file, or the folder's list of names, on the disk before anything says so."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
