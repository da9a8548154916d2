"""A connection to a device, as this side sees it: one client process, through which requests, files and answers go.

See agent.py for the protocol. Where the connection is cut, `DeviceLost` is raised by what waits for an answer.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

from optlang.interfaces import OutsideError, RemoteDevice
from optlang.measure.remote import agent, ssh
from optlang.measure.remote.bundle import AGENT, MEASURED, Bundle, bundle
from optlang.measure.remote.faults import DeviceError, DeviceLost, refused_connection

FOLDER = "~/.cache/optlang"
"""Where files are kept on a device that names no other folder."""

BEAT = 5.0
"""Seconds between two words to the other side, which ends itself when it hears nothing."""

_BEGIN = 60.0
"""Seconds for a device to connect and start Python; a board with a slow card needs some."""
_ANSWER = 120.0
_POLL = 0.2
_PIECE = 2**18
_NOISE = 200


class Connection:
    """One session on a device.

    Raises DeviceLost where it cannot be reached, and DeviceError for what does not pass by itself: a key, Python, a
    full disk.
    """

    def __init__(self, device: RemoteDevice) -> None:
        self.device = device
        self._said: deque[str] = deque(maxlen=40)
        self._lost: DeviceLost | None = None
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._numbers = itertools.count(1)
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._processes: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._sinks: dict[int, BinaryIO] = {}
        self._client = _started(ssh.command(device))
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        assert self._client.stderr is not None
        self._requests, self._source = self._client.stdin, self._client.stdout
        self._threads = [threading.Thread(target=self._read_said, args=(self._client.stderr,), daemon=True)]
        self._threads[0].start()
        try:
            self._begin(bundle(AGENT))
            for work in (self._read, self._beat):
                self._threads.append(threading.Thread(target=work, daemon=True))
                self._threads[-1].start()
        except BaseException:
            self.close()
            raise

    # ---- the start

    def _begin(self, program: Bundle) -> None:
        """Have the one file over there, and run it."""
        timer = threading.Timer(_BEGIN, self._client.kill)
        timer.start()
        try:
            self._hand_over(program)
        except (OSError, ValueError):
            raise self._refused() from None
        finally:
            timer.cancel()

    def _hand_over(self, program: Bundle) -> None:
        first = _FIRST.read_bytes()
        about = {
            "folder": self.device.folder or FOLDER, "name": program.name, "bytes": len(program.content),
            "sha256": program.sha256, "patience": agent.PATIENCE,
        }
        self._write(f"{len(first)}\n".encode() + first + json.dumps(about).encode() + b"\n")
        while (message := self._opening())["optlang"] != "ready":
            if message["optlang"] == "send":
                self._write(program.content)
            else:
                raise self._unfit(message["kind"], message["message"])

    def _opening(self) -> dict[str, Any]:
        """The next message of the first program; lines of the shell's own files over there are passed over."""
        for _ in range(_NOISE):
            line = self._source.readline()
            if not line:
                break
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict) and "optlang" in message:
                    return message
            self._said.append(line.decode(errors="replace").rstrip())
        raise self._refused()

    def _refused(self) -> DeviceError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._client.wait(5)
        time.sleep(0.05)
        return refused_connection(self.device, self._client.poll(), "\n".join(filter(None, self._said)))

    def _unfit(self, kind: str, message: str) -> DeviceError:
        if kind == "python":
            return DeviceError(
                f"{self.device} has Python {message}; 3.10 or newer is needed",
                help=f'name another interpreter: {self.device.kind}("{self.device.address}", python = "PATH")',
            )
        if kind == "full":
            return _full(self.device, message)
        return DeviceError(
            f"nothing can be kept on {self.device}: {message}",
            help=f'name a folder that is writable: {self.device.kind}("{self.device.address}", folder = "PATH")',
        )

    # ---- what comes from there

    def _read_said(self, pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in pipe:
                self._said.append(line.decode(errors="replace").rstrip())

    def _read(self) -> None:
        try:
            while line := self._source.readline():
                message = json.loads(line)
                if "process" in message:
                    waiting = self._processes.get(message["process"])
                    if waiting is not None:
                        waiting.put(message)
                    continue
                if "bytes" in message:
                    self._receive(message)
                self._answers.put(message)
        except (OSError, ValueError):
            pass
        self._lost = self._lost or DeviceLost(
            f"the connection to {self.device} was lost", details="\n".join(filter(None, self._said))
        )
        for waiting in (self._answers, *self._processes.values()):
            waiting.put(None)

    def _receive(self, message: dict[str, Any]) -> None:
        """The bytes behind an answer, to where they are wanted; all of them are read, whatever happens here."""
        sink, left = self._sinks.get(message["id"]), message["bytes"]
        digest = hashlib.sha256()
        while left:
            piece = self._source.read(min(left, _PIECE))
            if not piece:
                raise OSError("cut in the middle of a file")
            left -= len(piece)
            digest.update(piece)
            if sink is not None:
                try:
                    sink.write(piece)
                except OSError as error:
                    message["failed"], sink = error, None
        message["sha256"] = digest.hexdigest()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT):
            with contextlib.suppress(DeviceLost):
                self._send({"do": "beat"})

    # ---- what goes there

    def _write(self, content: bytes) -> None:
        with self._writing:
            self._requests.write(content)
            self._requests.flush()

    def _send(self, request: Mapping[str, Any], file: Path | bytes | None = None) -> None:
        if self._lost is not None:
            raise self._lost
        try:
            with self._writing:
                self._requests.write(json.dumps(request).encode() + b"\n")
                if isinstance(file, bytes):
                    self._requests.write(file)
                elif file is not None:
                    _copy(file, request["bytes"], self._requests)
                self._requests.flush()
        except (BrokenPipeError, ValueError):
            self._lost = self._lost or DeviceLost(f"the connection to {self.device} was lost")
            raise self._lost from None

    def ask(
        self, request: Mapping[str, Any], *, file: Path | bytes | None = None, sink: BinaryIO | None = None,
        timeout: float = _ANSWER,
    ) -> dict[str, Any]:
        """The answer to a request, with which `file` goes, or to which `sink` gets the bytes.

        DeviceLost, also where none comes in time; DeviceError for a full disk and other faults over there.
        """
        number = next(self._numbers)
        if sink is not None:
            self._sinks[number] = sink
        try:
            self._send({**request, "id": number}, file)
            while True:
                try:
                    message = self._answers.get(timeout=timeout)
                except queue.Empty:
                    self._lost = DeviceLost(f"{self.device} gave no answer for {timeout:.0f} s")
                    self.close()
                    raise self._lost from None
                if message is None:
                    # For the next caller.
                    self._answers.put(None)
                    assert self._lost is not None
                    raise self._lost
                if message.get("id") == number:
                    break
        finally:
            self._sinks.pop(number, None)
        if "error" in message:
            raise self._failed(message["error"])
        if "failed" in message:
            raise OutsideError(f"what {self.device} answered cannot be written: {message['failed']}")
        found: dict[str, Any] = message["ok"]
        return {**found, "sha256": message["sha256"]} if "sha256" in message else found

    def _failed(self, error: Mapping[str, Any]) -> DeviceError:
        if error["kind"] == "full":
            return _full(self.device, error["message"])
        if error["kind"] == "Damaged":
            return DeviceLost(f"{self.device}: {error['message']}")
        return DeviceError(f"{self.device}: {error['message']}")

    def facts(self, modules: Sequence[str] = ()) -> dict[str, Any]:
        """What the device is and has, see facts.py; `modules` are those whose packages are looked for."""
        return self.ask({"do": "facts", "modules": list(modules)})

    # ---- files

    def show(self, process: int, files: Mapping[str, Path | bytes]) -> str:
        """Have files (or contents) over there, under these names in a folder of a process's own, which is returned.

        What is there already is not sent again.
        """
        hashes = {name: hash_of(item) for name, item in files.items()}
        by_hash = {hashes[name]: item for name, item in files.items()}
        for missing in self.ask({"do": "missing", "hashes": list(by_hash)})["missing"]:
            item = by_hash[missing]
            size = len(item) if isinstance(item, bytes) else item.stat().st_size
            # As slow as a slow radio link, and no slower.
            self.ask({"do": "put", "sha256": missing, "bytes": size}, file=item, timeout=_ANSWER + size / 1e5)
        folder: str = self.ask({"do": "show", "process": process, "names": hashes})["folder"]
        return folder

    def fetch(self, folder: str, into: Path) -> None:
        """Copy the files of a folder over there to `into`, and remove them over there. OutsideError."""
        into.mkdir(parents=True, exist_ok=True)
        for item in self.ask({"do": "list", "folder": folder})["files"]:
            place = into / item["name"]
            if not place.resolve().is_relative_to(into.resolve()):
                raise DeviceError(f"{self.device} names a file outside of its folder: {item['name']}")
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as file:
                found = self.ask(
                    {"do": "get", "path": f"{folder}/{item['name']}"}, sink=file, timeout=_ANSWER + item["bytes"] / 1e5
                )
            if found["sha256"] != item["sha256"]:
                raise DeviceLost(f"{item['name']} did not arrive from {self.device} as it was sent")
        self.ask({"do": "drop", "folder": folder})

    # ---- processes and the lock

    def start(self, calls: str, threads: int) -> tuple[int, dict[str, Any]]:
        """Start a process that measures with this runtime: its number, and its `pid`, `cores` and `folder`."""
        number = next(self._numbers)
        program = bundle((*MEASURED, calls.partition(":")[0]))
        self._processes[number] = queue.SimpleQueue()
        folder = self.show(number, {program.name: program.content})
        about = self.ask({
            "do": "start", "process": number, "threads": threads, "program": f"{folder}/{program.name}",
        })
        return number, about

    def tell(self, process: int, request: Mapping[str, Any]) -> None:
        """Send a request to a process."""
        self._send({"do": "send", "process": process, "request": request})

    def heard(self, process: int, timeout: float) -> dict[str, Any]:
        """The next message of a process. DeviceLost; queue.Empty where none comes in time."""
        message = self._processes[process].get(timeout=timeout)
        if message is None:
            self._processes[process].put(None)
            assert self._lost is not None
            raise self._lost
        return message

    def end(self, process: int) -> None:
        """End a process, where the connection still holds."""
        self._processes.pop(process, None)
        with contextlib.suppress(OutsideError):
            self.ask({"do": "end", "process": process}, timeout=30)

    @contextlib.contextmanager
    def alone(self, waiting: Callable[..., object] | None = None) -> Iterator[None]:
        """Be the only one that measures on the device while the block runs, after waiting for its turn."""
        waits = False
        while not self.ask({"do": "lock"})["held"]:
            if not waits and waiting is not None:
                waiting(True, f"something else is measured on {self.device}")
            waits = True
            time.sleep(_POLL)
        if waits and waiting is not None:
            waiting(False)
        try:
            yield
        finally:
            with contextlib.suppress(OutsideError):
                self.ask({"do": "unlock"})

    @property
    def alive(self) -> bool:
        """Whether it holds, as far as is known."""
        return self._lost is None and self._client.poll() is None

    def close(self) -> None:
        """End it; what runs over there ends with it."""
        self._lost = self._lost or DeviceLost(f"the connection to {self.device} is closed")
        self._closed.set()
        with contextlib.suppress(OSError, ValueError):
            self._requests.close()
        try:
            self._client.wait(1)
        except subprocess.TimeoutExpired:
            self._client.kill()
            self._client.wait()
        for thread in self._threads:
            thread.join(5)
        for pipe in (self._client.stdin, self._client.stdout, self._client.stderr):
            assert pipe is not None
            with contextlib.suppress(OSError, ValueError):
                pipe.close()


_FIRST = Path(__file__).with_name("bootstrap.py")


def _started(command: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        # Ctrl-C, and what ends a run, is for the scheduler to act on: the trial is still finished.
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise DeviceError(f"{command[0]} cannot be started: {error}") from error


def _copy(path: Path, size: int, pipe: IO[bytes]) -> None:
    """Exactly as many bytes as were announced."""
    with path.open("rb") as file:
        left = size
        while left:
            piece = file.read(min(left, _PIECE))
            if not piece:
                raise ValueError(f"{path} has become shorter")
            left -= len(piece)
            pipe.write(piece)


def hash_of(item: Path | bytes) -> str:
    """The SHA-256 of a content, or of a file, for which it is computed once as long as it does not change."""
    if isinstance(item, bytes):
        return hashlib.sha256(item).hexdigest()
    stat = item.stat()
    return _hash(item, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(65536)
def _hash(path: Path, _size: int, _changed: int, _inode: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _full(device: RemoteDevice, message: str) -> DeviceError:
    return DeviceError(
        f"the disk of {device} is full: {message}",
        help=f"make room there ({device.folder or FOLDER} may be removed while nothing runs), or name another folder: "
        f'{device.kind}("{device.address}", folder = "PATH")',
    )


