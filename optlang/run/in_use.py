"""Which results of the cache the trials in flight use: a file for each worker, in the folder of its session."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from optlang.measure.lock import held
from optlang.run.job import Workload
from optlang.run.scratch import FOLDER, lock_of

_USES = "uses"


def add(workload: Workload, keys: Iterable[str]) -> None:
    """Note that this worker uses these results from now on, until its trial is over: see `trial`."""
    file = _file(workload)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="ascii") as lines:
        lines.write("".join(f"{key}\n" for key in keys))


@contextmanager
def trial(workload: Workload) -> Iterator[None]:
    """A trial, at the end of which this worker uses nothing."""
    try:
        yield
    finally:
        _file(workload).unlink(missing_ok=True)


def used(home: Path) -> frozenset[str]:
    """What is used now, by the workers of all sessions that live."""
    found: set[str] = set()
    for session in sessions(home):
        for file in _listed(session / _USES):
            if _lives(file.name):
                try:
                    found.update(file.read_text(encoding="ascii").split())
                except FileNotFoundError:
                    continue
    return frozenset(found)


def sessions(home: Path) -> list[Path]:
    """The folders of the sessions that live now."""
    return [path for path in _listed(home / FOLDER) if path.is_dir() and held(lock_of(path))]


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _file(workload: Workload) -> Path:
    return workload.home / FOLDER / workload.session / _USES / f"{os.getpid()}@{platform.node()}"


def _lives(name: str) -> bool:
    """Whether a worker may still live: those of another machine do as long as their session does."""
    process, _, node = name.partition("@")
    if node != platform.node() or not process.isdigit():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
