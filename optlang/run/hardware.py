"""Whether what a runtime builds can run on this machine. Imports none of the runtimes' libraries."""

from __future__ import annotations

from collections.abc import Mapping

from optlang.interfaces import JSON, Runtime
from optlang.run.job import TargetJob


def unrunnable(runtime: Runtime, job: TargetJob) -> str | None:
    """Why what the runtime builds cannot be run where the target is; None where it can."""
    # What another machine lacks is asked before a run begins, see device_check.py.
    return None if job.target.remote is not None else lacking(runtime, job.target.device, job.runtime.settings)


def lacking(runtime: Runtime, device: str, settings: Mapping[str, JSON]) -> str | None:
    """What this machine lacks to run what the runtime builds for this device; None where it lacks nothing."""
    runs, missing = (getattr(runtime, name, None) for name in ("runs", "missing"))
    reason: str | None = None if runs is None else runs()
    return reason if reason is not None or missing is None else missing(device, settings)
