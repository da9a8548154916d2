"""Where an artifact is now: the database names the folder where it was built, which may have been moved or copied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_KEPT = "artifacts"


def artifact_folder(recorded: str, homes: Sequence[Path]) -> Path:
    """The folder of an artifact that was built in `recorded`, `HOME/artifacts/RUN/TRIAL` or one of its targets' in it.

    That of the same run and trial in the first of `homes` that has it comes first: a database that was moved or copied
    together with its home has its own artifacts, whatever is still where they were built.
    """
    source = Path(recorded)
    for below in (2, 3):
        if len(source.parts) > below + 1 and source.parts[-below - 1] == _KEPT:
            for home in homes:
                folder = home.joinpath(_KEPT, *source.parts[-below:])
                if folder.is_dir():
                    return folder
    return source
