"""Trials on the machines of a Ray cluster: trainers anywhere in it, and one worker that builds and measures.

Each lane has a seat, an actor on a node with a worker process of its own. What is lost with a worker or a node is tried
once more elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from optlang.interfaces import JSON, OutsideError
from optlang.plan.model import Ray
from optlang.run import ray_cluster, ray_node
from optlang.run.engine import MEASURE, WorkerDied, WorkerTimeout
from optlang.run.ray_cluster import Node
from optlang.run.ray_node import About, Outcome, Post
from optlang.run.scratch import FOLDER

T = TypeVar("T")
J = TypeVar("J")

START = 60.0
"""Seconds within which a seat starts on a node that has room for it."""

PATIENCE = 10.0
"""Seconds within which a node answers what takes it no time."""

_POLL = 0.5

GONE = "the machine is gone"

_CALLS = 32
"""How many calls a seat answers at the same time: a task takes one, and each question after it."""

_LITTLE = 0.001
"""What the worker that measures takes of its node's resource: the lock of the machine has one measure at a time."""


@dataclass(slots=True)
class _Seat:
    """A seat as the driver knows it; `lost` once the actor or its node is gone."""

    actor: Any
    node: Node
    lost: bool = False


@dataclass(slots=True)
class _Lane:
    """A lane: its own seat, the one that has its task now, what is reported from there, and its latest question."""

    number: int
    seat: _Seat
    at: _Seat
    task: Future[Any] | None = None
    expired: tuple[float, float] | None = None
    """The seconds that the task may have taken, and when it had."""
    said: deque[Mapping[str, JSON]] = field(default_factory=deque)
    asked: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Lost(Exception):  # noqa: N818 - an event, not a fault
    """A seat is gone."""


class RayEngine:
    """See `Engine`. `home` is the driver's folder for cache and artifacts, `session` the name of this session in it.

    The study's `folder` travels to all nodes; `own` are files of optlang's own that may lie in it and do not. `shares`
    finds out whether a node has the home, too: where one has not, results come and go through Ray.

    Raises OutsideError where there is no such cluster, or it has no room.
    """

    apart = True

    def __init__(
        self, folder: Path, home: Path, session: str, settings: Ray, targets: Sequence[str], own: Sequence[Path] = (),
        shares: Callable[[Post], bool] = ray_node.shares,
    ) -> None:
        self._ray = ray_cluster.installed()
        self._settings, self._shares, self._targets = settings, shares, tuple(targets)
        self._closed = False
        self._opened = threading.Lock()
        self._seats: list[_Seat] = []
        self._keeper: Any = None
        ray_cluster.join(settings.address, folder, [home, *own])
        try:
            self._driver = self._ray.get_runtime_context().get_node_id()
            found = ray_cluster.nodes()
            self._measures = ray_cluster.measuring(found, self._driver, targets)[0]
            self._post = _post(folder, home, session, self._driver)
            self._open(found)
        except BaseException:
            self._end()
            raise

    def _open(self, found: Sequence[Node]) -> None:
        wanted = ray_cluster.placed(found, self._measures, self._settings)
        started = [self._start(node, trains=True) for node in wanted]
        ready = self._ready(started)
        measures = self._ready([self._start(self._measures, trains=False)])
        if not measures or not ready:
            what = "the trainers" if measures else "the worker that measures"
            raise OutsideError(
                f"no node of the Ray cluster has started {what} within {START:g} s",
                help="`ray status` says what else has its cores",
            )
        self.lanes = len(ready)
        self._lanes = {
            number: _Lane(number, seat, seat) for number, seat in [(MEASURE, measures[0]), *enumerate(ready)]
        }
        # A task waits in a thread; no thread waits for another.
        self._threads = ThreadPoolExecutor(len(self._lanes), "ray-lane")

    # ---- the contract

    def submit(self, task: Callable[[J], T], job: J, lane: int = 0) -> Future[T]:
        """See `Engine.submit`."""
        mine = self._lanes[lane]
        with mine.lock:
            mine.said.clear()
            mine.expired = None
        what = pickle.dumps((task, job))
        future: Future[T] = self._threads.submit(lambda: pickle.loads(self._carried(mine, what)))  # noqa: S301
        mine.task = future
        return future

    def activities(self, lane: int = 0) -> Iterator[Mapping[str, JSON]]:
        """See `Engine.activities`."""
        mine = self._lanes[lane]
        with mine.lock:
            if mine.task is not None and not mine.task.done():
                self._look(mine, 0.0)
            while mine.said:
                yield mine.said.popleft()

    def log_tail(self, lane: int = 0) -> str:
        """See `Engine.log_tail`."""
        with contextlib.suppress(Exception):
            # Its node may be gone.
            tail: str = self._ray.get(self._lanes[lane].at.actor.log_tail.remote(), timeout=PATIENCE)
            return tail
        return ""

    def expire(self, future: Future[Any], seconds: float) -> None:
        """See `Engine.expire`."""
        for lane in self._lanes.values():
            if lane.task is future and lane.expired is None:
                lane.expired = (seconds, time.monotonic())
                lane.at.actor.expire.remote(lane.number, seconds)

    def close(self) -> None:
        """See `Engine.close`."""
        if self._closed:
            return
        self._closed = True
        left = [seat.actor.leave.remote() for seat in self._seats if not seat.lost]
        if left:
            self._ray.wait(left, num_returns=len(left), timeout=PATIENCE)
        self._end()
        self._threads.shutdown()
        self._ray.shutdown()

    def _end(self) -> None:
        for actor in [*(seat.actor for seat in self._seats), *([] if self._keeper is None else [self._keeper])]:
            self._ray.kill(actor)
        if not self._closed:
            # Nothing has begun.
            self._closed = True
            self._ray.shutdown()

    # ---- a task

    def _carried(self, lane: _Lane, what: bytes) -> bytes:
        """The result of a task, which is tried once more where its worker is lost."""
        lane.at = lane.seat
        try:
            return self._done(lane, what)
        except (WorkerDied, _Lost) as error:
            first, node = error, lane.at.node
        if lane.expired is not None:
            raise WorkerTimeout(f"took longer than {lane.expired[0]:g} s")
        if self._closed:
            raise WorkerDied(str(first))
        lane.at = self._elsewhere(lane, str(first))
        with lane.lock:
            lane.asked = None
            lane.said.append({"again": f"{first} ({node.address}); its task is tried again on {lane.at.node.address}"})
        try:
            return self._done(lane, what)
        except (WorkerDied, _Lost) as error:
            if lane.expired is not None:
                raise WorkerTimeout(f"took longer than {lane.expired[0]:g} s") from error
            raise WorkerDied(
                f"{error} ({lane.at.node.address}), and before that, {first} ({node.address})"
            ) from error

    def _done(self, lane: _Lane, what: bytes) -> bytes:
        """The result of one try; raises _Lost where the seat is gone, and whatever the task raises."""
        from ray.exceptions import RayError

        seat = lane.at
        running = seat.actor.run.remote(lane.number, what)
        while not self._ray.wait([running], timeout=_POLL)[0]:
            if self._closed:
                raise WorkerDied("the run is over")
            if lane.expired is not None and time.monotonic() - lane.expired[1] > PATIENCE:
                # The node does not answer.
                self._lose(seat)
                raise WorkerTimeout(f"took longer than {lane.expired[0]:g} s")
        try:
            outcome: Outcome = self._ray.get(running)
        except RayError as error:
            self._lose(seat)
            raise _Lost(_reason(error)) from error
        with lane.lock:
            self._look(lane, PATIENCE)
            lane.said.extend(outcome.news)
        if outcome.error is not None:
            raise outcome.error
        assert outcome.result is not None
        return outcome.result

    def _look(self, lane: _Lane, seconds: float) -> None:
        """Take in what the lane's task reports, waiting for no more than so long, and ask for more."""
        from ray.exceptions import RayError

        if lane.asked is not None:
            if not self._ray.wait([lane.asked], timeout=seconds)[0]:
                return
            asked, lane.asked = lane.asked, None
            with contextlib.suppress(RayError):
                # Where the seat is lost, its task says so.
                lane.said.extend(self._ray.get(asked))
        if not seconds and not lane.at.lost:
            lane.asked = lane.at.actor.news.remote(lane.number)

    # ---- seats

    def _elsewhere(self, lane: _Lane, why: str) -> _Seat:
        """Where a task is tried again. A lane whose seat is lost has another one from now on.

        Raises OutsideError where no machine is left.
        """
        with self._opened:
            mine, found = lane.seat, ray_cluster.nodes()
            if lane.number == MEASURE:
                if mine.lost:
                    # Times of a machine that nobody has named would stand next to those of the one that is lost.
                    able = [node for node in found if self._measures_as(node, mine.node)]
                    lane.seat = self._opened_on(_last(able, mine.node), trains=False, why=why)
                    self._measures = lane.seat.node
                return lane.seat
            away = [node for node in found if node.id != lane.at.node.id]
            others = [
                item.seat for item in self._lanes.values()
                if item.number != MEASURE and not item.seat.lost and item.seat.node in away
            ]
            if not mine.lost:
                # The machine may be why its worker has died.
                return min(others, key=self._users, default=mine)
            free = [node for node in away if self._trainers(node) < node.room(self._settings)]
            if others and not free:
                # Two lanes take turns on it.
                lane.seat = min(others, key=self._users)
            else:
                lane.seat = self._opened_on([*free, *_last(found, mine.node)[-1:]], trains=True, why=why)
            return lane.seat

    def _measures_as(self, node: Node, lost: Node) -> bool:
        """Whether a node has the resources by which another one measures; where it measures by default, it alone."""
        names = [name for target in self._targets if lost.resources.get(name := f"{ray_cluster.RESOURCE}{target}")]
        return all(node.resources.get(name) for name in names) if names else node.id == lost.id

    def _users(self, seat: _Seat) -> int:
        """How many lanes have it as theirs."""
        return sum(lane.seat is seat for lane in self._lanes.values())

    def _trainers(self, node: Node) -> int:
        """How many trainers a node has."""
        return sum(
            seat.node.id == node.id and not seat.lost and seat is not self._lanes[MEASURE].seat for seat in self._seats
        )

    def _opened_on(self, wanted: Sequence[Node], *, trains: bool, why: str) -> _Seat:
        """A new seat on the first of these nodes that starts one."""
        for node in wanted:
            ready = self._ready([self._start(node, trains=trains)])
            if ready:
                return ready[0]
        what = "trains" if trains else "measures"
        raise OutsideError(
            f"no machine of the Ray cluster is left that {what}: {why}",
            help="run the study again when the cluster has one: it goes on where it is",
        )

    def _start(self, node: Node, *, trains: bool) -> _Seat:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        quiet = node.address == self._measures.address
        post = replace(self._post, name=f"{'train' if trains else 'measure'}-{len(self._seats)}", quiet=quiet)
        names = [f"{ray_cluster.RESOURCE}{target}" for target in self._targets]
        options: dict[str, Any] = {
            "num_cpus": self._settings.cpus, "num_gpus": self._settings.gpus,
        } if trains else {
            "num_cpus": 0, "resources": {name: _LITTLE for name in names if node.resources.get(name)},
            # It takes no GPU from the trainers, and is to see those that the targets name.
            "runtime_env": {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}},
        }
        actor = self._ray.remote(ray_node.Seat).options(
            **options, max_concurrency=_CALLS, max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        ).remote(post, node.id, self._shares)
        seat = _Seat(actor, node)
        self._seats.append(seat)
        return seat

    def _ready(self, seats: Sequence[_Seat]) -> list[_Seat]:
        """Those that start in time. Raises OutsideError where one cannot, or has other versions than the driver."""
        from ray.exceptions import ActorUnschedulableError, RayError

        asked = {seat.actor.about.remote(): seat for seat in seats}
        ready, late = self._ray.wait(list(asked), num_returns=len(asked), timeout=START)
        for item in late:
            self._lose(asked[item])
        found = []
        for item in ready:
            seat = asked[item]
            try:
                about: About = self._ray.get(item)
            except ActorUnschedulableError:
                # The node has gone meanwhile.
                self._lose(seat)
                continue
            except RayError as error:
                if _reason(error) == GONE:
                    self._lose(seat)
                    continue
                raise OutsideError(
                    f"no worker can start on {seat.node.address}: {_last_line(error)}",
                    help="every machine of the cluster needs this version of optlang, with the study's packages",
                ) from error
            _check_versions(about, seat.node)
            if not about.shares:
                self._ray.get(seat.actor.connect.remote(self._kept()))
            found.append(seat)
        return found

    def _kept(self) -> Any:
        """The keeper of the home."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if self._keeper is None:
            self._keeper = self._ray.remote(ray_node.Keeper).options(
                num_cpus=0, max_concurrency=_CALLS,
                scheduling_strategy=NodeAffinitySchedulingStrategy(self._driver, soft=False),
            ).remote(self._post.home)
        return self._keeper

    def _lose(self, seat: _Seat) -> None:
        seat.lost = True
        self._ray.kill(seat.actor)


def _post(folder: Path, home: Path, session: str, driver: str) -> Post:
    """What all seats are given, with a token in the home."""
    content, token = uuid.uuid4().hex, home / FOLDER / session / "token"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.write_text(content)
    return Post(
        session, folder, home, driver, "", token, content, quiet=False, threads=os.environ.get("OMP_NUM_THREADS")
    )


def _last(nodes: Sequence[Node], last: Node) -> list[Node]:
    """The nodes, this one after all others."""
    return sorted(nodes, key=lambda node: node.id == last.id)


def _check_versions(about: About, node: Node) -> None:
    """OutsideError where results of the node would not be found by those of the others."""
    for name, own in ray_node.own_versions().items():
        other = about.versions.get(name)
        if other != own:
            raise OutsideError(
                f"{node.address} ({about.host}) has {name} {other or '(not installed)'}, this machine has {own}",
                help="results depend on it: install the same version on all machines of the cluster",
            )


def _reason(error: Exception) -> str:
    """What became of a seat, without Ray's own details."""
    text = " ".join(str(error).split())
    if "node has died" in text or "node is dead" in text:
        return GONE
    _, found, why = text.partition("The actor is dead because ")
    return f"the worker is gone: {why.partition('. ')[0]}" if found else "the machine does not answer"


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2].strip()
