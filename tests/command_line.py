"""Runs the command line as a user does, in a process of its own, with the package of this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TIMEOUT = 300


def command(*arguments: object) -> list[str]:
    """The words of a call of optlang."""
    return [sys.executable, "-m", "optlang", *map(str, arguments)]


def environment() -> dict[str, str]:
    """This process's, with this checkout's package before others."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}


def optlang(
    folder: Path, *arguments: object, timeout: float | None = TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """A call in a folder, as it ended."""
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=timeout
    )


def printed(folder: Path, *arguments: object) -> str:
    """What a call prints that must go well."""
    done = optlang(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
