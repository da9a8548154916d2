"""What int8 kernels must know of this machine's processor."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

# As Linux names them. Intel's VNNI and AMX and Arm's DotProd and I8MM multiply int8 and add in 32 bits.
_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "svei8mm", "smei8i32"})
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16", "smeb16f32"})


@dataclass(frozen=True, slots=True)
class Instructions:
    """The processor's instructions for products in int8 and in bfloat16, as Linux names them; empty where none."""

    int8: tuple[str, ...]
    bfloat16: tuple[str, ...]


def instructions(cpuinfo: Path = _CPUINFO) -> Instructions | None:
    """What the processor says of itself, by its first core; None on systems that do not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        name, colon, flags = line.partition(":")
        if colon and name.strip() in ("flags", "Features"):
            has = set(flags.split())
            return Instructions(tuple(sorted(has & _INT8)), tuple(sorted(has & _BFLOAT16)))
    return None


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
