"""How much memory is free for another process."""

from __future__ import annotations

from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def free() -> int | None:
    """The bytes that another process may take without another one having to go; None where the system does not say.

    In a container that is what its limit leaves (cgroup 2), where it has one.
    """
    import psutil

    found = int(psutil.virtual_memory().available)
    limit = _number(_GROUPS / "memory.max")
    used = _number(_GROUPS / "memory.current")
    if limit is None or used is None:
        return found
    return max(0, min(found, limit - used + _given_back()))


def _given_back() -> int:
    """What of the memory in use is a cache of files, which the system gives to others on demand."""
    try:
        lines = (_GROUPS / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
