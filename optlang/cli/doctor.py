"""What can run here: the library's runtimes, the packages, the machine, where optlang's files lie. Imports no runtime.

It reads what is declared and what is installed, starts no process and changes nothing. A package that is installed and
fails when it is imported is not seen: importing them all takes longer than people wait for an answer.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from optlang import resources
from optlang.cli.exits import OUTSIDE
from optlang.cli.options import DEFAULT_DB, Db, Home, Page, PageFormat
from optlang.interfaces import JSON, OptlangError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from optlang.plan.model import Runtime
    from optlang.runtimes.shared.processor import Instructions

DISTRIBUTION = "optlang-dsl"
_NAMESAKE = "optlang"
"""Symbolic optimization: its package has the name of ours."""

# The modules of distributions whose names say another one.
_MODULES = {"scikit-learn": "sklearn"}
_COUNTING = 0.5
"""Seconds that the files of one folder are counted for: a cache may hold millions."""


def doctor(db: Db = DEFAULT_DB, home: Home = None, format: Page = PageFormat.text) -> int:
    """Show what can run here and what to install: runtimes, packages, processor, cache, disk. Imports none of them."""
    found = examine(db, home)
    sys.stdout.write(found.json() if format is PageFormat.json else page(found))
    return OUTSIDE if found.problems else 0


@dataclasses.dataclass(frozen=True, slots=True)
class Package:
    """A package that optlang cannot do without: what it asks for, the version that is there, and whether that fits.

    `installed` is None where it is absent, "" where its module is there and no version is known.
    """

    requirement: str
    installed: str | None
    fits: bool


@dataclasses.dataclass(frozen=True, slots=True)
class RuntimeState:
    """A declared runtime: why it cannot build here (None where it can), and the versions of the packages it runs on.

    `unrun` says of one that builds here why what it builds cannot run here.
    """

    name: str
    help: str
    reason: str | None
    packages: dict[str, str]
    unrun: str | None = None

    @property
    def ready(self) -> bool:
        """Whether it builds and runs here."""
        return self.reason is None and self.unrun is None

    @property
    def said(self) -> str:
        """In two words how far it goes here."""
        return "ready" if self.ready else "builds only" if self.reason is None else "not ready"


@dataclasses.dataclass(frozen=True, slots=True)
class Brought:
    """A module for studies that another distribution brings; `file` is None where its entry point leads to none."""

    name: str
    distribution: str
    version: str
    file: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class DiskUsage:
    """A file or a folder; `bytes` is None where there is nothing, `whole` tells a sum from as far as it was counted."""

    path: str
    bytes: int | None
    whole: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong and what to do about it."""

    message: str
    help: str


@dataclasses.dataclass(frozen=True, slots=True)
class Examination:
    """All of it. `problems` make optlang unusable, `warnings` may; sizes are in bytes.

    `instructions` is None where the system does not say; `overflows` is whether a bit of int8 weights stays unused
    here; `writer` is the process that writes to the database, `measuring` whether a measurement goes on.
    """

    optlang: str | None
    machine: dict[str, JSON]
    instructions: Instructions | None
    overflows: bool
    compiler: str | None
    runtimes: tuple[RuntimeState, ...]
    modules: tuple[Brought, ...]
    packages: tuple[Package, ...]
    measuring: bool
    database: DiskUsage
    writer: int | None
    cache: DiskUsage
    artifacts: DiskUsage
    free: int
    warnings: tuple[Fault, ...]
    problems: tuple[Fault, ...]

    def json(self) -> str:
        """One JSON document; a runtime says `ready` too."""
        document = dataclasses.asdict(self)
        for item, runtime in zip(document["runtimes"], self.runtimes, strict=True):
            item["ready"] = runtime.ready
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def examine(db: Path, home: Path | None = None) -> Examination:
    """Look at this installation and this machine. `db` and `home` are where a run would keep its results and files."""
    from optlang.measure.lock import held, machine_lock
    from optlang.run import machine
    from optlang.runtimes.shared import processor
    from optlang.runtimes.torch import compiler
    from optlang.store.lock import holder

    packages = tuple(_packages(_requirements()))
    problems = [
        Fault(f"{item.requirement} is missing", f'pip install "{item.requirement}"')
        for item in packages if item.installed is None
    ]
    warnings = [
        Fault(f"{item.requirement} is asked for, {item.installed} is installed", f'pip install "{item.requirement}"')
        for item in packages if item.installed is not None and not item.fits
    ]
    if _version(_NAMESAKE) is not None:
        warnings.append(Fault(
            f"the distribution {_NAMESAKE}, another project, writes into the same folder as {DISTRIBUTION}",
            f"pip uninstall {_NAMESAKE} && pip install --force-reinstall {DISTRIBUTION}",
        ))
    runtimes: tuple[RuntimeState, ...] = ()
    try:
        runtimes = tuple(_state(runtime) for runtime in _declared())
    except ModuleNotFoundError:
        # Reading declarations takes packages of its own: that one is missing is said above.
        if not problems:
            raise
    except FileNotFoundError as error:
        problems.append(Fault(str(error), f"pip install --force-reinstall {DISTRIBUTION}"))
    warnings += _misfits(runtimes)
    modules = tuple(_modules())
    warnings += _unreachable(modules)
    measuring = False
    try:
        measuring = held(machine_lock())
    except OptlangError as error:
        problems.append(Fault(error.message, error.help or ""))
    folder = machine.home_of(db, home)
    return Examination(
        optlang=_version(DISTRIBUTION), machine=machine.machine(), instructions=processor.instructions(),
        overflows=processor.overflows(), compiler=compiler.found(), runtimes=runtimes, modules=modules,
        packages=packages, measuring=measuring,
        database=DiskUsage(str(db), db.stat().st_size if db.is_file() else None), writer=holder(db),
        cache=counted(folder / "cache"), artifacts=counted(folder / "artifacts"),
        free=shutil.disk_usage(_existing(folder)).free, warnings=tuple(warnings), problems=tuple(problems),
    )


# ---- runtimes


def _declared() -> Iterator[Runtime]:
    """The facts of every runtime that the library declares."""
    from optlang.analysis.declarations import Declarations
    from optlang.analysis.modules.library import library
    from optlang.analysis.modules.names import Scope
    from optlang.diagnostics.model import Diagnostics

    modules, _ = library()
    facts = Declarations(Diagnostics(), lambda declared: Scope(declared.module, modules))
    for module in modules.values():
        yield from (facts.runtime(item) for item in module.declared.values() if item.sort == "runtime")


def _state(runtime: Runtime) -> RuntimeState:
    from optlang.run.job import Failure, RuntimeJob
    from optlang.run.worker import availability, running
    from optlang.workload import imports

    name = runtime.name.rpartition(".")[2]
    folder = resources.stdlib()
    job = RuntimeJob(name, runtime.calls, {}, folder)
    reason = availability(job)
    if reason is not None:
        return RuntimeState(name, runtime.help, reason.reason if isinstance(reason, Failure) else reason, {})
    unrun = running(job)
    imported = getattr(imports.find(runtime.calls, folder), "imports", ())
    roots = dict.fromkeys(str(item).partition(".")[0] for item in imported)
    versions = (_brought(root) for root in roots if root != "optlang")
    packages = {found[0]: found[1] for found in versions if found is not None}
    return RuntimeState(name, runtime.help, None, packages, unrun.reason if isinstance(unrun, Failure) else unrun)


def _brought(module: str) -> tuple[str, str] | None:
    """The distribution that brings a module, and its version; `onnxruntime` may come with `onnxruntime-gpu`."""
    version = _version(module)
    if version is not None:
        return module, version
    for name in metadata.packages_distributions().get(module, ()):
        return name, metadata.version(name)
    return None


def _misfits(runtimes: Iterable[RuntimeState]) -> Iterator[Fault]:
    """Packages of runtimes that are there in a version that the runtime's extra does not ask for."""
    asked = {item.name: item for item in _requirements(extras=True)}
    for runtime in runtimes:
        for name, version in runtime.packages.items():
            requirement = asked.get(name)
            if requirement is not None and not _fits(requirement, version):
                said = _text(requirement)
                yield Fault(f"{runtime.name} asks for {said}, {version} is installed", f'pip install "{said}"')


def _modules() -> Iterator[Brought]:
    from optlang.analysis.modules.plugins import plugins

    for item in plugins():
        file = str(item.file) if item.file is not None else None
        yield Brought(item.name, item.distribution, item.version, file)


def _unreachable(modules: tuple[Brought, ...]) -> Iterator[Fault]:
    """Modules that no study can import: of a name that another has, or without their file."""
    own = {path.stem for path in resources.stdlib().glob("*.opt")}
    for item in modules:
        others = [other.distribution for other in modules if other.name == item.name and other is not item]
        if item.name in own:
            others.append("the standard library")
        if others:
            message = f"{item.distribution} brings a module `{item.name}`, and so does {others[0]}"
            yield Fault(message, f"pip uninstall {item.distribution}")
        elif item.file is None:
            message = f"{item.distribution} brings a module `{item.name}`, whose file is not there"
            yield Fault(message, f"pip install --force-reinstall {item.distribution}")


# ---- packages


def _requirements(*, extras: bool = False) -> list[Requirement]:
    """What optlang's own installation says that it needs: always, or with one of its extras."""
    try:
        from packaging.requirements import Requirement

        found = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    except (ModuleNotFoundError, metadata.PackageNotFoundError):
        return []
    return [item for item in found if ("extra" in str(item.marker)) is extras]


def _packages(requirements: Iterable[Requirement]) -> Iterator[Package]:
    if importlib.util.find_spec("packaging") is None:
        # Versions are compared with it, and Optuna does not start without.
        lines = metadata.requires(DISTRIBUTION) or ()
        yield Package(next((line for line in lines if line.startswith("packaging")), "packaging"), None, False)
    for item in requirements:
        if item.marker is not None and not item.marker.evaluate():
            continue
        module = _MODULES.get(item.name, item.name.replace("-", "_"))
        version = _version(item.name)
        there = importlib.util.find_spec(module) is not None
        installed = (version or "") if there else None
        yield Package(_text(item), installed, there and (version is None or _fits(item, version)))


def _fits(requirement: Requirement, version: str) -> bool:
    return requirement.specifier.contains(version, prereleases=True)


def _text(requirement: Requirement) -> str:
    """As people write it: the lower bound first."""
    bounds = sorted(str(item) for item in requirement.specifier)
    return requirement.name + ",".join(sorted(bounds, key=lambda item: item.startswith(("<", "!"))))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


# ---- files


def counted(folder: Path, seconds: float = _COUNTING) -> DiskUsage:
    """The bytes of the files in a folder, as many as can be counted in `seconds`."""
    if not folder.is_dir():
        return DiskUsage(str(folder), None)
    end = time.monotonic() + seconds
    total = 0
    for size in _sizes(folder):
        total += size
        if time.monotonic() > end:
            return DiskUsage(str(folder), total, whole=False)
    return DiskUsage(str(folder), total)


def _sizes(folder: Path | str) -> Iterator[int]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _sizes(entry.path)
                else:
                    yield entry.stat(follow_symlinks=False).st_size
    except OSError:
        return  # a run that goes on moves and deletes what it no longer needs


def _existing(path: Path) -> Path:
    """The nearest folder that is there already."""
    return next(item for item in (path, *path.parents) if item.is_dir())


# ---- as text


def page(found: Examination) -> str:
    """What `optlang doctor` prints: a line a fact, what is wrong last."""
    from optlang.plan.quantities import in_bytes

    about = found.machine
    memory = about["memory"]
    sections: list[tuple[str, list[tuple[str, ...]]]] = [
        ("Runtimes", [
            (item.name, item.said,
             item.reason or item.unrun or ", ".join(f"{name} {version}" for name, version in item.packages.items()))
            for item in found.runtimes
        ]),
        ("Modules", [
            (item.name, f"{item.distribution} {item.version}", item.file or "its file is not there")
            for item in found.modules
        ]),
        ("Machine", [
            ("processor", str(about["processor"])),
            ("int8", _int8(found)),
            ("bfloat16", _bfloat16(found)),
            ("cores", f"{about['cores']} for this process"),
            ("memory", in_bytes(memory) if isinstance(memory, int) else "unknown"),
            ("C++ compiler", found.compiler or "none: torch.compile needs g++, or the compiler that CXX names"),
            ("measuring", "a run measures now: others wait for their turn" if found.measuring else "nothing now"),
        ]),
        ("Files", [
            ("database", _place(found.database) + (f", process {found.writer} writes to it" if found.writer else "")),
            ("cache", _place(found.cache)),
            ("artifacts", _place(found.artifacts)),
            ("free", f"{in_bytes(found.free)} on that disk"),
        ]),
    ]
    title = f"optlang {found.optlang or 'from a folder, not installed'}, Python {about['python']}, {about['system']}\n"
    parts = [title, *(f"{name}\n{_columns(rows)}" for name, rows in sections if rows)]
    for name, faults in (("Warnings", found.warnings), ("Problems", found.problems)):
        if faults:
            parts.append(f"{name}\n" + "".join(f"  {item.message}\n    = help: {item.help}\n" for item in faults))
    if found.packages and all(item.fits for item in found.packages):
        parts.append(f"All {len(found.packages)} packages that optlang needs are installed.\n")
    return "\n".join(parts)


def _columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]) - 1)]
    return "".join(
        "  " + "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False)) + row[-1] + "\n"
        for row in rows
    )


def _int8(found: Examination) -> str:
    if found.instructions is None:
        known = "the system does not say which instructions it has"
    else:
        known = ", ".join(found.instructions.int8) or "no instructions of its own"
    return f"{known}; a bit of the weights stays unused, since sums would overflow" if found.overflows else known


def _bfloat16(found: Examination) -> str:
    if found.instructions is None:
        return "the system does not say which instructions it has"
    return ", ".join(found.instructions.bfloat16) or "no instructions of its own: no faster than float32"


def _place(place: DiskUsage) -> str:
    from optlang.plan.quantities import in_bytes

    if place.bytes is None:
        return f"{place.path}, nothing there yet"
    return f"{place.path}, {'' if place.whole else 'more than '}{in_bytes(place.bytes)}"
