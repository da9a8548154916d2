"""`device = ssh("pi@raspberrypi.local")` of a target: the other machine that it is measured on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from optlang.analysis.knobs import Around, Knobs, Later
from optlang.analysis.settings import settings_of
from optlang.diagnostics.model import Diagnostics
from optlang.diagnostics.suggest import closest
from optlang.interfaces import RemoteDevice
from optlang.plan.model import Fixed, FloatDomain, IntDomain, Param, Setting
from optlang.syntax import tree

RECONNECT = Param(
    name="reconnect", dimension="time", domain=FloatDomain(low=0.0, high=86400.0), default=120.0,
    help="on another machine: how long a lost connection is tried again before the trial fails",
)
"""What a target on another machine has besides."""

_FOLDER = Param(
    name="folder", dimension="string", domain=None, default="", help="where optlang keeps its files over there",
)
KINDS = {
    "ssh": (
        Param(
            name="address", dimension="string", domain=None, required=True,
            help='"user@host", a host, or a name of ~/.ssh/config',
        ),
        Param(
            name="port", dimension="count", domain=IntDomain(low=1, high=65535), default=None,
            help="the port, where ssh's configuration does not say it",
        ),
        Param(
            name="python", dimension="string", domain=None, default="python3",
            help='the Python over there: a command, or a path such as "~/venv/bin/python"',
        ),
        _FOLDER,
    ),
    "adb": (
        Param(
            name="address", dimension="string", domain=None, required=True,
            help="the serial number of the device, as `adb devices` lists it",
        ),
        _FOLDER,
    ),
}
"""What each kind of device is given."""

EXAMPLES = {"ssh": 'ssh("pi@raspberrypi.local")', "adb": 'adb("0A041FDD4002MT")'}
_ADDRESSES = {
    "ssh": re.compile(r"(?:[A-Za-z0-9_][\w.+-]*@)?[A-Za-z0-9_:][\w.:%-]*", re.ASCII),
    "adb": re.compile(r"[A-Za-z0-9_][\w.:-]*", re.ASCII),
}
_SAID = {
    "ssh": 'an address is "user@host", a host, or a name of ~/.ssh/config; a port is `port = 2222`',
    "adb": "`adb devices` lists the serial numbers",
}
_PROGRAM = re.compile(r"(?:~/)?[^\s-][^\0\n]*")


def called(node: tree.Domain) -> tree.Call | None:
    """The call that names a device, also one that is misspelt; None where the value is none."""
    if isinstance(node, tree.Path) and node.text in KINDS:
        return tree.Call(node.span, node, ())
    return node if isinstance(node, tree.Call) else None


def read(knobs: Knobs, node: tree.Call, around: Around) -> Later[RemoteDevice | None]:
    """The device that the call names; what is wrong with it is reported."""
    kind = node.path.text
    if kind not in KINDS:
        meant = closest(kind, KINDS)
        knobs.diagnostics.error(
            "E302", f"`{kind}` is no device", node.path.span, "not a device",
            help=f"did you mean `{EXAMPLES[meant]}`?" if meant else f"write `{EXAMPLES['ssh']}` or a word: cpu, cuda, "
            "browser",
        )
        return lambda: None
    block = tree.Block(node.span, tuple(_settings(node, knobs.diagnostics)))
    made = settings_of(knobs, f"`{kind}`", KINDS[kind], block, around.below("device"), node.path.span)

    searched = [item for item in node.arguments if isinstance(item, tree.Vary)]
    for item in searched:
        knobs.diagnostics.error(
            "E206", "the device of a target is fixed", item.span, "a knob",
            help="write a target for each device: every trial is built and measured on all of them",
        )

    def build() -> RemoteDevice | None:
        found = {name: setting for name, setting in made().items() if isinstance(setting, Fixed)}
        if searched or "address" not in found:
            return None
        return _Checked(kind, node, knobs.diagnostics).device(found)

    return build


def _settings(node: tree.Call, diagnostics: Diagnostics) -> Iterator[tree.Statement]:
    """The arguments as settings; what stands alone and first is the address."""
    for number, item in enumerate(node.arguments):
        if isinstance(item, tree.Fix | tree.Vary):
            yield item
        elif number == 0:
            yield tree.Fix(item.span, tree.Name(item.span, "address"), item)
        else:
            diagnostics.error(
                "E302", f"`{node.path.text}` is given one address, and the rest by name", item.span, "which argument?",
                help=f"as in `{EXAMPLES['ssh'][:-1]}, port = 2222)`",
            )


def is_address(kind: str, text: str) -> bool:
    """Whether a device of this kind can have the address: it is no option of the client's, and no shell's text."""
    return _ADDRESSES[kind].fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class _Checked:
    kind: str
    node: tree.Call
    diagnostics: Diagnostics

    def device(self, found: dict[str, Fixed]) -> RemoteDevice | None:
        address = str(found["address"].value)
        if not is_address(self.kind, address):
            self._wrong("address", f'"{address}" is no address for `{self.kind}`', _SAID[self.kind])
            return None
        python, folder = (str(found[name].value) if name in found else "" for name in ("python", "folder"))
        for name, text in (("python", python), ("folder", folder)):
            if text and _PROGRAM.fullmatch(text) is None:
                self._wrong(name, f'"{text}" is no path', "a path does not begin with `-`, and is one line")
                return None
        port = found["port"].value if "port" in found else None
        kind: Literal["ssh", "adb"] = "ssh" if self.kind == "ssh" else "adb"
        return RemoteDevice(kind, address, port if isinstance(port, int) else None, python or "python3", folder)

    def _wrong(self, name: str, message: str, advice: str) -> None:
        given = next(
            (item.value for item in self.node.arguments if isinstance(item, tree.Fix) and item.name.text == name),
            self.node.arguments[0],
        )
        self.diagnostics.error("E302", message, given.span, "not accepted", help=advice)


def reconnect(
    setting: Setting | None, written: tree.Statement | None, remote: RemoteDevice | None, diagnostics: Diagnostics
) -> float:
    """The seconds that a target says; it is an error where the target is this machine, or where they are searched."""
    if written is not None and remote is None:
        diagnostics.error(
            "E302", "`reconnect` is for targets on another machine", written.span, "of what?",
            help=f"take it away, or write `device = {EXAMPLES['ssh']}`",
        )
    elif written is not None and not isinstance(setting, Fixed):
        diagnostics.error("E206", "`reconnect` is fixed", written.span, "a knob", help="write `reconnect = 2min`")
    value = setting.value if isinstance(setting, Fixed) else None
    return float(value) if isinstance(value, int | float) else 120.0
