"""A Python process of our own that answers requests, as its parent sees it: started, asked, watched, ended.

Requests and answers are JSON, a line each, through its standard input and output; what it writes to standard error is
kept for the report of its end. The child's part is the module that it runs: a request `{"do": "close"}`, or the end of
its input, ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_TAIL = 40
# A process in the middle of a call does not hear that it is to end; nothing of it is wanted any more.
_PATIENCE = 0.5


class ChildDied(Exception):  # noqa: N818 - what happened, in a word
    """The process ended before it answered: `how` says by what, `advice` what may help."""

    def __init__(self, how: str, advice: str | None) -> None:
        super().__init__(how)
        self.how, self.advice = how, advice


class ChildTimeout(Exception):  # noqa: N818 - likewise
    """The process did not answer in time and was ended."""


class ChildProcess:
    """`python -m MODULE` with this package on its path, in the folder `folder` (None: this process's own).

    `options` are the interpreter's, `environment` is added to this process's. `apart`: signals of this process's group
    (Ctrl-C, what ends a run) do not reach it. `command` is run in place of the module, where that is given otherwise.
    Raises OSError where the system starts no process.
    """

    def __init__(
        self, module: str, *, folder: Path | None = None, options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None, apart: bool = False, command: Sequence[str] | None = None,
    ) -> None:
        package = str(Path(__file__).resolve().parents[2])
        paths = (package, os.environ.get("PYTHONPATH", ""))
        own = {"PYTHONPATH": os.pathsep.join(filter(None, paths))} if command is None else {}
        # -P: files in the current folder must not stand in for the library's.
        command = command or [sys.executable, "-P", "-X", "faulthandler", *options, "-m", module]
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder,
            env={**os.environ, **(environment or {}), **own}, start_new_session=apart,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._requests = self._process.stdin
        self._pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._readers = (
            threading.Thread(target=self._read_answers, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_tail, args=(self._process.stderr,), daemon=True),
        )
        for reader in self._readers:
            reader.start()
        self.closed = False

    def _read_answers(self, pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in pipe:
                self._answers.put(line)
        self._answers.put(None)

    def _read_tail(self, pipe: IO[bytes]) -> None:
        # Read to the end always: a full pipe would stop the child.
        with contextlib.suppress(OSError, ValueError):
            for line in pipe:
                self._tail.append(line.decode(errors="replace").rstrip())

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    @property
    def tail(self) -> str:
        """The last lines that it wrote to standard error."""
        return "\n".join(self._tail)

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request. Raises `ChildDied` where the process has ended; then it is closed."""
        if self.closed:
            raise self.died()
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        except (OSError, ValueError):
            raise self.died() from None

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """The answer to a request, within so many seconds.

        Raises `ChildDied` where the process ends, and `ChildTimeout`; after both it is closed.
        """
        self.send(request)
        return self.answer(timeout)

    def answer(self, timeout: float | None) -> dict[str, Any]:
        """The answer to the oldest request that has none yet; see `ask`. None waits as long as it takes."""
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.close()
            raise ChildTimeout from None
        if line is None:
            raise self.died()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def died(self) -> ChildDied:
        """How the process has ended; it is closed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        self.close()
        return ChildDied(*_ending(code))

    def close(self) -> None:
        """End the process, at once where it does not end by itself."""
        self.closed = True
        if self.alive:
            with contextlib.suppress(OSError, ValueError):
                self._requests.write(b'{"do": "close"}\n')
                self._requests.close()
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for reader in self._readers:
            reader.join(5)
        for pipe in self._pipes:
            with contextlib.suppress(OSError, ValueError):
                pipe.close()


def _ending(code: int | None) -> tuple[str, str | None]:
    if code is None:
        return "closed its pipe", None
    if code >= 0:
        return f"ended with exit code {code}", None
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    advice = {
        "SIGKILL": "most likely the system ended it because memory ran out",
        "SIGSEGV": "the runtime crashed on this model: try another version of it, or leave it out of the target",
        "SIGILL": "the runtime was built for another processor",
    }.get(name)
    return f"was ended by signal {-code} ({name})", advice
