"""Where an artifact is now: the database names the folder where it was built, which may have been moved or copied."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from optlang.interfaces import ArtifactFile

KEPT = "artifacts"
"""The folder of artifacts, in that of the cache and the artifacts."""

EXPORTED = ".exported"
"""The file next to an artifact's own that says that it was exported: such artifacts are kept longer than others."""


def home_of_artifact(recorded: str) -> Path | None:
    """The folder of cache and artifacts that an artifact was built in; None where its path is of another kind."""
    source = Path(recorded)
    for below in (2, 3):
        if len(source.parts) > below + 1 and source.parts[-below - 1] == KEPT:
            return source.parents[below]
    return None


def whole_sum(files: Sequence[ArtifactFile]) -> str:
    """One sum for all files of an artifact."""
    return hashlib.sha256("".join(f"{file.name}:{file.sha256}\n" for file in files).encode()).hexdigest()


def artifact_folder(recorded: str, homes: Sequence[Path]) -> Path:
    """The folder of an artifact that was built in `recorded`, `HOME/artifacts/RUN/TRIAL` or one of its targets' in it.

    That of the same run and trial in the first of `homes` that has it comes first: a database that was moved or copied
    together with its home has its own artifacts, whatever is still where they were built.
    """
    source = Path(recorded)
    for below in (2, 3):
        if len(source.parts) > below + 1 and source.parts[-below - 1] == KEPT:
            for home in homes:
                folder = home.joinpath(KEPT, *source.parts[-below:])
                if folder.is_dir():
                    return folder
    return source
