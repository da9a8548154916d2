"""Keeps the other workers of a run off the cores that something is measured on.

Each worker is registered in a folder of the run. The one that measures, which holds the machine's lock, lets the
others run on other cores only; where there are none, or the system cannot pin, it stops them (SIGSTOP) for as long.
Their measuring processes have nothing to do meanwhile and are stopped in any case. Whatever becomes of the one that
measures, the scheduler, or a worker that sees the scheduler gone, calls `release`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

WORKERS = "workers"
"""The folder in the session's own where workers are registered."""

_MEASURES = "optlang.measure.child"

_own: frozenset[int] | None = None


def allowed() -> frozenset[int]:
    """The cores that this process may use, also while it is kept off some; none where the system does not say."""
    if _own is not None:
        return _own
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


def register(workers: Path, cores: Collection[int], *, stoppable: bool = True) -> None:
    """This process is one of the run's: it may use these cores, and is stopped where it can be `stoppable` only."""
    global _own
    if cores:
        _own = frozenset(cores)
        os.sched_setaffinity(0, cores)
    workers.mkdir(parents=True, exist_ok=True)
    about = {"cores": sorted(cores), "stoppable": stoppable, "parent": os.getppid()}
    (workers / str(os.getpid())).write_text(json.dumps(about))


def forget(workers: Path) -> None:
    """This process is one of the run's no longer."""
    global _own
    _own = None
    (workers / str(os.getpid())).unlink(missing_ok=True)


@contextlib.contextmanager
def kept(workers: Path, measured: Sequence[int] | None) -> Iterator[None]:
    """While the block runs, all others that are registered are off the `measured` cores (None: of unknown ones)."""
    others = [item for item in _registered(workers) if item.pid != os.getpid()]
    try:
        for item in others:
            _keep_off(item, item.cores - _with_siblings(measured) if measured is not None else frozenset())
        yield
    finally:
        for item in others:
            _release(item)


def release(workers: Path) -> None:
    """Let all that are registered go on where they may."""
    for item in _registered(workers):
        _release(item)


@dataclass(frozen=True, slots=True)
class _Registered:
    pid: int
    cores: frozenset[int]
    stoppable: bool
    parent: int


def _registered(workers: Path) -> list[_Registered]:
    """Those that are still there."""
    found = []
    for path in sorted(workers.iterdir()) if workers.is_dir() else ():
        try:
            about = json.loads(path.read_text())
        except (OSError, ValueError):
            # It is being written, or its worker is gone.
            continue
        found.append(_Registered(int(path.name), frozenset(about["cores"]), about["stoppable"], about["parent"]))
    return found


def _keep_off(item: _Registered, free: frozenset[int]) -> None:
    for process in _processes(item):
        measures = process.pid != item.pid and _MEASURES in _command(process)
        if free and not measures:
            _pin(process.pid, free)
        elif measures or item.stoppable:
            _send(process.pid, signal.SIGSTOP)


def _release(item: _Registered) -> None:
    for process in _processes(item):
        if item.cores and _MEASURES not in _command(process):
            _pin(process.pid, item.cores)
        _send(process.pid, signal.SIGCONT)


def _processes(item: _Registered) -> list[psutil.Process]:
    """A worker and all below it; of one that must not be stopped itself alone: those below it are registered too."""
    import psutil

    try:
        process = psutil.Process(item.pid)
        if process.ppid() != item.parent:
            # The system gave the number of a worker that is gone to something else.
            return []
        return [process, *process.children(recursive=True)] if item.stoppable else [process]
    except psutil.NoSuchProcess:
        return []


def _command(process: psutil.Process) -> list[str]:
    import psutil

    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def _pin(pid: int, cores: Collection[int]) -> None:
    """All threads of a process: the system pins each by itself."""
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            # One may be over by now.
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(thread.name), cores)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _with_siblings(cores: Sequence[int]) -> frozenset[int]:
    """The cores, and those that share a processor core with one of them."""
    found = set(cores)
    for core in cores:
        try:
            text = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
        except OSError:
            continue
        found |= _listed(text)
    return frozenset(found)


def _listed(text: str) -> set[int]:
    """The cores of a list like `0-2,5`."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def die_with_parent() -> None:
    """Have the system end this process when the one that started it is gone, on Linux: a stopped process cannot look
    for itself."""
    _at_the_parents_end(signal.SIGKILL)


def go_on_without_parent() -> None:
    """Have the system continue this process, where it is stopped, when the one that started it is gone, on Linux: it
    then sees that it is to end."""
    _at_the_parents_end(signal.SIGCONT)


def _at_the_parents_end(number: signal.Signals) -> None:
    if sys.platform.startswith("linux"):
        import ctypes

        parent_death = 1
        ctypes.CDLL(None).prctl(parent_death, number)
