"""What a Ray cluster's nodes run: seats, each with a worker process of its own, and the keeper of the run's folder.

Nothing here imports Ray but where an actor calls another: a worker process has nothing to do with Ray.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from optlang.interfaces import JSON, Artifact, OutsideError
from optlang.measure import quiet
from optlang.measure.machine import machine_lock
from optlang.run import elsewhere
from optlang.run.cache import libraries
from optlang.run.engine import LocalEngine
from optlang.run.machine import versions
from optlang.run.scratch import FOLDER, Scratch
from optlang.run.travel import moved, packed, unpack, within

BUSY = "another trial has this worker"
"""What a task may have to wait for where two lanes have one seat."""


@dataclass(frozen=True, slots=True)
class Post:
    """What a seat is given when it starts: the session, the driver's study, home and node, and the name of its logs.

    `token` is a file in the home with `content`: who can read that has the driver's folder. `quiet` says that it is on
    the machine that measures, where workers are kept off the cores meanwhile. `threads` is what the user has set
    OMP_NUM_THREADS to.
    """

    session: str
    study: Path
    home: Path
    node: str
    name: str
    token: Path
    content: str
    quiet: bool
    threads: str | None


@dataclass(frozen=True, slots=True)
class About:
    """What a seat says of itself: whether it has the driver's folder, and the versions that results depend on."""

    host: str
    shares: bool
    versions: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task: its pickled result or what it raised, and what it reported last."""

    result: bytes | None
    error: BaseException | None
    news: tuple[Mapping[str, JSON], ...]


def shares(post: Post) -> bool:
    """Whether this machine has the driver's folder for cache and artifacts."""
    try:
        return post.token.read_text() == post.content
    except OSError:
        return False


def own_versions() -> dict[str, JSON]:
    """What must be the same on all nodes: results of steps are found by it."""
    return {**libraries(), **versions(["optlang-dsl"])}


class Seat:
    """One worker on a node: it does one task at a time, for one lane or for several.

    Its worker is a process of its own, as on one machine: whatever becomes of that, the seat answers.
    """

    def __init__(self, post: Post, node: str, shared: Callable[[Post], bool]) -> None:
        # Ray sets it for its own processes; what is measured is to have what users have.
        if post.threads is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        self._shares = shared(post)
        self._own = None if self._shares else Scratch(Path(tempfile.gettempdir()) / f"optlang-ray-{_user()}")
        home = post.home if self._own is None else self._own.folder
        # Ray starts an actor in its copy of the study's folder.
        study = post.study if node == post.node else Path.cwd()
        self._roots = ((post.home, home), (post.study, study))
        session = home / FOLDER / post.session
        logs = session / "seats" / post.name
        logs.mkdir(parents=True, exist_ok=True)
        workers = _workers(post, session, shared=self._shares) if post.quiet else None
        self._engine = LocalEngine(study, logs, workers=workers)
        self._office: PostOffice | None = None
        self._home = home
        self._turn = threading.Lock()
        self._look = threading.Lock()
        self._now: tuple[int, Future[bytes]] | None = None
        """The lane whose task is carried out, and its future."""
        self._begun: list[Mapping[str, JSON]] = []

    def about(self) -> About:
        """See `About`."""
        return About(platform.node(), self._shares, own_versions())

    def connect(self, keeper: Any) -> None:
        """Where this machine shares no folder: the actor that keeps it."""
        self._office = PostOffice(self._home, keeper)

    def run(self, lane: int, what: bytes) -> Outcome:
        """Carry out a pickled task with its job, once what another lane had given is over."""
        office = self._office
        waits = self._turn.locked()
        with self._turn:
            call = Call(what, self._roots, None if office is None else office.address, office.key if office else b"")
            future = self._engine.submit(there, call)
            with self._look:
                self._now, self._begun = (lane, future), [{"waiting": False}] if waits else []
            result, error = None, None
            try:
                result = future.result()
            except BaseException as raised:  # noqa: BLE001 - the engine on the other side raises it
                error = raised
            with self._look:
                self._now = None
                return Outcome(result, error, tuple(self._reported()))

    def news(self, lane: int) -> list[Mapping[str, JSON]]:
        """What the lane's task has reported since the last look."""
        with self._look:
            if self._now is None:
                return []
            if self._now[0] != lane:
                return [{"waiting": BUSY}]
            return self._reported()

    def _reported(self) -> list[Mapping[str, JSON]]:
        begun, self._begun = self._begun, []
        return [*begun, *self._engine.activities()]

    def log_tail(self) -> str:
        """See `Engine.log_tail`."""
        return self._engine.log_tail()

    def expire(self, lane: int, seconds: float) -> None:
        """See `Engine.expire`."""
        with self._look:
            now = self._now
        if now is not None and now[0] == lane:
            self._engine.expire(now[1], seconds)

    def leave(self) -> None:
        """End the worker, and remove what is this machine's alone."""
        self._engine.close()
        if self._office is not None:
            self._office.close()
        if self._own is not None:
            self._own.close()


def _user() -> str:
    return machine_lock().stem.rpartition("-")[2]


def _workers(post: Post, session: Path, *, shared: bool) -> Path:
    """Where the workers on the machine that measures register: each looks for it in its session's folder."""
    found = session / quiet.WORKERS
    if not shared:
        # Seats that share no folder have a folder each.
        common = Path(tempfile.gettempdir()) / f"optlang-workers-{post.session}"
        common.mkdir(exist_ok=True)
        found.symlink_to(common)
    return found


# ---- in the worker process


@dataclass(frozen=True, slots=True)
class Call:
    """A pickled task with its job, the driver's folders and this machine's, and how to reach the seat's post office."""

    what: bytes
    roots: tuple[tuple[Path, Path], ...]
    office: str | None
    key: bytes


def there(call: Call) -> bytes:
    """The pickled result of a task on this machine, with the driver's paths."""
    task, job = pickle.loads(call.what)  # noqa: S301 - of the run's own driver
    job = moved(job, call.roots)
    if call.office is None:
        return pickle.dumps(moved(task(job), [(new, old) for old, new in call.roots]))
    home = call.roots[0][1]
    elsewhere.exchange_by(_Mail(call.office, call.key, home))
    for artifact in within(Artifact, job):
        if not artifact.folder.is_dir():
            elsewhere.bring(artifact.folder)
    result = task(job)
    for artifact in within(Artifact, result):
        elsewhere.drop(artifact.folder)
        elsewhere.send(artifact.folder)
    # All of it was sent. Another machine may go on with a training, and what is here would be the past.
    shutil.rmtree(home / "cache", ignore_errors=True)
    return pickle.dumps(moved(result, [(new, old) for old, new in call.roots]))


class _Mail:
    """Asks the seat's post office."""

    def __init__(self, office: str, key: bytes, home: Path) -> None:
        self._office, self._key, self._home = office, key, home

    def bring(self, folder: Path) -> bool:
        return self._ask("bring", folder)

    def send(self, folder: Path) -> None:
        self._ask("send", folder)

    def drop(self, folder: Path) -> None:
        self._ask("drop", folder)

    def _ask(self, what: str, folder: Path) -> bool:
        with Client(self._office, authkey=self._key) as connection:
            connection.send((what, str(folder.relative_to(self._home))))
            answer = connection.recv()
        if isinstance(answer, str):
            raise OutsideError(f"{folder.name} does not travel between the machines: {answer}")
        return bool(answer)


# ---- between the worker process and the keeper


class PostOffice:
    """Does in the seat's process what its worker asks for: Ray is there."""

    def __init__(self, home: Path, keeper: Any) -> None:
        self._home, self._keeper = home, keeper
        self.key, self._open = secrets.token_bytes(32), True
        self._listener = Listener(None, "AF_UNIX", authkey=self.key)
        threading.Thread(target=self._serve, daemon=True, name="post-office").start()

    @property
    def address(self) -> str:
        """Where the worker reaches it."""
        return str(self._listener.address)

    def close(self) -> None:
        """No longer."""
        self._open = False
        self._listener.close()

    def _serve(self) -> None:
        while self._open:
            try:
                connection = self._listener.accept()
            except (OSError, EOFError, AuthenticationError):
                # It is closed, or a worker has died while it said who it is.
                continue
            with connection, contextlib.suppress(EOFError, OSError):
                self._answer(connection)

    def _answer(self, connection: Connection) -> None:
        what, name = connection.recv()
        try:
            connection.send(self._done(what, name))
        except Exception as error:  # noqa: BLE001 - whatever Ray raises: the worker says what it was about
            connection.send(f"{type(error).__name__}: {error}")

    def _done(self, what: str, name: str) -> bool:
        import ray

        folder = self._home / name
        if what == "bring":
            content = ray.get(self._keeper.content.remote(name))
            if content is not None:
                unpack(content, folder)
            return content is not None
        if what == "send":
            ray.get(self._keeper.keep.remote(name, packed(folder)))
        else:
            ray.get(self._keeper.drop.remote(name))
        return True


class Keeper:
    """Has the run's folder, on the driver's node, where not all nodes share it."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def content(self, name: str) -> bytes | None:
        """A folder's content, None where there is none; where it is removed meanwhile likewise."""
        folder = self._home / name
        try:
            return packed(folder) if folder.is_dir() else None
        except FileNotFoundError:
            return None

    def keep(self, name: str, content: bytes) -> None:
        """Have the folder so."""
        unpack(content, self._home / name)

    def drop(self, name: str) -> None:
        """Have it no longer."""
        shutil.rmtree(self._home / name, ignore_errors=True)

