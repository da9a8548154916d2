"""Hands jobs to the worker and waits: passes on what it reports, writes what waits in the journal, obeys a stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from optlang.interfaces import OptlangError, OutsideError, TargetSpec
from optlang.plan.model import Plan
from optlang.run.engine import Engine, WorkerDied, WorkerTimeout, wait
from optlang.run.events import Watcher
from optlang.run.job import Failure, PrepareJob, Workload
from optlang.run.labels import learning
from optlang.run.progress_file import ProgressReader
from optlang.run.scratch import Scratch
from optlang.run.stop import StopRequest
from optlang.store.writer import Writer

WORKER_LOG = "worker.log"
"""What the worker of this session prints, the user's own Python included; its end is kept with a trial that fails."""

POLL = 0.1
"""Seconds between two looks at a worker's progress."""


class _Clock:
    """The seconds that a task takes, without those that it waits."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._since: float | None = None

    def wait(self, *, waits: bool) -> float:
        """From now on it waits, or no longer; returns for how long it did."""
        now = time.monotonic()
        waited = 0.0 if self._since is None else now - self._since
        self._since = now if waits else None
        self._begin += waited
        return waited

    @property
    def seconds(self) -> float:
        """So far."""
        return (time.monotonic() if self._since is None else self._since) - self._begin


J = TypeVar("J")
T = TypeVar("T")


class SetupError(OptlangError):
    """Nothing can be run: `details` is the whole text of what went wrong in the worker."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.details = failure.text


class Dispatcher:
    """One worker, which loads the model and the data before its first job, and again after it was lost."""

    def __init__(
        self, plan: Plan, workload: Workload, engine: Engine, store: Writer, watcher: Watcher, stop: StopRequest,
        scratch: Scratch,
    ) -> None:
        self.progress = scratch.folder / "progress.jsonl"
        self.step: tuple[str | None, float] = (None, 0.0)
        """The path of the step that the worker carries out, and since when."""
        self._plan, self._workload, self._engine = plan, workload, engine
        self._store, self._watcher, self._stop, self._folder = store, watcher, stop, scratch.folder
        self._loaded = False
        self._trouble: str | None = None

    def load(self) -> None:
        """Have a worker that has loaded the model and the data: that time is not a trial's."""
        if self._loaded:
            return
        from optlang.run.worker import prepare

        names = {ref.metric for ref in self._plan.metric_refs()}
        metrics = tuple(sorted(name for name in names if self._plan.metric(name).judges))
        self._watcher.progress({"doing": "load the model and the data"})
        targets = tuple(
            TargetSpec(item.name, item.device, dynamic=item.dynamic, shape=item.shape) for item in self._plan.targets
        )
        job = PrepareJob(self._workload, metrics, self.progress, targets, learning(self._plan))
        try:
            found = self.run(prepare, job, self._plan.search.trial_timeout)
        except (WorkerDied, WorkerTimeout) as error:
            raise OutsideError(f"loading the model and the data: {error}") from error
        if isinstance(found, Failure):
            raise SetupError(found)
        for line in found:
            self._watcher.message(line)
        self._loaded = True

    def run(self, task: Callable[[J], T], job: J, timeout: float | None) -> T:
        """What the task returns; raises WorkerDied, WorkerTimeout, InterruptedRun."""
        reader = ProgressReader(self.progress)
        self.step = (None, 0.0)
        future: Future[T] = self._engine.submit(task, job)
        clock = _Clock()
        while True:
            finished = wait(future, POLL)
            self._stop.check(self._watcher.message)
            for activity in reader.new():
                if "waiting" in activity:
                    self._waits(clock, waits=activity["waiting"])
                    continue
                if activity.get("path") != self.step[0]:
                    self.step = (activity.get("path"), time.monotonic())
                self._watcher.progress(activity)
            if timeout is not None and not finished and clock.seconds > timeout:
                self._engine.expire(future, timeout)
            # The store may have lines that it could not write while somebody else held the database.
            self._store.sync()
            trouble = self._store.trouble
            if trouble is not None and trouble != self._trouble:
                self._watcher.message(f"{trouble}; the run goes on, and its results wait in the journal")
            self._trouble = trouble
            if finished:
                try:
                    return future.result()
                except (WorkerDied, WorkerTimeout):
                    self._loaded = False
                    raise

    def _waits(self, clock: _Clock, *, waits: bool) -> None:
        """Somebody else measures on this machine, or does so no longer: that time is neither a trial's nor a step's."""
        waited = clock.wait(waits=waits)
        path, since = self.step
        self.step = (path, since + waited)
        self._watcher.progress({"doing": "wait: something else is measured on this machine" if waits else "measure"})

    def log_tail(self) -> str:
        """The end of what the worker printed."""
        try:
            return (self._folder / WORKER_LOG).read_text(errors="replace")[-4000:]
        except OSError:
            return ""
