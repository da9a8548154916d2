"""Hands jobs to a worker and waits: passes on what it reports, writes what waits in the journal, obeys a stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from optlang.interfaces import JSON, OptlangError, OutsideError, TargetSpec
from optlang.plan.model import Plan
from optlang.run.engine import MEASURE, Engine, WorkerDied, WorkerTimeout
from optlang.run.events import Watcher
from optlang.run.job import Failure, PrepareJob, Workload, measuring
from optlang.run.labels import learning
from optlang.run.stop import StopRequest
from optlang.run.waits import Waits, alone
from optlang.store.writer import Writer


class _Clock:
    """The seconds that a task takes, without those that it waits."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._since: float | None = None

    def restart(self) -> None:
        """It begins once more."""
        self._begin, self._since = time.monotonic(), None

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
    """One lane of the engine, whose worker loads the model and the data before its first job, and again after it was
    lost."""

    def __init__(
        self, plan: Plan, workload: Workload, engine: Engine, store: Writer, watcher: Watcher, stop: StopRequest,
        lane: int = 0,
    ) -> None:
        self.lane = lane
        self.shown = max(0, lane)
        """The lane that what it does is shown in; of what measures, that of the trial."""
        self.step: tuple[str | None, float] = (None, 0.0)
        """The path of the step that the worker carries out, and since when."""
        self._plan, self._workload, self._engine = plan, workload, engine
        self._store, self._watcher, self._stop = store, watcher, stop
        self._loaded = False
        self._trouble: str | None = None
        self._task: Future[Any] | None = None
        """What the worker was given to do."""
        self._preparing: Waits[None] | None = None
        """The loading of the model and the data that was begun."""
        self._doing: Mapping[str, JSON] = {}
        """What it does of that."""

    def load(self) -> None:
        """Have a worker that has loaded the model and the data: that time is not a trial's."""
        alone(self.loading())

    def begin(self) -> None:
        """Have the worker begin with loading, and wait for it later, in `loading`."""
        if not self._loaded and self._preparing is None:
            self._preparing = self._prepared()
            next(self._preparing)

    def loading(self) -> Waits[None]:
        """As `load`, while something else goes on."""
        if self._loaded:
            return
        preparing, self._preparing = self._preparing or self._prepared(), None
        yield from preparing

    def _prepared(self) -> Waits[None]:
        from optlang.run.worker import prepare

        names = {ref.metric for ref in self._plan.metric_refs()}
        metrics = tuple(sorted(name for name in names if self._plan.metric(name).judges))
        self._show({"doing": "load the model and the data"})
        targets = tuple(
            TargetSpec(item.name, item.device, dynamic=item.dynamic, shape=item.shape, remote=item.remote)
            for item in self._plan.targets
        )
        job = PrepareJob(self._workload, metrics, targets, learning(self._plan))
        try:
            try:
                found = yield from self.running(prepare, job, self._plan.search.trial_timeout)
            except WorkerDied:
                # Something outside may have ended it; one that loading itself ends will die again.
                found = yield from self.running(prepare, job, self._plan.search.trial_timeout)
        except (WorkerDied, WorkerTimeout) as error:
            raise OutsideError(f"loading the model and the data: {error}") from error
        if isinstance(found, Failure):
            raise SetupError(found)
        if self.lane == 0:
            for line in found.said:
                self._watcher.message(line)
            self._store.record({"event": "device", "session": self._workload.session, "training": dict(found.device)})
        self._loaded = True

    def run(self, task: Callable[[J], T], job: J, timeout: float | None) -> T:
        """What the task returns; raises WorkerDied, WorkerTimeout, InterruptedRun."""
        return alone(self.running(task, job, timeout))

    def running(self, task: Callable[[J], T], job: J, timeout: float | None, shown: int | None = None) -> Waits[T]:
        """As `run`, while something else goes on. The worker first does what it was given before.

        What it does is shown in the lane `shown`, where that is another one.
        """
        while self._task is not None:
            yield self._task
        self.shown = max(0, self.lane if shown is None else shown)
        future = self._engine.submit(task, measuring(job) if self.lane == MEASURE else job, self.lane)
        self._task = future
        try:
            return (yield from self._finished(future, timeout))
        except (WorkerDied, WorkerTimeout):
            self._loaded = False
            raise
        finally:
            self._task = None

    def _finished(self, future: Future[T], timeout: float | None) -> Waits[T]:
        self.step = (None, 0.0)
        clock = _Clock()
        while True:
            yield future
            finished = future.done()
            self._stop.check(self._watcher.message)
            for activity in self._engine.activities(self.lane):
                self._heard(activity, clock)
            if timeout is not None and not finished and clock.seconds > timeout:
                self._engine.expire(future, timeout)
            # The store may have lines that it could not write while somebody else held the database.
            self._store.sync()
            trouble = self._store.trouble
            if trouble is not None and trouble != self._trouble:
                self._watcher.message(f"{trouble}; the run goes on, and its results wait in the journal")
            self._trouble = trouble
            if finished:
                return future.result()

    def _heard(self, activity: Mapping[str, JSON], clock: _Clock) -> None:
        """Pass on what the worker reports."""
        if "again" in activity:
            clock.restart()
            self._watcher.message(str(activity["again"]))
            return
        if "waiting" in activity:
            self._waits(clock, activity["waiting"])
            return
        path = activity.get("path")
        if path != self.step[0]:
            self.step = (None if path is None else str(path), time.monotonic())
        self._doing = activity
        self._show(activity)

    def _waits(self, clock: _Clock, why: JSON) -> None:
        """The worker waits, for what `why` says, or no longer (False): that time is neither a trial's nor a step's."""
        waited = clock.wait(waits=bool(why))
        path, since = self.step
        self.step = (path, since + waited)
        self._show({"doing": f"wait: {why}"} if why else self._doing)

    def _show(self, activity: Mapping[str, JSON]) -> None:
        self._watcher.progress(activity if self._engine.lanes == 1 else {**activity, "lane": self.shown})

    def log_tail(self) -> str:
        """The end of what the worker printed."""
        return self._engine.log_tail(self.lane)
