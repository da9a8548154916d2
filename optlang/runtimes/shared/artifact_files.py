"""The files of an artifact on disk: their sizes and hashes, and the arrays that they take and return. No format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from optlang.interfaces import JSON, Arrays, ArtifactFile, Refusal


def described(folder: Path, names: Iterable[str]) -> tuple[ArtifactFile, ...]:
    """Size and SHA-256 of the files `names` in `folder`, in the order of their names."""
    return tuple(_one(folder, name) for name in sorted(names))


def _one(folder: Path, name: str) -> ArtifactFile:
    path = folder / name
    with path.open("rb") as file:
        return ArtifactFile(name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def arrays_described(arrays: Arrays) -> dict[str, dict[str, JSON]]:
    """Type and shape of each array, as JSON."""
    return {name: {"dtype": str(item.dtype), "shape": list(item.shape)} for name, item in arrays.items()}


def refuse_larger(what: str, size: int, before: int) -> None:
    """`Refusal` where a file of `size` bytes is no smaller than one without it, of `before` bytes."""
    if size >= before:
        raise Refusal(
            f"{what} makes this model larger: {size} bytes against {before} without it",
            help="remove the step: scales, tables and the operators around them cost more than its few weights save",
        )
