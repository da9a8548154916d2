"""The connections of this process, one a device: opened when they are needed, and again after they were lost."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeVar

from optlang.interfaces import RemoteDevice
from optlang.measure import lock
from optlang.measure.remote import phone
from optlang.measure.remote.adb import Adb
from optlang.measure.remote.connection import Connection
from optlang.measure.remote.faults import DeviceLost
from optlang.measure.remote.phone import PhoneProcess
from optlang.measure.remote.process import RemoteProcess

T = TypeVar("T")

LOSSES = 3
"""How often a connection may be lost in one piece of work before the device counts as gone."""

_PAUSES = (0.5, 1.0, 2.0, 5.0)
_open: dict[RemoteDevice, Connection] = {}


def connected(device: RemoteDevice) -> Connection:
    """The connection to a device, opened where there is none. DeviceLost, DeviceError."""
    known = _open.get(device)
    if known is None or not known.alive:
        if known is not None:
            known.close()
        _open[device] = Connection(device)
    return _open[device]


def facts(device: RemoteDevice, modules: Sequence[str] = ()) -> dict[str, Any]:
    """What a device is and has; `modules` are those whose packages are looked for. DeviceLost, DeviceError."""
    return phone.facts(device) if device.kind == "adb" else connected(device).facts(modules)


def reached(device: RemoteDevice) -> None:
    """Nothing, where the device can be used now. DeviceLost, DeviceError."""
    if device.kind == "adb":
        Adb(device).run(["true"])
    else:
        connected(device)


@contextlib.contextmanager
def alone(device: RemoteDevice, locks: Path, waiting: Callable[..., object] | None = None) -> Iterator[None]:
    """Be the only one that measures on the device while the block runs.

    A machine with Python has a lock of its own; a phone is used through this machine, by a lock in the folder `locks`.
    """
    if device.kind == "ssh":
        with connected(device).alone(waiting):
            yield
        return

    def said(waits: bool) -> None:
        if waiting is not None:
            waiting(waits, f"something else is measured on {device}")

    name = hashlib.sha256(device.address.encode()).hexdigest()[:16]
    with lock.alone(locks / f"optlang-measure-adb-{name}.lock", said):
        yield


def started(device: RemoteDevice, calls: str, threads: int) -> RemoteProcess | PhoneProcess:
    """A process on the device for a runtime's object, with so many threads. DeviceLost, DeviceError."""
    if device.kind == "adb":
        return PhoneProcess(device, threads)
    return RemoteProcess(connected(device), calls, threads)


def close() -> None:
    """End all connections."""
    while _open:
        _open.popitem()[1].close()


def steadily(
    device: RemoteDevice | None, work: Callable[[], T], waiting: Callable[..., object] | None = None
) -> T:
    """What `work` returns, which is begun again from its start where the connection is lost and comes back.

    Each time it may be away for `reconnect` seconds: then, and when it was lost `LOSSES` times, DeviceLost is raised
    with how long that was. Other errors are raised at once. `waiting` is called with True and the reason before it
    waits, and with False after.
    """
    if device is None:
        return work()
    for turn in range(LOSSES):
        try:
            return work()
        except DeviceLost as error:
            if turn == LOSSES - 1:
                raise DeviceLost(
                    f"{error.message}, {LOSSES} times in one measurement", help=error.help, details=error.details
                ) from None
            _back(device, error, waiting)
    raise AssertionError("unreachable")


def available(device: RemoteDevice, waiting: Callable[..., object] | None = None) -> None:
    """Return where the device can be used, after waiting for it up to its `reconnect`. DeviceLost, DeviceError."""
    try:
        reached(device)
    except DeviceLost as error:
        _back(device, error, waiting)


def _back(device: RemoteDevice, lost: DeviceLost, waiting: Callable[..., object] | None) -> None:
    begin = time.monotonic()
    with _announced(waiting, f"{device} is away"):
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            with contextlib.suppress(DeviceLost):
                reached(device)
                return
            if time.monotonic() - begin + pause > device.reconnect:
                break
            time.sleep(pause)
    raise DeviceLost(
        f"{lost.message}, and {device} did not come back for {device.reconnect:g} s (`reconnect`)",
        help=lost.help, details=lost.details,
    )


@contextlib.contextmanager
def _announced(waiting: Callable[..., object] | None, why: str) -> Iterator[None]:
    if waiting is not None:
        waiting(True, why)
    try:
        yield
    finally:
        if waiting is not None:
            waiting(False)
