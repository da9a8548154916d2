"""The connections of this process, one a device: opened when they are needed, and again after they were lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from optlang.interfaces import RemoteDevice
from optlang.measure.remote.connection import Connection
from optlang.measure.remote.faults import DeviceLost

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


def available(device: RemoteDevice, waiting: Callable[..., object] | None = None) -> Connection:
    """A connection that holds, after waiting for the device up to its `reconnect`. DeviceLost, DeviceError."""
    try:
        return connected(device)
    except DeviceLost as error:
        return _back(device, error, waiting)


def _back(device: RemoteDevice, lost: DeviceLost, waiting: Callable[..., object] | None) -> Connection:
    begin = time.monotonic()
    with _announced(waiting, f"{device} is away"):
        for turn in range(10**6):
            with contextlib.suppress(DeviceLost):
                return connected(device)
            pause = _PAUSES[min(turn, len(_PAUSES) - 1)]
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
