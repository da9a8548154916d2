"""What a run records about where it ran: the libraries' versions, the state of the study's repository."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from optlang.interfaces import JSON

LIBRARIES = ("optlang-dsl", "torch", "torch-pruning", "onnx", "onnxruntime", "openvino", "optuna", "numpy")


def home_of(db: Path, given: Path | None = None) -> Path:
    """The folder of the cache and the artifacts: `given`, else `.optlang` next to the database."""
    return (given or db.resolve().parent / ".optlang").resolve()


def versions(names: Iterable[str] = LIBRARIES) -> dict[str, JSON]:
    """The installed versions of the distributions that are there; nothing is imported."""
    found: dict[str, JSON] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def repository(folder: Path) -> dict[str, JSON] | None:
    """The commit of the repository that `folder` lies in and whether files are changed; None where there is none."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> str | None:
        answer = subprocess.run(
            [git, "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
        return answer.stdout.strip() if answer.returncode == 0 else None

    try:
        commit = ask("rev-parse", "HEAD")
        if commit is None:
            return None
        return {"commit": commit, "changed": bool(ask("status", "--porcelain", "--untracked-files=no"))}
    except subprocess.TimeoutExpired:
        return None
