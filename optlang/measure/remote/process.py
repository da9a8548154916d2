"""A process on a device that runs one artifact, with the interface of one on this machine."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from optlang.interfaces import Artifact
from optlang.measure.remote.connection import Connection
from optlang.measure.remote.faults import DeviceLost
from optlang.workload.child_process import ChildDied, ChildTimeout


class RemoteProcess:
    """Started over there for a runtime's object, with so many threads; see `ChildProcess` and `process.LocalProcess`.

    Every method raises DeviceLost where the connection is cut, and DeviceError for a fault that stays.
    """

    def __init__(self, connection: Connection, calls: str, threads: int) -> None:
        self._connection = connection
        self._number, about = connection.start(calls, threads)
        self.pid: int = about["pid"]
        self.cores: list[int] | None = about["cores"]
        self.scratch: str = about["folder"]
        self.study = self.scratch
        self.closed = False
        self.tail = ""
        self._ended: ChildDied | None = None

    @property
    def alive(self) -> bool:
        """Whether it is there, as far as is known."""
        return not self.closed and self._ended is None and self._connection.alive

    def send(self, request: Mapping[str, Any]) -> None:
        """See `ChildProcess.send`."""
        if self.closed:
            raise self.died()
        self._connection.tell(self._number, request)

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """See `ChildProcess.ask`."""
        self.send(request)
        return self.answer(timeout)

    def answer(self, timeout: float) -> dict[str, Any]:
        """See `ChildProcess.answer`."""
        if self.closed:
            raise self.died()
        try:
            message = self._connection.heard(self._number, timeout)
        except queue.Empty:
            self.close()
            raise ChildTimeout from None
        if "died" in message:
            self.tail = message["tail"]
            self._ended = ChildDied(message["died"], message["advice"])
            raise self.died()
        answer: dict[str, Any] = message["answer"]
        return answer

    def died(self) -> ChildDied:
        """See `ChildProcess.died`."""
        self.close()
        return self._ended or ChildDied("was ended", None)

    def given(self, path: Path) -> str:
        """A file, or a folder of files, as the process finds it over there."""
        if path.is_file():
            return f"{self._connection.show(self._number, {path.name: path})}/{path.name}"
        files = {item.relative_to(path).as_posix(): item for item in path.rglob("*") if item.is_file()}
        return self._connection.show(self._number, files)

    def artifact(self, artifact: Artifact) -> str:
        """The folder with the artifact's files, and no others that lie next to them."""
        return self._connection.show(self._number, {item.name: artifact.folder / item.name for item in artifact.files})

    @contextlib.contextmanager
    def written(self, folder: Path) -> Iterator[str]:
        """The folder that the process writes to, which is `folder` when the block is over."""
        there: str = self._connection.ask({"do": "room", "process": self._number})["folder"]
        yield there
        self._connection.fetch(there, folder)

    def close(self) -> None:
        """End it."""
        if not self.closed:
            self.closed = True
            with contextlib.suppress(DeviceLost):
                self._connection.end(self._number)
