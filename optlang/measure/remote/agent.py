"""What optlang runs on a device: it keeps files, starts the processes that measure, and watches them.

It measures nothing itself: the processes are those of `measure/child.py`, as on this machine. It answers requests from
its standard input, a line of JSON each, some followed by so many `bytes`; so are its answers. It ends with its input,
or when nothing has come for `PATIENCE` seconds: the caller has gone, and must not hold the lock. Requests are
objects with `id` and `do`:

- `facts` (`modules`) → see facts.py
- `missing` (`hashes`) → `missing`;  `put` (`sha256`, `bytes`, and the bytes) →
- `show` (`process`, `names`: hash by name) → `folder`, where the files are under these names
- `room` (`process`) → `folder`, which is not there yet, for a process to write to
- `list` (`folder`) → `files`: name, bytes and SHA-256 each;  `get` (`path`) → `bytes`, and the bytes
- `drop` (`folder`) →
- `lock` → `held`: whether this one may measure now;  `unlock` →
- `start` (`process`: a number of the caller's, `threads`, `program`: a file with Python) → `pid`, `cores`, `folder`
- `send` (`process`, `request`): no answer; the process's own comes as `{"process", "answer"}`, or, where it has ended,
  `{"process", "died", "advice", "tail"}`
- `end` (`process`) →
- `beat`: no answer

An answer is `{"id", "ok": …}` or `{"id", "error": {"kind", "message"}}`; `kind` is "full" where the disk is.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from optlang.measure import machine
from optlang.measure.remote.contents import Contents, Damaged, sha256_of
from optlang.measure.remote.facts import facts
from optlang.workload.child_process import ChildDied, ChildProcess

PATIENCE = 30.0
"""Seconds without a word from the other side after which it counts as gone; it says something every few seconds."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PIECE = 2**18


class Agent:
    """The answers to requests; `home` is the folder of the files."""

    def __init__(self, home: Path, answers: BinaryIO) -> None:
        self._home, self._answers = home, answers
        self._contents = Contents(home)
        self._processes: dict[int, ChildProcess] = {}
        self._lock: int | None = None
        self._writing = threading.Lock()
        self.heard = time.monotonic()

    def serve(self, source: BinaryIO) -> None:
        """Answer until the end of `source`."""
        while line := source.readline():
            self.heard = time.monotonic()
            request = json.loads(line)
            if request["do"] == "beat":
                continue
            self._answer(request, source)

    def _answer(self, request: Mapping[str, Any], source: BinaryIO) -> None:
        number = request.get("id")
        try:
            if request["do"] == "put":
                self._contents.put(request["sha256"], request["bytes"], _Heard(source, self))
                found: dict[str, Any] = {}
            elif request["do"] == "get":
                self._get(number, Path(request["path"]))
                return
            else:
                found = getattr(self, f"do_{request['do']}")(request) or {}
        except (OSError, Damaged, ChildDied) as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            kind = "full" if full else type(error).__name__
            self._say({"id": number, "error": {"kind": kind, "message": str(error)}})
            return
        if number is not None:
            self._say({"id": number, "ok": found})

    def _say(self, message: Mapping[str, Any], file: BinaryIO | None = None) -> None:
        with self._writing:
            self._answers.write(json.dumps(message).encode() + b"\n")
            if file is not None:
                shutil.copyfileobj(file, self._answers, _PIECE)
            self._answers.flush()

    def _get(self, number: int | None, path: Path) -> None:
        with self._own(path).open("rb") as file:
            self._say({"id": number, "ok": {}, "bytes": os.fstat(file.fileno()).st_size}, file)

    def _own(self, path: Path) -> Path:
        """A path of this process's own files; OSError for any other."""
        if not path.resolve().is_relative_to(self._contents.scratch.resolve()):
            raise OSError(f"{path} is none of this run's files")
        return path

    # ---- requests

    def do_facts(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return facts(self._home, request["modules"])

    def do_missing(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"missing": self._contents.missing(request["hashes"])}

    def do_show(self, request: Mapping[str, Any]) -> dict[str, Any]:
        folder = self._room(request)
        self._contents.show(folder, request["names"])
        return {"folder": str(folder)}

    def do_room(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"folder": str(self._room(request))}

    def do_list(self, request: Mapping[str, Any]) -> dict[str, Any]:
        folder = self._own(Path(request["folder"]))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {"files": [
            {"name": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in files
        ]}

    def do_drop(self, request: Mapping[str, Any]) -> None:
        shutil.rmtree(self._own(Path(request["folder"])), ignore_errors=True)

    def do_lock(self, _: Mapping[str, Any]) -> dict[str, Any]:
        descriptor = os.open(machine.machine_lock(), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return {"held": False}
        self._lock = descriptor
        return {"held": True}

    def do_unlock(self, _: Mapping[str, Any]) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def do_start(self, request: Mapping[str, Any]) -> dict[str, Any]:
        number, threads = request["process"], request["threads"]
        folder = self._contents.scratch / f"process-{number}"
        child = ChildProcess(
            "", folder=folder, environment=dict.fromkeys(_THREADS, str(threads)),
            command=[sys.executable, "-X", "faulthandler", request["program"], "child"],
        )
        self._processes[number] = child
        return {"pid": child.pid, "cores": machine.cores(threads), "folder": str(folder)}

    def do_send(self, request: Mapping[str, Any]) -> None:
        number = request["process"]
        child = self._processes.get(number)
        if child is None:
            return
        try:
            child.send(request["request"])
        except ChildDied as error:
            self._died(number, child, error)
            return
        # One request at a time: the other side waits for the answer.
        threading.Thread(target=self._pass_on, args=(number, child), daemon=True).start()

    def _pass_on(self, number: int, child: ChildProcess) -> None:
        try:
            self._say({"process": number, "answer": child.answer(None)})
        except ChildDied as error:
            self._died(number, child, error)

    def _died(self, number: int, child: ChildProcess, error: ChildDied) -> None:
        self._say({"process": number, "died": error.how, "advice": error.advice, "tail": child.tail})

    def do_end(self, request: Mapping[str, Any]) -> None:
        child = self._processes.pop(request["process"], None)
        if child is not None:
            child.close()
        shutil.rmtree(self._contents.scratch / f"process-{request['process']}", ignore_errors=True)

    def _room(self, request: Mapping[str, Any]) -> Path:
        return self._contents.scratch / f"process-{request['process']}" / secrets.token_hex(6)

    def close(self) -> None:
        """End the processes, and remove their files."""
        for child in self._processes.values():
            child.close()
        self._contents.close()


class _Heard:
    """A source whose pieces count as words from the other side: a large file may take long."""

    def __init__(self, source: BinaryIO, agent: Agent) -> None:
        self._source, self._agent = source, agent

    def read(self, size: int) -> bytes:
        self._agent.heard = time.monotonic()
        return self._source.read(size)


def _watch(agent: Agent, patience: float) -> None:
    """End everything where nothing comes any more: a connection that is cut need not be closed on this side."""
    while time.monotonic() - agent.heard < patience:
        time.sleep(min(1.0, patience / 4))
    agent.close()
    os._exit(0)


def main(folder: str, patience: float = PATIENCE) -> None:
    """Answer standard input, until its end."""
    source, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What anything prints goes to standard error: the pipes are the protocol's own.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    agent = Agent(Path(folder), answers)
    threading.Thread(target=_watch, args=(agent, patience), daemon=True).start()
    try:
        agent.serve(source)
    except (BrokenPipeError, ValueError):
        pass
    finally:
        agent.close()
        sys.stderr.flush()
        os._exit(0)
