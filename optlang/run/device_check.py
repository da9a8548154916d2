"""What is missing on a target's device: asked before anything is trained, by a run and by `optlang device check`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from optlang.interfaces import JSON, RemoteDevice
from optlang.measure.remote import phone
from optlang.measure.remote.connection import Connection
from optlang.measure.remote.faults import DeviceError
from optlang.plan.model import Plan, RuntimeUse, Target
from optlang.plan.quantities import in_bytes
from optlang.workload import imports

LEAST = 100_000_000
"""Bytes that must be free over there: below, a model or its inputs may find no room."""

FEW = 1_000_000_000
HOT = 80.0
"""Degrees Celsius from which boards slow their processor down."""

State = Literal["ok", "warning", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `about` what, how it is, and what to do where it is not well."""

    about: str
    state: State
    said: str
    help: str | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found. `facts` are None where the device cannot be used at all, `unavailable` why a runtime (by the path
    or name that was asked for) cannot run there; `error` is what kept it from being asked."""

    device: RemoteDevice
    facts: Mapping[str, Any] | None
    findings: tuple[Finding, ...]
    unavailable: Mapping[str, str]
    error: DeviceError | None = None

    @property
    def ready(self) -> bool:
        """Whether something can be measured there: nothing that all runtimes need is missing."""
        return self.error is None and not any(
            item.state == "missing" and item.about not in self.unavailable for item in self.findings
        )

    def about(self) -> dict[str, JSON]:
        """What is stored of the device with a session."""
        facts = self.facts or {}
        return {"device": str(self.device), **{name: item for name, item in facts.items() if name not in _PASSING}}


# They say how it is at this moment, or are long.
_PASSING = frozenset({"instructions", "free", "folder"})


def check(device: RemoteDevice, runtimes: Mapping[str, Sequence[str]], threads: int | None = None) -> Checked:
    """Connect to the device and look. `runtimes` are the modules that each one imports, by the name to report."""
    if device.kind == "adb":
        return _check_phone(device, list(runtimes))
    wanted = sorted({"numpy", *(module for modules in runtimes.values() for module in modules)})
    try:
        connection = Connection(device)
        try:
            facts = connection.facts(wanted)
        finally:
            connection.close()
    except DeviceError as error:
        return Checked(device, None, (Finding("connection", "missing", error.message, error.help),), {}, error)
    packages = list(_packages(facts, runtimes))
    unavailable = {item.about: item.said for item in packages if item.state == "missing" and item.about in runtimes}
    findings = (
        Finding("connection", "ok", f"{device}, {facts['system']}"),
        Finding("processor", "ok", f"{facts['processor']}, {facts['architecture']}"),
        Finding("python", "ok", f"{facts['python']}, {facts['executable']}"), *packages,
        *_capacity(facts, threads), *_speed(facts),
    )
    return Checked(device, facts, findings, unavailable)


def _check_phone(device: RemoteDevice, runtimes: Sequence[str]) -> Checked:
    try:
        known = phone.facts(device)
    except DeviceError as error:
        return Checked(device, None, (Finding("connection", "missing", error.message, error.help),), {}, error)
    where = f"{known['folder']}/{phone.RUNNER}"
    said = f"{where} is not there, or cannot be executed"
    findings = (
        Finding("connection", "ok", f"{device}, {known['model']}, {known['system']}"),
        Finding("processor", "ok", f"{known['processor']}, {known['architecture']}"),
        *(
            Finding(name, "ok", where) if known["runner"] else
            Finding(name, "missing", said, f"build {phone.RUNNER} for Android, `adb push` it there and `chmod +x` it")
            for name in runtimes
        ),
        *_capacity(known, None), *_speed(known),
    )
    return Checked(device, known, findings, {} if known["runner"] else dict.fromkeys(runtimes, said))


def check_target(plan: Plan, target: Target, folder: Path) -> Checked:
    """The check of a target that is on another machine; its runtimes are asked for by their paths."""
    assert target.remote is not None
    threads = target.threads.value if target.threads.kind == "fixed" else None
    runtimes = {use.path: _modules(plan, use, folder) for use in target.runtimes}
    return check(target.remote, runtimes, threads if isinstance(threads, int) else None)


def named(found: Checked, target: Target) -> Checked:
    """The same with the runtimes by their labels, as people read it."""
    labels = {use.path: use.label for use in target.runtimes}
    findings = tuple(replace(item, about=labels.get(item.about, item.about)) for item in found.findings)
    return replace(
        found, findings=findings, unavailable={labels.get(key, key): why for key, why in found.unavailable.items()}
    )


def _modules(plan: Plan, use: RuntimeUse, folder: Path) -> tuple[str, ...]:
    return tuple(getattr(imports.find(plan.runtime(use.runtime).calls, folder), "imports", ()))


def _packages(facts: Mapping[str, Any], runtimes: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    found: Mapping[str, str | None] = facts["packages"]
    if found["numpy"] is None:
        yield Finding("numpy", "missing", "numpy is not installed there", _install(facts, "numpy"))
    else:
        yield Finding("numpy", "ok", found["numpy"])
    for name, modules in runtimes.items():
        by_root = {module.partition(".")[0]: found[module] for module in modules}
        absent = [_distribution(root) for root, version in by_root.items() if version is None]
        if absent:
            said = f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed there"
            yield Finding(name, "missing", said, _install(facts, *absent))
            continue
        versions = ", ".join(f"{_distribution(root)} {version}".strip() for root, version in by_root.items())
        others = [
            f"{_distribution(root)} {own}" for root, version in by_root.items()
            if (own := _own(root)) is not None and version and own.partition("+")[0] != version.partition("+")[0]
        ]
        if others:
            yield Finding(
                name, "warning", f"{versions}; files are made and proved here with {', '.join(others)}",
                "the same version on both sides is the surest",
            )
        else:
            yield Finding(name, "ok", versions)


def _capacity(facts: Mapping[str, Any], threads: int | None) -> Iterator[Finding]:
    free, cores = facts["free"], facts["cores"]
    state: State = "missing" if free < LEAST else "warning" if free < FEW else "ok"
    yield Finding(
        "space", state, f"{in_bytes(free)} free in {facts['folder']}",
        None if state == "ok" else "make room there, or name another folder: `folder = \"PATH\"` of the device",
    )
    memory = "unknown" if facts["memory"] is None else in_bytes(facts["memory"])
    if threads is not None and threads > cores:
        yield Finding(
            "cores", "warning", f"{cores}, and the target asks for {threads} threads", f"`threads = {cores}`"
        )
    else:
        yield Finding("cores", "ok", f"{cores}, memory {memory}")


def _speed(facts: Mapping[str, Any]) -> Iterator[Finding]:
    """What makes its times change from one moment to the next."""
    governors, temperature, clock = facts["governors"], facts["temperature"], facts["clock"]
    if not governors:
        yield Finding("governor", "ok", "the system does not say")
    elif governors == ["performance"]:
        yield Finding("governor", "ok", "performance")
    else:
        yield Finding(
            "governor", "warning", f"{', '.join(governors)}: the clock follows the load, and times vary with it",
            "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        )
    if clock is not None and clock < 0.99:
        yield Finding(
            "clock", "warning", f"kept below {clock:.0%} of its highest", "let the device cool down, or lift the limit"
        )
    if temperature is None:
        yield Finding("temperature", "ok", "the system does not say")
    elif temperature >= HOT:
        yield Finding("temperature", "warning", f"{temperature:.0f} °C: it slows down", "let it cool down")
    else:
        yield Finding("temperature", "ok", f"{temperature:.0f} °C")


def _install(facts: Mapping[str, Any], *names: str) -> str:
    return f"over there: {facts['executable']} -m pip install {' '.join(names)}"


def _distribution(root: str) -> str:
    return root.replace("_", "-")


def _own(root: str) -> str | None:
    try:
        return metadata.version(_distribution(root))
    except metadata.PackageNotFoundError:
        return None
