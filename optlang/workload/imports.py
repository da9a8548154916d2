"""Finds the Python objects that declarations and studies name, and says whose fault it is when they fail.

It knows modules and files, not what the objects do.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from optlang.diagnostics.suggest import closest
from optlang.interfaces import OptlangError
from optlang.workload import sources

# Folders below the study's that hold other people's code.
_FOREIGN = frozenset({"site-packages", "dist-packages"})
# sys.modules is one for the process, and so is whose modules it holds.
_lock = threading.RLock()
_current: Path | None = None
_set_aside: dict[Path, dict[str, ModuleType]] = {}
# How torch tells what a DataLoader's worker raised: the whole traceback in the message.
_ELSEWHERE = re.compile(r"Caught \w+ in \S+ worker process \d+")
_FRAME = re.compile(r'^ *File "(.+)", line (\d+), in (.+)$', re.MULTILINE)
# Our own files are never the user's, though a study may lie at the root of a checkout.
_OWN = Path(__file__).resolve().parents[1]


class UserCodeError(OptlangError):
    """The user's own Python raised: `message` has the exception, `details` the user's frames and no others."""


def split(calls: str) -> tuple[str, str]:
    """The module (or file) and the object that `calls` names; OptlangError where it is not "module:object"."""
    module, colon, name = calls.rpartition(":")
    if not colon or not module or not name:
        raise OptlangError(
            f"`{calls}` names no object", help='write "package.module:object", or "file.py:object" for your own'
        )
    return module, name


def is_file(calls: str) -> bool:
    """Whether `calls` names a file in the study's folder rather than an installed module."""
    return split(calls)[0].endswith(".py")


def user_file(name: str, study: Path) -> Path:
    """The file `name` in the study's folder; OptlangError where it is outside of it or absent."""
    folder = study.resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise OptlangError(f"{name} lies outside the study's folder {study}", help="move it into that folder")
    if not path.is_file():
        raise OptlangError(
            f"there is no file {name} in {study}",
            help="Python files are looked for in the study's folder",
        )
    return path


@contextlib.contextmanager
def at_home(study: Path) -> Iterator[None]:
    """The study's folder first on `sys.path`, and the modules of other studies' folders out of the way.

    Two studies may both have a `models.py`: each finds its own, though one process loads both.
    """
    global _current
    folder = study.resolve()
    entry = str(folder)
    with _lock:
        if _current != folder:
            if _current is not None:
                names = [name for name, module in sys.modules.items() if _belongs(module, _current)]
                _set_aside[_current] = {name: sys.modules.pop(name) for name in names}
            sys.modules.update(_set_aside.pop(folder, {}))
            _current = folder
    # A bytecode file is trusted when size and second agree: an edit within a second would go unseen.
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.dont_write_bytecode = written
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


def _belongs(module: Any, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        places = list(getattr(module, "__path__", None) or [])  # a package without __init__.py
        file = places[0] if places and isinstance(places[0], str) else None
    return isinstance(file, str) and _is_users(file, folder)


def _is_users(file: str, folder: Path) -> bool:
    above = folder.parts
    for parts in _parts(file):
        if parts[:len(above)] == above:
            return not _FOREIGN.intersection(parts[len(above):])
    return False


@functools.cache
def _parts(file: str) -> tuple[tuple[str, ...], ...]:
    """The parts of the path as it is written and as it resolves; none of one that is relative or optlang's own.

    Kept: every loaded module, thousands with torch, is looked at when a process turns to another study.
    """
    path = Path(file)
    real = path.resolve()
    return (path.parts, real.parts) if path.is_absolute() and not real.is_relative_to(_OWN) else ()


@contextlib.contextmanager
def user_code(what: str, study: Path) -> Iterator[None]:
    """Run the user's Python: its folder on `sys.path`, its exceptions reported as `UserCodeError`.

    `what` begins the message ("the data factory mine.load"). Errors that are optlang's own pass through as they are.
    """
    with at_home(study):
        try:
            yield
        except OptlangError:
            raise
        except (Exception, SystemExit) as error:
            raise told(what, error, study) from error


def told(what: str, error: BaseException, study: Path) -> UserCodeError:
    """The exception as a `UserCodeError`, with the frames that lie in the study's folder."""
    folder = study.resolve()
    lines: list[str] = []
    for frame in _frames(error):
        if _is_users(frame.filename, folder):
            lines.append(f"{_shown(frame.filename, folder)}:{frame.lineno}: in {frame.name}")
            if frame.line:
                lines.append(f"    {frame.line}")
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename, folder):
        lines.append(f"{_shown(error.filename, folder)}:{error.lineno}")
        if error.text:
            lines.append(f"    {error.text.strip()}")
        text = f"{type(error).__name__}: {error.msg}"
    else:
        text = "".join(traceback.format_exception_only(error)).strip()
        if _ELSEWHERE.search(text):
            text = text.splitlines()[-1].strip()
    place = next((line for line in reversed(lines) if not line.startswith("    ")), None)
    message = f"{what} raised {text}" + (f" ({place})" if place else "")
    absent = error.name if isinstance(error, ModuleNotFoundError) else None
    advice = f"install the package that provides {absent} in optlang's environment" if absent else None
    if "operator torchvision::" in text:
        advice = (
            "torchvision is built for another torch: install both from one index, "
            "for CPUs https://download.pytorch.org/whl/cpu"
        )
    return UserCodeError(message, help=advice, details="\n".join(lines))


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Where the exception comes from, the traceback of a DataLoader's worker process included, which is text."""
    frames = list(traceback.extract_tb(error.__traceback__))
    if _ELSEWHERE.search(str(error)):
        frames += [
            traceback.FrameSummary(found[1], int(found[2]), found[3]) for found in _FRAME.finditer(str(error))
        ]
    return frames


def users_file(file: str, study: Path) -> str | None:
    """How a file of the user's own Python is shown: by its path in the study's folder; None of any other file."""
    folder = study.resolve()
    return _shown(file, folder) if _is_users(file, folder) else None


def _shown(file: str, folder: Path) -> str:
    path = Path(file)
    for candidate in (path, path.resolve()):
        if candidate.is_relative_to(folder):
            return str(candidate.relative_to(folder))
    return file


def find(calls: str, study: Path) -> Any:
    """The object that `calls` names: "optlang.zoo.digits:cnn", or "models.py:net" for a file in the study's folder.

    A file is imported under the name that an `import` next to it would use, so both get the same module. Raises
    `UserCodeError` where importing fails, OptlangError where the object is not there.
    """
    place, name = split(calls)
    what = f"importing {place}"
    with user_code(what, study), _lock:
        if place.endswith(".py"):
            module = _import_file(user_file(place, study), study.resolve())
        else:
            try:
                module = importlib.import_module(place)
            except ModuleNotFoundError as error:
                if error.name is None or not (place + ".").startswith(error.name + "."):
                    raise
                raise OptlangError(
                    f"there is no module {place}", help=f"install the package that provides {error.name}"
                ) from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = closest(part, [item for item in vars(found) if not item.startswith("_")]) if hasattr(
                found, "__dict__"
            ) else None
            raise OptlangError(
                f"{place} has no `{name}`", help=f"did you mean `{near}`?" if near else "check what `calls` names"
            )
        found = getattr(found, part)
    return found


def _import_file(path: Path, folder: Path) -> ModuleType:
    parts = path.relative_to(folder).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    dotted = ".".join(parts)
    importlib.invalidate_caches()
    if all(part.isidentifier() for part in parts) and parts[0] not in sys.stdlib_module_names:
        loaded = sys.modules.get(parts[0])
        if loaded is None or _belongs(loaded, folder):
            module = importlib.import_module(dotted)
            if Path(module.__file__ or "").resolve() == path:
                return module
    # The name is taken by an installed module (or is no name at all): a stable one of our own.
    own = "study_" + "_".join(part if part.isidentifier() else part.encode().hex() for part in parts)
    known = sys.modules.get(own)
    if known is not None and Path(known.__file__ or "").resolve() == path:
        return known
    spec = importlib.util.spec_from_file_location(own, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[own]
        raise
    return module


def fingerprint(calls: str, study: Path) -> str:
    """What the code that `calls` names means, as a hash; found by reading, nothing is imported or run.

    It covers the syntax trees (comments and layout do not count) of its module and of every module that this one
    imports, however many imports away: from the study's folder for a file, from its own package for an installed
    object. Of a package in site-packages only the module and the version of its distribution count, since its files do
    not change without it. Raises `UserCodeError` for a file that is not Python.
    """
    place, _ = split(calls)
    try:
        return _fingerprint(calls, place, study.resolve())
    except SyntaxError as error:
        path = Path(error.filename or place)
        raise UserCodeError(f"{path.name} is not Python: {error}", details=f"{path}:{error.lineno}") from error


def _fingerprint(calls: str, place: str, folder: Path) -> str:
    digest = hashlib.sha256(calls.encode())
    if place.endswith(".py"):
        digest.update(_meaning(sources.reached(user_file(place, folder), folder), folder).encode())
        return digest.hexdigest()
    source = sources.file_of(place, [*sys.path, str(folder)])
    digest.update(f"\0{place}\0{_version(place.partition('.')[0])}".encode())
    if source is not None:
        package = place.partition(".")[0]
        # A checkout changes, and its version does not.
        kept = not source.resolve().is_relative_to(_OWN) and bool(_FOREIGN.intersection(source.parts))
        root = source.parents[len(place.split(".")) - (source.name != "__init__.py")]
        files = {source} if kept else sources.reached(source, root, package)
        digest.update(_meaning(files, root.resolve()).encode())
    return digest.hexdigest()


def _meaning(files: set[Path], root: Path) -> str:
    named = sorted((path.resolve(), path.stat().st_mtime_ns, path.stat().st_size) for path in files)
    return _meaning_of(tuple(named), root)


@functools.lru_cache(maxsize=256)
def _meaning_of(files: tuple[tuple[Path, int, int], ...], root: Path) -> str:
    digest = hashlib.sha256()
    for path, _time, _size in files:
        digest.update(f"\0{path.relative_to(root).as_posix()}\0{sources.meaning(path)}".encode())
    return digest.hexdigest()


@functools.cache
def _version(package: str) -> str:
    distributions = ["optlang-dsl"] if package == "optlang" else []
    distributions = distributions or importlib.metadata.packages_distributions().get(package, [])
    versions = []
    for name in sorted(set(distributions)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(versions)
