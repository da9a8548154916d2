"""Where trials run: worker processes on this machine, whose death or hanging is reported and ends no study.

An engine has lanes: in each, one worker does one task after another. What a worker does at the same time as others is
nothing that an engine knows.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from optlang.interfaces import JSON
from optlang.measure import quiet, signals
from optlang.measure.lock import held
from optlang.measure.machine import machine_lock
from optlang.run.progress_file import ProgressReader, ProgressWriter, report_to
from optlang.workload import devices

if TYPE_CHECKING:
    from pebble import ProcessPool

MEASURE = -1
"""The lane of an engine whose trainings run `apart`: its worker builds and measures, one task at a time."""

T = TypeVar("T")
J = TypeVar("J")


class WorkerDied(Exception):  # noqa: N818 - an event, not a fault
    """The worker process ended in the middle of a task; the message says how."""


class WorkerTimeout(Exception):  # noqa: N818 - likewise
    """The task took longer than it may; its worker was ended."""


class Engine(Protocol):
    """Runs tasks in other processes, on this machine or another: in each of `lanes` (0, 1, …) one at a time.

    Where trainings run `apart` from measurements there is the lane `MEASURE` too, and the others only train.
    """

    lanes: int
    apart: bool

    def submit(self, task: Callable[[J], T], job: J, lane: int = 0) -> Future[T]:
        """Start the task; the future's exception is `WorkerDied` or `WorkerTimeout` where the worker was lost."""

    def activities(self, lane: int = 0) -> Iterator[Mapping[str, JSON]]:
        """What the lane's task has reported (see `progress_file.report`) since the last look."""

    def log_tail(self, lane: int = 0) -> str:
        """The end of what the lane's worker printed."""

    def expire(self, future: Future[Any], seconds: float) -> None:
        """End the worker of a task that has taken more than so many seconds: its future has `WorkerTimeout`, unless the
        task was over already."""

    def close(self) -> None:
        """End the workers at once; tasks that still run are lost."""


# What ends a worker. SIGTERM does not: it is also sent to all processes of a run, which is to finish its trial.
_END = getattr(signal, "SIGUSR2", None)


class _Worker(SpawnProcess):
    """A worker process as the pool ends it, which does not import the program that started it.

    A spawned process runs its parent's main file once more, and a script that runs a study without asking for its
    `__name__` would start another run there. Nothing that a worker is given is defined in that file.
    """

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main

    def terminate(self) -> None:
        if _END is None or self.pid is None or not self.is_alive():
            super().terminate()
        else:
            os.kill(self.pid, _END)


class _Spawn(SpawnContext):
    """Spawned, never forked: a child forked from a process with threads (torch, duckdb) can hang."""

    Process = _Worker


class LocalEngine:
    """Worker processes on this machine, one a lane, kept warm between tasks and replaced when they die.

    `folder` is the study's: the workers' current folder, and first on their `sys.path`, so that the user's own Python
    finds its files. What a worker prints, the user's code included, goes to its log in the folder `logs`, and there
    too goes what it reports. `workers` is where those of several engines register that measure on this machine.
    """

    apart = False

    def __init__(self, folder: Path, logs: Path, lanes: int = 1, workers: Path | None = None) -> None:
        signals.start_tracker()
        self.lanes = lanes
        self._workers = workers or (logs / quiet.WORKERS if lanes > 1 else None)
        cores = quiet.allowed()
        if self._workers is not None:
            # What draws the points computes too.
            quiet.register(self._workers, cores, stoppable=False)
        self._lanes = [_Lane(folder, logs, lane, self._workers, cores) for lane in range(lanes)]

    def submit(self, task: Callable[[J], T], job: J, lane: int = 0) -> Future[T]:
        """See `Engine.submit`."""
        return self._lanes[lane].submit(task, job)

    def activities(self, lane: int = 0) -> Iterator[Mapping[str, JSON]]:
        """See `Engine.activities`."""
        return self._lanes[lane].reader.new()

    def log_tail(self, lane: int = 0) -> str:
        """See `Engine.log_tail`."""
        return self._lanes[lane].log_tail()

    def expire(self, future: Future[Any], seconds: float) -> None:
        """See `Engine.expire`."""
        for lane in self._lanes:
            lane.expire(future, seconds)

    def close(self) -> None:
        """See `Engine.close`."""
        for lane in self._lanes:
            lane.close()
        if self._workers is not None:
            quiet.forget(self._workers)


class _Lane:
    """One worker process after another; it starts with the first task. `workers` is where all lanes register theirs,
    None where there is one lane alone; each may use `cores`."""

    def __init__(
        self, folder: Path, logs: Path, number: int, workers: Path | None, cores: Collection[int]
    ) -> None:
        self._folder, self._workers, self._cores = folder, workers, cores
        self._log = logs / ("worker.log" if number == 0 else f"worker-{number}.log")
        self._progress = logs / f"progress-{number}.jsonl"
        self.reader = ProgressReader(self._progress)
        self._pool: ProcessPool | None = None
        self._running: dict[Future[Any], Future[Any]] = {}
        """The pool's own future by the one that was given out."""

    def submit(self, task: Callable[[J], T], job: J) -> Future[T]:
        """See `Engine.submit`."""
        from pebble import ProcessExpired, ProcessPool

        if self._pool is None:
            begin = (self._folder, self._log, self._progress, self._workers, self._cores)
            self._pool = ProcessPool(max_workers=1, context=_Spawn(), initializer=_begin, initargs=begin)
        self.reader.restart()
        outer: Future[T] = Future()
        inner = self._running[outer] = self._pool.schedule(task, args=(job,))

        def finished(task: Future[T]) -> None:
            self._running.pop(outer, None)
            if outer.done():
                # It took too long, and was ended.
                self._let_go()
                return
            if task.cancelled():
                outer.cancel()
                return
            error = task.exception()
            if isinstance(error, ProcessExpired):
                self._let_go()
            if error is None:
                outer.set_result(task.result())
            elif isinstance(error, ProcessExpired):
                outer.set_exception(WorkerDied(_ending(error.exitcode)))
            else:
                outer.set_exception(error)

        inner.add_done_callback(finished)
        return outer

    def _let_go(self) -> None:
        """Where this lane's worker was lost while it measured, it kept the others off its cores."""
        if self._workers is not None and not held(machine_lock()):
            quiet.release(self._workers)

    def log_tail(self) -> str:
        """See `Engine.log_tail`."""
        try:
            return self._log.read_text(errors="replace")[-4000:]
        except OSError:
            return ""

    def expire(self, future: Future[Any], seconds: float) -> None:
        """See `Engine.expire`."""
        inner = self._running.pop(future, None)
        # A running future of the pool is cancelled by ending its worker.
        if inner is not None and not future.done():
            future.set_exception(WorkerTimeout(f"took longer than {seconds:g} s"))
            inner.cancel()

    def close(self) -> None:
        """See `Engine.close`."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()


def _ending(code: int) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the worker process was ended by {name}{hint}"
    if code == devices.LOST:
        return "CUDA failed in the worker process, which computes on the GPU no more and was ended"
    return f"the worker process ended with exit code {code}"


def _begin(folder: Path, log: Path, progress: Path, workers: Path | None, cores: Collection[int]) -> None:
    """The worker's first task."""
    report_to(ProgressWriter(progress))
    if workers is not None:
        quiet.die_with_parent()
        quiet.register(workers, cores)
    # Libraries in C print past sys.stdout, and a crash prints last: so the descriptors themselves are turned.
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    # Ctrl-C in a terminal reaches the whole process group, and so may SIGTERM and SIGHUP: the scheduler decides what
    # happens to the running trial. The pool's own handler of SIGTERM cleans up and ends the process.
    if _END is not None:
        signal.signal(_END, signal.getsignal(signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals.outlive()
    os.chdir(folder)
    sys.path[:] = [str(folder), *(path for path in sys.path if path != str(folder))]
    parent = os.getppid()

    def watch() -> None:
        # A scheduler that was killed cannot end its workers: they check for themselves.
        while os.getppid() == parent:
            time.sleep(0.5)
        if workers is not None:
            quiet.release(workers)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
