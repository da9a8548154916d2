"""The machine that a process runs on: what it is, the cores to pin to, the file through which measurements take turns.

Python's own library is all that it needs: it also runs on devices that have little else.
"""

from __future__ import annotations

import getpass
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from optlang.measure import quiet

_MODELS = (Path("/proc/device-tree/model"), Path("/sys/firmware/devicetree/base/model"))


def machine_lock() -> Path:
    """The file that all runs of this user on this machine share."""
    try:
        name = str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
    except OSError:
        name = "all"
    return Path(tempfile.gettempdir()) / f"optlang-measure-{name}.lock"


def described() -> dict[str, Any]:
    """The processor, its cores that this process may use, the memory in bytes and the operating system."""
    return {
        "system": platform.platform(), "processor": _processor(), "python": platform.python_version(),
        "cores": available_cores(), "memory": _memory(),
    }


def available_cores() -> int:
    """How many cores this process may use."""
    return len(quiet.allowed()) or os.cpu_count() or 1


def cores(threads: int) -> list[int] | None:
    """The cores that an artifact with so many threads is pinned to: those of one processor core each where that goes.

    The last ones, since the first serve most interrupts. None where the system cannot pin, or has too few cores.
    """
    mine = sorted(quiet.allowed(), reverse=True)
    if not mine or threads > len(mine):
        return None
    seen: set[str] = set()
    first: list[int] = []
    second: list[int] = []
    for core in mine:
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text().strip()
        except OSError:
            siblings = str(core)
        (second if siblings in seen else first).append(core)
        seen.add(siblings)
    return sorted([*first, *second][:threads])


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    # Arm's kernels do not name the processor there; boards say what they are.
    for path in _MODELS:
        try:
            return path.read_text(errors="replace").strip("\0 \n")
        except OSError:
            continue
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
