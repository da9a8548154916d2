"""Whether an NVIDIA GPU is here, asked of the driver's own library. Makes no context, which a fork would inherit."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import sys
from pathlib import Path


def missing() -> str | None:
    """None where a driver and a GPU are here that this process may use, else what is missing. Imports nothing."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU"
    library = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
    try:
        driver = ctypes.CDLL(library)
        # NVML counts what CUDA would use and, unlike cuInit, leaves nothing behind in this process.
        if driver.nvmlInit_v2() != 0:
            return "no NVIDIA GPU was found: its driver does not start"
        count = ctypes.c_uint(0)
        status = driver.nvmlDeviceGetCount_v2(ctypes.byref(count))
        driver.nvmlShutdown()
    except (OSError, AttributeError):
        return f"no NVIDIA driver was found ({library})"
    return None if status == 0 and count.value else "no NVIDIA GPU was found"


def names() -> tuple[str, ...]:
    """The NVIDIA GPUs that the driver knows, with their memory, by their numbers; empty where there is none."""
    if missing() is not None:
        return ()
    driver = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    found = []
    try:
        driver.nvmlInit_v2()
        count = ctypes.c_uint(0)
        driver.nvmlDeviceGetCount_v2(ctypes.byref(count))
        for number in range(count.value):
            handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
            memory = (ctypes.c_ulonglong * 3)()  # total, free, used
            driver.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(handle))
            driver.nvmlDeviceGetName(handle, name, ctypes.c_uint(96))
            driver.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
            found.append(f"{name.value.decode(errors='replace')}, {memory[0] / 1e9:.0f} GB")
    finally:
        driver.nvmlShutdown()
    return tuple(found)


def torch_missing() -> str | None:
    """None where torch can compute on a GPU of this machine, else what is missing. Imports no torch."""
    built = _built()
    if built == "hip":
        # AMD's GPUs, which torch calls CUDA too and NVIDIA's driver does not know.
        return None if Path("/dev/kfd").exists() else "no AMD GPU was found (/dev/kfd)"
    reason = missing()
    if reason is None and built is None:
        return "torch was installed without CUDA (https://pytorch.org/get-started/locally has the command)"
    return reason


def _built() -> str | None:
    """What torch was built for, by its own file of versions: "cuda", "hip", None for neither or where it is absent."""
    spec = importlib.util.find_spec("torch")
    file = None if spec is None or spec.origin is None else Path(spec.origin).with_name("version.py")
    text = file.read_text() if file is not None and file.is_file() else ""
    return next((name for name in ("cuda", "hip") if re.search(rf"^{name}\b[^=\n]*= *'", text, re.MULTILINE)), None)
