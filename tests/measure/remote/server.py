"""A real SSH server on loopback, with keys of its own: OpenSSH's where it is installed, else asyncssh's."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

SSHD = "OPTLANG_SSHD"
"""Names the server's program where it is not found by itself."""

_ASYNCSSH = '''
import asyncio, signal, sys
import asyncssh

folder, port = sys.argv[1], int(sys.argv[2])
opened = set()


class Server(asyncssh.SSHServer):
    def connection_made(self, connection):
        opened.add(connection)

    def connection_lost(self, error):
        pass


async def handle(process):
    child = await asyncio.create_subprocess_shell(
        process.command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
    code = await child.wait()
    await process.stdout.drain()
    process.exit(code)


def cut():
    while opened:
        opened.pop().abort()


async def main():
    await asyncssh.create_server(
        Server, "127.0.0.1", port, server_host_keys=[folder + "/host"],
        authorized_client_keys=folder + "/authorized_keys", process_factory=handle, encoding=None, reuse_address=True,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, cut)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
'''


def sshd() -> str | None:
    """OpenSSH's server, which wants to be started by its whole path."""
    return os.environ.get(SSHD) or shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


class Server:
    """Listens on a port of its own; `config` is a client's configuration whose host `device` it is."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind, self.port = folder, kind, _free_port()
        for name in ("host", "user", "stranger"):
            self._keygen(name)
        shutil.copyfile(folder / "user.pub", folder / "authorized_keys")
        (folder / "authorized_keys").chmod(0o600)
        self.config = folder / "ssh_config"
        self.trust()
        self.use("user")
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def _keygen(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)], check=True, input=b"y\n"
        )

    def use(self, key: str) -> None:
        """Clients show this key."""
        self.config.write_text(
            f"Host device\n  HostName 127.0.0.1\n  Port {self.port}\n  IdentityFile {self.folder / key}\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {self.folder / 'known_hosts'}\n"
            "  GlobalKnownHostsFile /dev/null\n"
        )

    def trust(self) -> None:
        """Clients know the server's key as it is now."""
        kind, key, *_ = (self.folder / "host.pub").read_text().split()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def forget(self) -> None:
        """Clients know no key of it."""
        (self.folder / "known_hosts").write_text("")

    def new_host_key(self) -> None:
        """It is set up again, with another key."""
        self.stop()
        self._keygen("host")
        self.start()

    def restore(self) -> None:
        """As it was in the beginning."""
        self.use("user")
        if self._process is None:
            self.start()
        self.trust()

    def start(self) -> None:
        """Listen, again on the same port."""
        if self.kind == "asyncssh":
            command = [sys.executable, "-c", _ASYNCSSH, str(self.folder), str(self.port)]
        else:
            program = sshd()
            assert program is not None
            (self.folder / "sshd_config").write_text(
                f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder / 'host'}\n"
                f"AuthorizedKeysFile {self.folder / 'authorized_keys'}\nStrictModes no\nUsePAM no\n"
                "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\n"
            )
            command = [program, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, text=True)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self._process.poll() is not None:
                raise RuntimeError((self.folder / "server.log").read_text())
            time.sleep(0.05)
        raise RuntimeError("the server does not listen")

    def cut(self) -> None:
        """End all connections, and go on listening."""
        assert self._process is not None
        if self.kind == "asyncssh":
            self._process.send_signal(signal.SIGUSR1)
            return
        for pid in _children(self._process.pid):
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End all connections, and listen no more."""
        if self._process is None:
            return
        self.cut()
        self._process.kill()
        self._process.wait()
        self._process = None


def _children(parent: int) -> list[int]:
    """All processes below one that are servers too: a session has one for the network, and one for its user."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition(")")
        except OSError:
            continue
        if int(rest.split()[1]) == parent and "sshd" in name:
            pid = int(path.parent.name)
            found += [*_children(pid), pid]
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
