"""The command that connects to a device: OpenSSH's own client, so that its configuration, agent and known keys count.

Nothing of a study becomes part of a shell's text unquoted, and no question is asked: a key that is not known, or a
password, is an error.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence

from optlang.interfaces import RemoteDevice
from optlang.measure.remote.faults import DeviceError

CONFIG = "OPTLANG_SSH_CONFIG"
"""The environment variable that names a file of ssh's configuration to use in place of the user's."""

ALIVE = 5
"""Seconds of silence after which the client asks whether the other side is there; after three misses it is not."""

_OPTIONS = (
    "BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=10", f"ServerAliveInterval={ALIVE}",
    "ServerAliveCountMax=3", "ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes", "PermitLocalCommand=no",
    "RequestTTY=no",
)
# It reads a program from its input: a line that says how many bytes, and these.
_FIRST = "import sys;i=getattr(sys.stdin,'buffer',sys.stdin);exec(i.read(int(i.readline())))"


def command(device: RemoteDevice) -> list[str]:
    """The client's arguments, the last of which is what the shell over there executes. DeviceError without a client."""
    ssh = shutil.which("ssh")
    if ssh is None:
        raise DeviceError("there is no ssh client on this machine", help="install OpenSSH's client")
    config = os.environ.get(CONFIG)
    return [
        ssh, "-T", *([] if not config else ["-F", config]),
        *(part for option in _OPTIONS for part in ("-o", option)),
        *([] if device.port is None else ["-p", str(device.port)]),
        "--", device.address, remote_command([device.python, "-c", _FIRST]),
    ]


def remote_command(arguments: Sequence[str]) -> str:
    """Arguments as one line for the shell over there; a program below `~/` is found by that shell."""
    program, *rest = arguments
    home = "~/" if program.startswith("~/") else ""
    return " ".join([home + shlex.quote(program.removeprefix(home)), *map(shlex.quote, rest)])
