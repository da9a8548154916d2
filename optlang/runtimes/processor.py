"""What int8 kernels must know of this machine's processor. Knows no runtime."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def overflows(machine: str | None = None, cpuinfo: Path = _CPUINFO) -> bool:
    """Whether int8 kernels add two products in 16 bits here, which overflows: x86 without VNNI, or that does not say.

    Source: Intel's description of VPMADDUBSW, which VNNI's VPDPBUSD replaces; OpenVINO's and ONNX Runtime's advice for
    such processors is to leave a bit of the weights unused.
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64", "i386", "i686"):
        return False
    try:
        return "vnni" not in cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return True
