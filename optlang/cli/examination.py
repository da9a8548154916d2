"""What can run here: the library's runtimes, the packages, the machine, optlang's files. Imports no runtime.

It reads what is declared and what is installed, starts no process and changes nothing. A package that is installed and
fails when it is imported is not seen: importing them all takes longer than people wait for an answer.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from optlang import resources
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


@dataclasses.dataclass(frozen=True, slots=True)
class Package:
    """A package that optlang needs: the requirement, the installed version, and whether that fits.

    `installed` is None where it is absent, "" where its module is there and its version unknown.
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
    def status(self) -> str:
        """How far it goes here, in two words."""
        return "ready" if self.ready else "builds only" if self.reason is None else "not ready"


@dataclasses.dataclass(frozen=True, slots=True)
class PluginModule:
    """A module for studies from another distribution; `file` is None where its entry point leads to none."""

    name: str
    distribution: str
    version: str
    file: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class DiskUsage:
    """A file or a folder: `bytes` is None where there is nothing, and a part of them where `whole` is False."""

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
    gpus: tuple[str, ...]
    gpu_missing: str | None
    runtimes: tuple[RuntimeState, ...]
    modules: tuple[PluginModule, ...]
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
    """Examine this installation and this machine. `db` and `home` are where a run would keep its results and files."""
    from optlang.measure.lock import held
    from optlang.measure.machine import described, machine_lock
    from optlang.run import machine
    from optlang.runtimes.shared import nvidia, processor
    from optlang.runtimes.torch import compiler
    from optlang.store.lock import holder

    packages = tuple(_packages(_requirements()))
    problems = [
        Fault(f"{item.requirement} is missing", f'pip install "{item.requirement}"')
        for item in packages if item.installed is None
    ]
    warnings = [
        Fault(f"{item.requirement} is required, {item.installed} is installed", f'pip install "{item.requirement}"')
        for item in packages if item.installed is not None and not item.fits
    ]
    if _version(_NAMESAKE) is not None:
        warnings.append(Fault(
            f"the distribution {_NAMESAKE}, another project, writes into the same folder as {DISTRIBUTION}",
            f"pip uninstall {_NAMESAKE} && pip install --force-reinstall {DISTRIBUTION}",
        ))
    runtimes: tuple[RuntimeState, ...] = ()
    try:
        runtimes = tuple(_state(runtime) for runtime in declared())
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
        optlang=_version(DISTRIBUTION), machine=described(), instructions=processor.instructions(),
        overflows=processor.overflows(), compiler=compiler.found(),
        gpus=nvidia.names(), gpu_missing=nvidia.torch_missing(), runtimes=runtimes, modules=modules,
        packages=packages, measuring=measuring,
        database=DiskUsage(str(db), db.stat().st_size if db.is_file() else None), writer=holder(db),
        cache=disk_usage(folder / "cache"), artifacts=disk_usage(folder / "artifacts"),
        free=shutil.disk_usage(_existing(folder)).free, warnings=tuple(warnings), problems=tuple(problems),
    )


# ---- runtimes


def declared() -> Iterator[Runtime]:
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
    versions = (_distribution(root) for root in roots if root != "optlang")
    packages = {found[0]: found[1] for found in versions if found is not None}
    return RuntimeState(name, runtime.help, None, packages, unrun.reason if isinstance(unrun, Failure) else unrun)


def _distribution(module: str) -> tuple[str, str] | None:
    """The distribution that a module comes from, and its version; `onnxruntime` may come with `onnxruntime-gpu`."""
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
                yield Fault(f"{runtime.name} requires {said}, {version} is installed", f'pip install "{said}"')


def _modules() -> Iterator[PluginModule]:
    from optlang.analysis.modules.plugins import plugins

    for item in plugins():
        file = str(item.file) if item.file is not None else None
        yield PluginModule(item.name, item.distribution, item.version, file)


def _unreachable(modules: tuple[PluginModule, ...]) -> Iterator[Fault]:
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


def disk_usage(folder: Path, seconds: float = _COUNTING) -> DiskUsage:
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
