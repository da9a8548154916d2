"""Files and commands on a phone, through the server of `adb` on this machine: its protocol over TCP, port 5037.

Source: Android's `packages/modules/adb`, OVERVIEW.TXT, SERVICES.TXT, SYNC.TXT and shell_protocol.h. A connection is one
service: a request has its length in front, four hexadecimal digits, and is answered OKAY or FAIL.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from optlang.interfaces import RemoteDevice
from optlang.measure.remote.faults import DeviceError, DeviceLost

PORT = 5037
PORT_OF = "ANDROID_ADB_SERVER_PORT"
"""The environment variable of adb's own that names another port of its server."""

_PIECE = 64 * 1024
"""The most that one piece of a file has, by the protocol."""
_CONNECT = 5.0
_STDOUT, _STDERR, _EXIT = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command wrote, and its exit code."""

    code: int
    stdout: bytes
    stderr: bytes


class Adb:
    """A phone by its serial number. Every method raises DeviceLost where neither server nor phone answers, and
    DeviceError where the phone refuses."""

    def __init__(self, device: RemoteDevice) -> None:
        self.device = device
        self._port = int(os.environ.get(PORT_OF) or PORT)

    def run(self, arguments: Sequence[str], timeout: float = 60.0) -> Ended:
        """Run a program over there. TimeoutError where it does not end in time; it is ended with its connection."""
        with self._service(f"shell,v2,raw:{shlex.join(arguments)}", timeout) as connection:
            found: dict[int, bytes] = {_STDOUT: b"", _STDERR: b""}
            end = time.monotonic() + timeout
            while time.monotonic() < end:
                kind, size = struct.unpack("<BI", self._exactly(connection, 5))
                content = self._exactly(connection, size)
                if kind == _EXIT:
                    return Ended(content[0], found[_STDOUT], found[_STDERR])
                if kind in found:
                    found[kind] += content
        raise TimeoutError

    def push(self, source: BinaryIO, path: str, mode: int = 0o644) -> None:
        """Copy to a file over there, whose folder is made."""
        with self._service("sync:", 60) as connection:
            name = f"{path},{0o100000 | mode}".encode()
            connection.sendall(b"SEND" + struct.pack("<I", len(name)) + name)
            while piece := source.read(_PIECE):
                connection.sendall(b"DATA" + struct.pack("<I", len(piece)) + piece)
            connection.sendall(b"DONE" + struct.pack("<I", int(time.time())))
            kind, size = struct.unpack("<4sI", self._exactly(connection, 8))
            if kind != b"OKAY":
                raise self._refused(path, self._exactly(connection, size))

    def pull(self, path: str) -> bytes:
        """The content of a file over there."""
        with self._service("sync:", 60) as connection:
            name = path.encode()
            connection.sendall(b"RECV" + struct.pack("<I", len(name)) + name)
            content = b""
            while True:
                kind, size = struct.unpack("<4sI", self._exactly(connection, 8))
                if kind == b"DONE":
                    return content
                piece = self._exactly(connection, size)
                if kind != b"DATA":
                    raise self._refused(path, piece)
                content += piece

    def _refused(self, path: str, said: bytes) -> DeviceError:
        text = said.decode(errors="replace")
        full = "no space" in text.lower()
        return DeviceError(
            f"the storage of {self.device} is full: {text}" if full else f"{self.device}, {path}: {text}"
        )

    @contextlib.contextmanager
    def _service(self, name: str, timeout: float) -> Iterator[socket.socket]:
        """A connection to a service of the phone."""
        try:
            connection = socket.create_connection(("127.0.0.1", self._port), _CONNECT)
        except OSError as error:
            reason = error.strerror or error
            raise DeviceLost(
                f"{self.device} cannot be reached: no adb server answers on port {self._port} ({reason})",
                help="`adb start-server` starts it; `adb devices` must list the phone",
            ) from error
        with connection:
            connection.settimeout(timeout)
            try:
                self._ask(connection, f"host:transport:{self.device.address}")
                self._ask(connection, name)
                yield connection
            except TimeoutError:
                raise
            except OSError as error:
                raise DeviceLost(f"the connection to {self.device} was lost: {error.strerror or error}") from error

    def _ask(self, connection: socket.socket, service: str) -> None:
        content = service.encode()
        connection.sendall(f"{len(content):04x}".encode() + content)
        status = self._exactly(connection, 4)
        if status == b"OKAY":
            return
        said = self._exactly(connection, int(self._exactly(connection, 4), 16)).decode(errors="replace")
        if "unauthorized" in said:
            raise DeviceError(f"{self.device}: {said.strip()}", help="allow debugging on the phone's screen")
        raise DeviceLost(f"{self.device} cannot be reached: {said.strip()}", help="`adb devices` must list the phone")

    def _exactly(self, connection: socket.socket, size: int) -> bytes:
        content = b""
        while len(content) < size:
            piece = connection.recv(size - len(content))
            if not piece:
                raise DeviceLost(f"the connection to {self.device} was lost")
            content += piece
        return content


def pushed(adb: Adb, file: Path, path: str, mode: int = 0o644) -> None:
    """Copy a file of this machine, and see that it is there whole: under another name first."""
    with file.open("rb") as source:
        adb.push(source, f"{path}.part", mode)
    size = adb.run(["stat", "-c", "%s", f"{path}.part"])
    if size.code or int(size.stdout or b"-1") != file.stat().st_size:
        raise DeviceLost(f"{file.name} did not arrive on {adb.device} as it was sent")
    moved = adb.run(["mv", f"{path}.part", path])
    if moved.code:
        raise DeviceError(f"{adb.device}, {path}: {moved.stderr.decode(errors='replace').strip()}")
