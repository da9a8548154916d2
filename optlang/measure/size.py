"""What an artifact weighs on disk, as it is and compressed, and how much of it is in few bits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from optlang.interfaces import Artifact, Measurement, OptlangError

LEVEL = 12
"""The zstd level of `size.compressed`.

One level for all sizes, or figures could not be compared: 19 takes half a second a megabyte and saves nothing on float
and int8 weights, 3 % on weights of which most are zero.
"""
_CHUNK = 1 << 20


def weigh(artifact: Artifact) -> list[Measurement]:
    """`size`, all files that the runtime must load, and `size.compressed`, each of them after zstd; in bytes.

    Raises OptlangError where a file is missing or is not the one that was built.
    """
    plain = compressed = 0
    for file in artifact.files:
        path = artifact.folder / file.name
        if not path.is_file():
            raise OptlangError(f"the artifact's file {path} is missing", help="build the trial again")
        size, packed, digest = _read(path)
        if digest != file.sha256:
            raise OptlangError(f"the artifact's file {path} was changed after it was built", help="build it again")
        plain += size
        compressed += packed
    return [_exact("size", plain), _exact("size.compressed", compressed)]


def in_few_bits(artifact: Artifact) -> list[Measurement]:
    """`quantized` and `halved`, the shares of the weights in 8 bits or fewer and in 16, as the runtime that wrote the
    file counted them (`about["stored"]`); nothing of a runtime that does not."""
    stored = artifact.about.get("stored")
    if not isinstance(stored, Mapping):
        return []
    found = {name: float(str(stored[name])) for name in ("quantized", "halved") if name in stored}
    return [Measurement(name, value, "ratio", 1, value, value) for name, value in found.items()]


def _exact(metric: str, value: int) -> Measurement:
    return Measurement(metric, float(value), "B", 1, float(value), float(value))


def _read(path: Path) -> tuple[int, int, str]:
    """Bytes, bytes after zstd, and SHA-256, in one pass."""
    import zstandard

    digest = hashlib.sha256()
    # The frame's header holds the size where it is known, so the answer does not depend on how the file is read.
    packer = zstandard.ZstdCompressor(level=LEVEL).compressobj(size=path.stat().st_size)
    size = packed = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            packed += len(packer.compress(chunk))
    return size, packed + len(packer.flush()), digest.hexdigest()
