"""Where a target is, for the worker that builds for it: the processor that it builds for, and the versions there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from optlang.interfaces import JSON, Runtime, TargetSpec
from optlang.measure.remote import devices
from optlang.runtimes.shared import processor

_SAID = ("processor", "system", "python", "architecture", "packages")


@contextmanager
def built_for(target: TargetSpec, waiting: Callable[..., object] | None = None) -> Iterator[None]:
    """While the block runs, int8 and bfloat16 are those of the target's processor, which may be another machine's.

    It waits for a device that is away before it begins: nothing is trained for one that does not come back. Raises
    DeviceLost, DeviceError.
    """
    if target.remote is None:
        yield
        return
    devices.available(target.remote, waiting)
    known = devices.facts(target.remote)
    with processor.of(known["architecture"], known["instructions"]):
        yield


def about(target: TargetSpec, runtime: Runtime) -> JSON:
    """What the times on a device depend on besides the artifact; None for this machine."""
    if target.remote is None:
        return None
    modules: Sequence[str] = ("numpy", *getattr(runtime, "imports", ()))
    known: dict[str, Any] = devices.facts(target.remote, modules)
    return {name: known[name] for name in _SAID}
