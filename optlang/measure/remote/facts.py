"""What a device is and has: its processor, its Python, the packages that runtimes need, and what slows it down.

It runs on the device, with nothing but Python's own library, and imports no package that it reports.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from optlang.measure import machine

_CPU = Path("/sys/devices/system/cpu")
_THERMAL = Path("/sys/class/thermal")
_CPUINFO = Path("/proc/cpuinfo")


def facts(folder: Path, modules: Iterable[str]) -> dict[str, Any]:
    """All of it. `folder` is where files are kept, `modules` those whose packages are looked for."""
    return {
        **machine.described(), "executable": sys.executable, "architecture": platform.machine(),
        "instructions": _instructions(), "folder": str(folder), "free": shutil.disk_usage(folder).free,
        "packages": {name: _version(name) for name in modules}, "governors": _governors(),
        "temperature": _temperature(), "clock": _clock(),
    }


def _version(module: str) -> str | None:
    """The version of the package that a module comes in; "" where it does not say, None where it is not there."""
    root = module.partition(".")[0]
    try:
        if importlib.util.find_spec(root) is None:
            return None
    except (ImportError, ValueError):
        return None
    names = (root, root.replace("_", "-"), *metadata.packages_distributions().get(root, ()))
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _instructions() -> str | None:
    """The line in which the kernel lists the first core's instructions; None where it does not."""
    try:
        lines = _CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line for line in lines if line.partition(":")[0].strip() in ("flags", "Features")), None)


def _governors() -> list[str]:
    """How the clock of each core is chosen: `performance` keeps it up. Empty where the system does not say."""
    found = {text for path in _CPU.glob("cpu[0-9]*/cpufreq/scaling_governor") if (text := _read(path))}
    return sorted(found)


def _temperature() -> float | None:
    """The hottest of what is measured, in degrees Celsius; None where nothing is."""
    found = [int(text) / 1000 for path in _THERMAL.glob("thermal_zone*/temp") if (text := _read(path)).isdecimal()]
    return max(found, default=None)


def _clock() -> float | None:
    """How low the clock of the slowest core may be kept now, as a share of its highest; None where nobody says."""
    shares = []
    for folder in _CPU.glob("cpu[0-9]*/cpufreq"):
        now, most = _read(folder / "scaling_max_freq"), _read(folder / "cpuinfo_max_freq")
        if now.isdecimal() and most.isdecimal() and int(most):
            shares.append(int(now) / int(most))
    return min(shares, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
