"""What int8 kernels must know of the processor that they run on: this machine's, or another's that is built for."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

# As Linux names them. Intel's VNNI and AMX and Arm's DotProd and I8MM multiply int8 and add in 32 bits.
_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "svei8mm", "smei8i32"})
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16", "smeb16f32"})


_other: tuple[str, str | None] | None = None


@contextmanager
def of(architecture: str, features: str | None) -> Iterator[None]:
    """While the block runs, the processor is another machine's: its architecture, and its line of /proc/cpuinfo."""
    global _other
    before, _other = _other, (architecture, features)
    try:
        yield
    finally:
        _other = before


@dataclass(frozen=True, slots=True)
class Instructions:
    """The processor's instructions for products in int8 and in bfloat16, as Linux names them; empty where none."""

    int8: tuple[str, ...]
    bfloat16: tuple[str, ...]


def instructions(cpuinfo: Path = _CPUINFO) -> Instructions | None:
    """What the processor says of itself, by its first core; None on systems that do not say."""
    try:
        lines = _features(cpuinfo).splitlines()
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
    here = platform.machine() if _other is None else _other[0]
    if (machine or here).lower() not in ("x86_64", "amd64", "i386", "i686"):
        return False
    try:
        return "vnni" not in _features(cpuinfo)
    except OSError:
        return True


def _features(cpuinfo: Path) -> str:
    """The text that lists the instructions; OSError where there is none."""
    if _other is None:
        return cpuinfo.read_text(encoding="utf-8")
    if _other[1] is None:
        raise OSError("the other machine does not say")
    return _other[1]
