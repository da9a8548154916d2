"""What goes wrong with a device: which faults may pass, which stay, and how both are put."""

from __future__ import annotations

from optlang.interfaces import OutsideError, RemoteDevice


class DeviceError(OutsideError):
    """A device cannot be used, and trying again would not help: the user has to do something."""


class DeviceLost(DeviceError):  # noqa: N818 - what happened, in a word
    """A device cannot be reached, or the connection was cut in mid-work: it may come back."""


def refused_connection(device: RemoteDevice, code: int | None, said: str) -> DeviceError:
    """What the client `ssh` ended with before anything ran over there: its exit code, and its last words."""
    text = said.lower()
    last = (said.strip().splitlines() or ["it said nothing"])[-1].strip()
    if "remote host identification has changed" in text:
        return DeviceError(
            f"the host key of {device} is not the one that is known: this may be another machine",
            help=f"compare its fingerprint at the device; if it was set up again, remove the old key (`ssh-keygen -R` "
            f"with the name that ssh shows) and connect once with `ssh {device.address}`", details=said,
        )
    if "host key verification failed" in text or "no hostkey alg" in text or "host key is known" in text:
        return DeviceError(
            f"the host key of {device} is not known here",
            help=f"connect once with `ssh {device.address}` and compare the fingerprint that it shows", details=said,
        )
    if "permission denied" in text or "too many authentication failures" in text:
        return DeviceError(
            f"{device} refused this user's keys, and no password is asked for",
            help=f"`ssh-copy-id {device.address}` puts a key there; `ssh-add` unlocks one with a passphrase",
            details=said,
        )
    if "bad configuration option" in text or "bad owner or permissions" in text or "can't open user config" in text:
        return DeviceError(f"ssh does not start: {last}", details=said)
    if code in (126, 127):
        return DeviceError(
            f"{device} has no {device.python}: {last}",
            help=f'install Python there, or name the interpreter: {device.kind}("{device.address}", python = "PATH")',
            details=said,
        )
    return DeviceLost(
        f"{device} cannot be reached: {last}",
        help=f"see that it is on and in the network; `ssh {device.address}` must work without a question",
        details=said,
    )
