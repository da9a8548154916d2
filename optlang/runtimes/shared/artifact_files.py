"""The files of an artifact on disk: their sizes and hashes. Knows no format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from optlang.interfaces import ArtifactFile


def described(folder: Path, names: Iterable[str]) -> tuple[ArtifactFile, ...]:
    """Size and SHA-256 of the files `names` in `folder`, in the order of their names."""
    return tuple(_one(folder, name) for name in sorted(names))


def _one(folder: Path, name: str) -> ArtifactFile:
    path = folder / name
    with path.open("rb") as file:
        return ArtifactFile(name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
