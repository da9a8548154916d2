"""A server that speaks adb's protocol, with one phone whose files and commands are this machine's."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from pathlib import Path

SERIAL = "FAKE0001"


class FakeAdb:
    """Listens on `port`; `attached` says whether the phone is there, `said` the services that were asked for."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.attached = True
        self.said: list[str] = []
        self.full = False
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                service = self._request(connection)
                if service != f"host:transport:{SERIAL}" or not self.attached:
                    said = f"device '{service.rpartition(':')[2]}' not found".encode()
                    connection.sendall(b"FAIL" + f"{len(said):04x}".encode() + said)
                    return
                connection.sendall(b"OKAY")
                service = self._request(connection)
                self.said.append(service)
                connection.sendall(b"OKAY")
                if service == "sync:":
                    self._sync(connection)
                else:
                    kind, _, line = service.partition(":")
                    assert kind == "shell,v2,raw", service
                    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, stdin=subprocess.DEVNULL)
                    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
                    for stream, content in ((1, done.stdout), (2, done.stderr), (3, bytes([code]))):
                        connection.sendall(struct.pack("<BI", stream, len(content)) + content)
            except (OSError, EOFError):
                return

    def _sync(self, connection: socket.socket) -> None:
        kind, size = struct.unpack("<4sI", self._exactly(connection, 8))
        name = self._exactly(connection, size).decode()
        if kind == b"RECV":
            try:
                content = Path(name).read_bytes()
            except OSError as error:
                said = str(error.strerror).encode()
                connection.sendall(b"FAIL" + struct.pack("<I", len(said)) + said)
                return
            for start in range(0, len(content), 1000):
                piece = content[start : start + 1000]
                connection.sendall(b"DATA" + struct.pack("<I", len(piece)) + piece)
            connection.sendall(b"DONE" + struct.pack("<I", 0))
            return
        assert kind == b"SEND", kind
        path, _, mode = name.rpartition(",")
        content = b""
        while True:
            kind, size = struct.unpack("<4sI", self._exactly(connection, 8))
            if kind == b"DONE":
                break
            assert kind == b"DATA"
            assert size <= 64 * 1024, "the protocol's most"
            content += self._exactly(connection, size)
        if self.full:
            said = b"write failed: No space left on device"
            connection.sendall(b"FAIL" + struct.pack("<I", len(said)) + said)
            return
        Path(path).write_bytes(content)
        Path(path).chmod(int(mode) & 0o777)
        connection.sendall(b"OKAY" + struct.pack("<I", 0))

    def _request(self, connection: socket.socket) -> str:
        return self._exactly(connection, int(self._exactly(connection, 4), 16)).decode()

    def _exactly(self, connection: socket.socket, size: int) -> bytes:
        content = b""
        while len(content) < size:
            piece = connection.recv(size - len(content))
            if not piece:
                raise EOFError
            content += piece
        return content
