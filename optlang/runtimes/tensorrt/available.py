"""Whether an NVIDIA GPU is here, asked of the driver's own library. Makes no context, which a fork would inherit."""

from __future__ import annotations

import ctypes
import os
import sys


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
