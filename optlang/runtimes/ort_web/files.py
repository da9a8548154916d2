"""The files of onnxruntime-web: where they lie, and how they come there. Nothing is fetched unless it is asked for.

`python -m optlang.runtimes.ort_web.files` fetches the npm package with npm, which checks what it gets, and keeps what
the runtime needs of it (42 MB) in this user's cache; `--from FILE` takes a package that was fetched by other means.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from optlang.interfaces import OptlangError, OutsideError
from optlang.runtimes.ort_web.browser import caches

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
"""What is fetched where no other version is asked for: the one that the runtime was tried with."""

VARIABLE = "OPTLANG_ORT_WEB"
"""The environment's variable that names a folder of these files."""

LIBRARIES = {"wasm": "ort.wasm.min.mjs", "webgpu": "ort.webgpu.min.mjs"}
_COMPILED = {"wasm": "ort-wasm-simd-threaded", "webgpu": "ort-wasm-simd-threaded.asyncify"}
COMMAND = "python -m optlang.runtimes.ort_web.files"
_WAIT = 600.0
"""Seconds that npm may take."""


def names(provider: str) -> tuple[str, ...]:
    """The files that a page needs for a provider, the library first."""
    compiled = _COMPILED[provider]
    return LIBRARIES[provider], f"{compiled}.mjs", f"{compiled}.wasm"


ALL = tuple(dict.fromkeys(name for provider in LIBRARIES for name in names(provider)))


def cached(version: str = VERSION) -> Path:
    """Where a fetched version lies, or would."""
    return caches() / "optlang" / f"{PACKAGE}-{version}"


def folder() -> Path | None:
    """The folder with the files: what the environment names, else this user's cache; None where neither is there.

    OptlangError where the environment names a folder that has not got them. It may be the package or its `dist`.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        place = cached()
        return place if _whole(place) else None
    for place in (Path(named), Path(named) / "dist"):
        if _whole(place):
            return place
    absent = next(name for name in names("wasm") if not (Path(named) / name).is_file())
    raise OptlangError(f"{VARIABLE} names {named}, where there is no {absent}")


def _whole(place: Path) -> bool:
    # Who runs models on the processor alone need not have what WebGPU needs.
    return all((place / name).is_file() for name in names("wasm"))


def version(place: Path) -> str:
    """The version of the files in a folder, by the package's own description; "unknown" without one."""
    for described in (place / "package.json", place.parent / "package.json"):
        try:
            found = json.loads(described.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if found.get("name") == PACKAGE:
            return str(found.get("version", "unknown"))
    return "unknown"


def fetch(wanted: str = VERSION) -> Path:
    """Have npm fetch the package and keep its files in the cache; the folder. OutsideError where that fails."""
    npm = shutil.which("npm")
    if npm is None:
        raise OutsideError(
            f"npm, which downloads {PACKAGE}, was not found",
            help=f"install Node.js; or get {PACKAGE}-{wanted}.tgz in another way and pass --from FILE",
        )
    with tempfile.TemporaryDirectory(prefix="optlang-npm-") as aside:
        try:
            done = subprocess.run(
                [npm, "pack", f"{PACKAGE}@{wanted}", "--pack-destination", aside],
                capture_output=True, text=True, cwd=aside, timeout=_WAIT, check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise OutsideError(f"npm fetched nothing for {_WAIT:.0f} s") from error
        packed = list(Path(aside).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            said = [line for line in done.stderr.strip().splitlines() if "notice" not in line]
            raise OutsideError(f"npm does not fetch {PACKAGE} {wanted}: {said[0] if said else 'it does not say why'}")
        return unpack(packed[0])


def unpack(packed: Path) -> Path:
    """Keep the files of a package that lies here in the cache; the folder. OutsideError where it is another thing."""
    try:
        with tarfile.open(packed) as archive:
            described = json.loads(_read(archive, "package/package.json"))
            if described.get("name") != PACKAGE:
                raise OutsideError(f"{packed} is the package {described.get('name')}, not {PACKAGE}")
            place = cached(str(described["version"]))
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f"{place.name}.", dir=place.parent) as aside:
                made = Path(aside) / "files"
                made.mkdir()
                (made / "package.json").write_bytes(_read(archive, "package/package.json"))
                for name in ALL:
                    (made / name).write_bytes(_read(archive, f"package/dist/{name}"))
                shutil.rmtree(place, ignore_errors=True)
                made.rename(place)
    except (OSError, tarfile.TarError, ValueError, KeyError) as error:
        raise OutsideError(f"{packed} cannot be unpacked: {error}") from error
    return place


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is no file")
    with file:
        return file.read()


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or what the error's exit code is."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Fetch the files of onnxruntime-web into the cache.")
    parser.add_argument("--version", default=VERSION, help=f"which one (default: {VERSION})")
    parser.add_argument("--from", dest="packed", type=Path, metavar="FILE", help="a package that lies here already")
    given = parser.parse_args(arguments)
    try:
        place = unpack(given.packed) if given.packed else fetch(given.version)
    except OptlangError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"  = help: {error.help}\n" if error.help else ""))
        return error.exit_code
    sys.stdout.write(f"{place}\n")
    if place != cached():
        sys.stdout.write(f"set {VARIABLE} to use it instead of {PACKAGE} {VERSION}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
